"""Rewards, one per file; a name in YAML is a file name here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import open_folder

if TYPE_CHECKING:
    from torch import Tensor

    from data.rows import Item

    RewardFunction = Callable[[Sequence[Item], Sequence[str], Sequence[bool]], Tensor]


@dataclass(frozen=True)
class Context:
    """What a reward may need: the directory of a finished reward stage, precision, device, a trunk in memory."""

    stage: Path | None = None
    precision: str = "float32"
    device: str = "cpu"
    trunk: Any = None


def load_function(
    name: str,
    *,
    stage: Path | None = None,
    precision: str = "float32",
    device: str = "cpu",
    trunk: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> RewardFunction:
    """Load a reward by name: a function (items, completions, ended) -> scores (batch,) in float32.

    Args:
        name: a file name in this folder.
        stage: the directory of a finished reward stage, for rewards that were learned.
        precision: "float32" or "bfloat16", of a learned reward's passes.
        device: of a learned reward.
        trunk: carries a learned reward that is an adapter; see `reward.role_adapters`.
        settings: of the reward's own `Config`.

    Raises:
        InputError: there is no reward of this name, or it lacks what it needs.
    """
    import torch

    module = open_folder.load("reward.functions", name)
    function = module.load(module.Config(**(settings or {})), Context(stage, precision, device, trunk))

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        return torch.as_tensor(function(items, completions, ended), dtype=torch.float32)

    return scores
