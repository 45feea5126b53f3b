"""What a recipe is: stages in order, the inputs that they declare and the costs that they announce.

Declarations only: every stage file imports this module, so it stays small; reading, resolving and keys are in
`pipeline.graph`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field

from data.settings import Settings


@dataclass(frozen=True)
class Input:
    """One role among a stage's inputs: which kinds of stage fill it when the recipe names none.

    `default` names stage files; the role takes the latest earlier stage of one of these kinds, with `many`
    all of them in the recipe's order. A recipe may name the stage instead: `policy: sft`, or
    `policy: quickstart/sft` for a stage of another run; a list where `many`; `null` leaves an `optional` role
    empty.
    """

    default: str | tuple[str, ...]
    many: bool = False
    optional: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The stage files that fill the role by default."""
        return (self.default,) if isinstance(self.default, str) else self.default


@dataclass(frozen=True)
class Cost:
    """What a stage expects to need: counts, bytes, floating-point operations; 0 means not known or none.

    `probe` times a few of the stage's own steps and returns the seconds of the whole stage on this machine;
    without it, time is estimated from `flops` at the measured speed of a small training step.
    """

    steps: int = 0
    tokens: int = 0
    parameters: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    flops: float = 0.0
    note: str = ""
    probe: Callable[[], float] | None = None


@dataclass(frozen=True)
class CostContext:
    """What a stage's `cost` may look at: configs and costs of its inputs by role (a list where `many`)."""

    configs: Mapping[str, Any]
    costs: Mapping[str, Any]
    data_root: Path | None = None
    seed: int = 0
    precision: str = "float32"


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RecipeSettings(Settings):
    """The keys of a recipe beside its stages."""

    name: str = Field(description="Name of the recipe and, unless --name says otherwise, of its run.")
    description: str = Field("", description="What the recipe is for, in a sentence.")
    seed: Seed = Field(0, description="Seed of every random stream; also draws the world.")
    seeds: tuple[Seed, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Several seeds: the chain runs once in seeds/<n>/ each.",
    )
    data_root: str | None = Field(
        None, description="Folder of real data sets; the variable FLEDGE_DATA where this is not given."
    )
    budget: Literal["smoke", "cpu", "gpu"] | None = Field(
        None, description="Size at which the baselines are trained; the stage's own default where not given."
    )
    gates: Literal["warn", "stop"] = Field(
        "warn", description="What a failed quality gate does: warn and go on, or stop with exit code 3."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of training; auto takes bfloat16 where it is clearly faster."
    )


@dataclass(frozen=True)
class Reference:
    """A stage that another one reads: of this recipe (`run` empty) or of another run."""

    stage: str
    run: str = ""

    def __str__(self) -> str:
        return f"{self.run}/{self.stage}" if self.run else self.stage


@dataclass(frozen=True)
class StageSpec:
    """One stage of a recipe, validated: its name, file, settings and inputs by role.

    A stage file with `READS_BUDGET = True` is given the recipe's budget, and one with `IGNORES_PRECISION = True`
    computes with no model; a change of either makes stale only the stages that depend on it.
    """

    name: str
    kind: str
    module: ModuleType
    config: Settings
    inputs: Mapping[str, Reference | tuple[Reference, ...] | None]

    @property
    def reads_budget(self) -> bool:
        """Whether the recipe's budget changes what the stage does."""
        return bool(getattr(self.module, "READS_BUDGET", False))

    @property
    def ignores_precision(self) -> bool:
        """Whether the number format changes nothing of what the stage does."""
        return bool(getattr(self.module, "IGNORES_PRECISION", False))

    def references(self) -> list[tuple[str, Reference]]:
        """Every (role, referenced stage) pair, in order."""
        pairs: list[tuple[str, Reference]] = []
        for role, value in self.inputs.items():
            if isinstance(value, Reference):
                pairs.append((role, value))
            else:
                pairs.extend((role, reference) for reference in value or ())
        return pairs


@dataclass(frozen=True)
class Recipe:
    """A validated recipe; `changes` lists the `--set` values that were applied, in order."""

    settings: RecipeSettings
    stages: Sequence[StageSpec]
    source: str = ""
    changes: Sequence[str] = ()

    def stage(self, name: str) -> StageSpec:
        """The stage of this name; it must exist."""
        return next(spec for spec in self.stages if spec.name == name)
