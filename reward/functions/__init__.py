"""Rewards, one per file; a name in YAML is a file name here, or the path of a Python file of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from data import open_folder
from data.errors import InputError
from data.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from data.rows import Item

    RewardFunction = Callable[[Sequence[Item], Sequence[str], Sequence[bool]], Tensor]


class Term(Settings):
    """One reward among several: its weight in the sum, and settings of its own."""

    weight: float = Field(1.0, description="Its scores are multiplied by this before they are added")
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the reward's own Config")


def _checked(terms: dict[str, float | Term]) -> dict[str, float | Term]:
    """Find every reward and check its settings before any work."""
    for name, term in terms.items():
        try:
            _config(find(name), term_of(term).settings)
        except (InputError, ValidationError) as error:
            raise ValueError(f"{name}: {error}") from error
    return terms


Terms = Annotated[dict[str, float | Term], AfterValidator(_checked)]


def learned_alone() -> dict[str, float | Term]:
    """The default: the reward model and nothing else."""
    return {"learned": 1.0}


def term_of(term: float | Term) -> Term:
    """A bare number is a weight."""
    return term if isinstance(term, Term) else Term(weight=term)


def own_files(terms: Mapping[str, Any]) -> list[Path]:
    """The Python files of the user's own among the names of rewards."""
    return [Path(name) for name in terms if name.endswith(".py")]


def find(name: str) -> ModuleType:
    """The module of a reward: a file of this folder by name, or a Python file by path.

    Raises:
        InputError: there is none, or it has no function `load`.
    """
    if not name.endswith(".py"):
        return open_folder.load("reward.functions", name)
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{name}: no such file; paths of own rewards start from the working directory")
    spec = spec_from_file_location(f"own_reward_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "load", None)):
        raise InputError(
            f"{name}: has no function load(config, context) that gives (items, completions, ended) -> scores"
        )
    return module


def _config(module: ModuleType, settings: Mapping[str, Any]) -> Any:
    model = getattr(module, "Config", Settings)
    return model(**settings)


@dataclass(frozen=True)
class Context:
    """What a reward may need: directories of finished reward stages, precision, device, a trunk in memory."""

    stages: tuple[Path, ...] = ()
    precision: str = "float32"
    device: str = "cpu"
    trunk: Any = None


def load_function(
    name: str,
    *,
    stage: Path | Sequence[Path] = (),
    precision: str = "float32",
    device: str = "cpu",
    trunk: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> RewardFunction:
    """Load a reward by name: a function (items, completions, ended) -> scores (batch,) in float32.

    Args:
        name: a file name in this folder, or the path of a Python file.
        stage: the directory of a finished reward stage, or of several, for rewards that were learned.
        precision: "float32" or "bfloat16", of a learned reward's passes.
        device: of a learned reward.
        trunk: carries a learned reward that is an adapter; see `reward.role_adapters`.
        settings: of the reward's own `Config`.

    Raises:
        InputError: there is no reward of this name, or it lacks what it needs.
    """
    import torch

    module = find(name)
    stages = (stage,) if isinstance(stage, Path) else tuple(stage)
    function = module.load(_config(module, settings or {}), Context(stages, precision, device, trunk))

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        found = torch.as_tensor(function(items, completions, ended), dtype=torch.float32)
        if found.shape != (len(items),):
            raise InputError(
                f"reward {name}: gave scores of shape {tuple(found.shape)} for {len(items)} items"
            )
        return found

    return scores
