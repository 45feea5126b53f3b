"""A run as the report sees it: what its directory says, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.errors import InputError
from pipeline.measured import with_verdicts
from pipeline.metrics import read_metrics
from pipeline.overoptimisation import Fit, fit, fit_best_of_n, windows
from pipeline.records import Comparison, Figure, Record, from_json, read_records
from pipeline.run_directory import (
    FAULT_JSON,
    NOTES_JSON,
    RUN_JSON,
    STAGE_JSON,
    finished_stages,
    read_json,
    seed_dir,
    stage_dir,
)

RECIPE = "recipe.yaml"
LEARNS_FROM_REWARD = ("ppo", "rloo", "grpo")  # kinds of stage


@dataclass(frozen=True)
class StageData:
    """One finished stage: its name, kind, record and metrics."""

    name: str
    kind: str
    record: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def notes(self) -> dict[str, Any]:
        """What the stage noted."""
        return self.record.get("notes") or {}

    @property
    def gates(self) -> list[dict[str, Any]]:
        """Its gates, each with name, passed (None: not measurable) and message."""
        return self.record.get("gates") or []

    @property
    def config(self) -> dict[str, Any]:
        """Its resolved settings."""
        return self.record.get("config") or {}


class Fault(NamedTuple):
    """Why one of several seeds stopped: the stage, the last step that it logged, if any, and the cause."""

    stage: str
    step: int | None
    cause: str

    @property
    def told(self) -> str:
        """The fault in words."""
        return f"stopped{'' if self.step is None else f' after step {self.step}'}: {self.cause}"


@dataclass(frozen=True)
class PartlyScored(Figure):
    """A figure of which some items could not be scored: so many beside its n."""

    unscored: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What the evaluations of one run found, those of several evaluate stages joined."""

    models: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class RunData:
    """One chain of stages: a run of one seed, or one seed of a run of several."""

    label: str
    record: dict[str, Any]
    recipe: dict[str, Any]
    stages: list[StageData]
    evaluation: Evaluation
    fault: Fault | None = None

    @property
    def seed(self) -> int:
        """The chain's seed."""
        return int(self.record.get("seed") or 0)

    @property
    def command(self) -> str:
        """What makes the run again, under its own name."""
        recipe = self.record.get("recipe", self.label)
        named = f" --name {self.record['name']}" if self.record.get("name", recipe) != recipe else ""
        return f"fledge run {recipe}{named} --set seed={self.seed}"

    @property
    def model_names(self) -> list[str]:
        """The evaluated models in order."""
        return [model["name"] for model in self.evaluation.models]

    @property
    def base(self) -> str | None:
        """The base model, which knows no chat format; None where it was not evaluated."""
        return next((model["name"] for model in self.evaluation.models if model["plain"]), None)

    def stage_of(self, *kinds: str) -> list[StageData]:
        """The finished stages of some kinds."""
        return [stage for stage in self.stages if stage.kind in kinds]

    def stage_that_made(self, model: str) -> StageData | None:
        """The finished stage of this chain that made an evaluated model; None for one of another run."""
        name = self._entry(model).get("reference") or model
        return next((stage for stage in self.stages if stage.name == name), None)

    def kind_of(self, model: str) -> str | None:
        """The kind of the stage that made a model; by its name alone where the evaluation did not say."""
        entry, stage = self._entry(model), self.stage_that_made(model)
        return entry.get("kind", stage.kind if stage else None)

    def figure(self, name: str, stage: str) -> Figure | None:
        """One figure, or None."""
        return self._by_name.get((name, stage))

    def records(self, evaluation: str, measure: str, stage: str) -> list[Record]:
        """The records of one measure and model."""
        return self._by_measure.get((evaluation, measure, stage), [])

    @cached_property
    def fits(self) -> dict[tuple[str, str], Fit]:
        """Gao's form for reinforcement learning, by stage and metric ("score", "gold"), where it could be fitted.

        Fitted to means over neighbouring batches, at most 40 of them or so.
        """
        found = {}
        for stage in self.stage_of(*LEARNS_FROM_REWARD):
            for name in ("score", "gold"):
                points = kl_curve(stage, name)
                size = max(1, len(points) // 40)
                fitted = fit(windows(points[:, 0], size), windows(points[:, 1], size), "rl", seed=self.seed)
                if fitted:
                    found[stage.name, name] = fitted
        return found

    def _entry(self, model: str) -> dict[str, Any]:
        return next((entry for entry in self.evaluation.models if entry["name"] == model), {})

    @cached_property
    def best_of_n_fits(self) -> dict[tuple[str, str], Fit]:
        """Gao's form for best-of-n, by sampled model and measure ("reward", "gold"), where it could be fitted."""
        found = {}
        sampled = dict.fromkeys(model for name, _, model in self._by_measure if name == "best_of_n")
        for model in sampled:
            for name in ("reward", "gold"):
                columns: list[list[float]] = []
                while rows := self.records("best_of_n", f"{name}/{len(columns) + 1}", model):
                    if columns and len(rows) != len(columns[0]):
                        break  # an evaluation of fewer samples has fewer sizes
                    columns.append([row.score for row in rows])
                fitted = fit_best_of_n(np.array(columns).T, seed=self.seed) if columns else None
                if fitted:
                    found[model, name] = fitted
        return found

    @cached_property
    def _by_measure(self) -> dict[tuple[str, str, str], list[Record]]:
        found: dict[tuple[str, str, str], list[Record]] = {}
        for row in self.evaluation.records:
            found.setdefault((row.evaluation, row.measure, row.stage), []).append(row)
        return found

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Figure]:
        return {(figure.name, figure.stage): figure for figure in self.evaluation.figures}


def kl_curve(stage: StageData, name: str) -> np.ndarray:
    """Points (sqrt(KL), value) of a metric by step; a negative estimate of KL counts as 0."""
    rows = [row for row in stage.metrics if row.get(name) is not None and row.get("kl") is not None]
    return np.array([(max(row["kl"], 0.0) ** 0.5, row[name]) for row in rows]).reshape(-1, 2)


def read_chains(run_dir: Path) -> list[RunData]:
    """Read a run: one chain, or one for each seed that has begun.

    Raises:
        InputError: the folder is no run, or nothing in it is finished.
    """
    record = read_json(run_dir / RUN_JSON)
    if record is None:
        raise InputError(f"{run_dir} is no run (it has no {RUN_JSON}); name the folder of a run")
    if not record.get("seeds"):
        return [read_chain(run_dir, record.get("recipe", run_dir.name))]
    folders = [(seed, seed_dir(run_dir, seed)) for seed in record["seeds"]]
    chains = [read_chain(folder, f"seed {seed}") for seed, folder in folders if (folder / RUN_JSON).is_file()]
    if not chains:
        raise InputError(f"{run_dir} has no finished seed yet; run it first")
    return chains


def read_chain(folder: Path, label: str) -> RunData:
    """Read one chain of stages, without the one that writes the report: it says the same whoever writes it."""
    stages = [_stage(stage_dir(folder, name), name) for name in finished_stages(folder)]
    stages = [stage for stage in stages if stage.kind != "report"]
    record = read_json(folder / RUN_JSON) or {}
    fault = _fault(folder, record)
    if not stages and not fault:
        raise InputError(f"{folder} has no finished stage; run it first")
    return RunData(
        label,
        record,
        _recipe(folder / RECIPE),
        stages,
        _evaluation([stage_dir(folder, stage.name) for stage in stages if stage.kind == "evaluate"]),
        fault,
    )


def _fault(folder: Path, record: dict[str, Any]) -> Fault | None:
    """The fault of the first stage that has one."""
    for stage in record.get("stages", ()):
        found = read_json(stage_dir(folder, stage["name"]) / FAULT_JSON)
        if found:
            return Fault(stage["name"], found["step"], found["cause"])
    return None


def _stage(folder: Path, name: str) -> StageData:
    record = read_json(folder / STAGE_JSON) or {}
    unfinished = read_json(folder / NOTES_JSON) or {}
    return StageData(
        name, record.get("stage", name), {**unfinished, **record}, read_metrics(folder / "metrics.jsonl")
    )


def _evaluation(folders: list[Path]) -> Evaluation:
    found = Evaluation()
    for folder in folders:
        results = read_json(folder / "figures.json")
        if results is None:
            continue
        known = {model["name"] for model in found.models}
        found.models.extend(model for model in results["models"] if model["name"] not in known)
        missing = {(row["name"], row["stage"]): row["num"] for row in results.get("unscored", ())}
        for row in results["figures"]:
            num = missing.get((row["name"], row["stage"]))
            figure = from_json(PartlyScored, row | {"unscored": num}) if num else from_json(Figure, row)
            found.figures.append(figure)
        comparisons = [from_json(Comparison, row) for row in results["comparisons"]]
        corrected = any(row.holm_p is not None for row in comparisons)
        found.comparisons.extend(comparisons if corrected else with_verdicts(comparisons))
        found.records.extend(read_records(folder / "records.jsonl"))
    return found


def _recipe(path: Path) -> dict[str, Any]:
    from pipeline.strict_yaml import read_file

    return dict(read_file(path)[0].plain()) if path.is_file() else {}
