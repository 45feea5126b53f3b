"""Runs a recipe in its run directory: decides, locks, executes stage after stage, survives being stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline.checkpoint import StorageFault, clean_strays, remove, require_space, write_atomic, write_json
from pipeline.errors import NoMemory, TrainingFault
from pipeline.graph import data_root_of, dump_yaml, resolved
from pipeline.metrics import read_metrics
from pipeline.precision import resolve_precision, tune_allocator
from pipeline.progress import Reporter, format_seconds
from pipeline.recipe import Recipe, Reference, StageSpec
from pipeline.run import StageRun
from pipeline.run_directory import (
    BEGUN_JSON,
    CHECKPOINTS,
    FAULT_JSON,
    LOCK,
    RUN_JSON,
    STAGE_JSON,
    check_folder,
    find_stage,
    finish_stage,
    locked,
    read_json,
    run_path,
    seed_dir,
    stage_damage,
    stage_dir,
    tidy_stage,
)
from pipeline.schedule import Decision, Selection, schedule
from pipeline.signals import StopFlag, stop_on_signals

RUN_FILES = ("report.html", "report.json")  # a stage that writes them has them copied into the run's folder
MIN_FREE_BYTES = 64 * 2**20  # below this no run starts
STOPPED = "stopped"
VERSIONS = ("fledge", "torch", "transformers", "trl", "tokenizers", "numpy")


@dataclass(frozen=True)
class StageResult:
    """What became of one stage: done (ran now), skip, leave, or stopped by a fault; why; seconds spent now."""

    stage: str
    action: str
    reasons: tuple[str, ...]
    seconds: float
    seed: int


@dataclass(frozen=True)
class RunResult:
    """What became of a run: its folder and its stages, in order, over all seeds."""

    path: Path
    stages: Sequence[StageResult]

    @property
    def faults(self) -> tuple[str, ...]:
        """What stopped some of several seeds, a sentence for each."""
        return tuple(f"seed {row.seed}, {row.reasons[0]}" for row in self.stages if row.action == STOPPED)


def execute(
    recipe: Recipe,
    *,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    selection: Selection | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Run or resume a recipe; the same call after any death continues.

    Of several seeds each goes on without those whose training stops by a fault: see `RunResult.faults`.

    Raises InputError before any work for a folder or selection that cannot be used, Interrupted after a signal,
    when what was done is saved, and TrainingFault where there is one seed or memory does not suffice.
    """
    selection, reporter = selection or Selection(), reporter or Reporter(quiet=True)
    run_dir = run_path(runs_dir, recipe.settings.name if name is None else name)
    check_folder(run_dir, recipe.settings.name, force=selection.force)
    selection.names(recipe)
    _require_free(runs_dir)
    stop = StopFlag()
    with stop_on_signals(stop, reporter.say), locked(run_dir):
        _replace_other_recipe(run_dir, recipe)
        precision, figures = _precision(recipe, run_dir)
        tune_allocator()
        results: list[StageResult] = []
        for seed, folder in chains(recipe, run_dir):
            job = _Job(recipe, run_dir.name, folder, runs_dir, seed, precision, selection, reporter, stop)
            results += job.run(figures)
        if recipe.settings.seeds:
            _write_run(run_dir, run_dir.name, recipe, precision, figures, None)
    return RunResult(run_dir, results)


def chains(recipe: Recipe, run_dir: Path) -> list[tuple[int, Path]]:
    """Each seed of a recipe with the folder of its chain: the run itself, or seeds/<n> for several."""
    if recipe.settings.seeds:
        return [(seed, seed_dir(run_dir, seed)) for seed in recipe.settings.seeds]
    return [(recipe.settings.seed, run_dir)]


def recorded_precision(recipe: Recipe, run_dir: Path) -> str:
    """The number format that a run has, or will take; "auto" where it is still to be measured."""
    wanted = recipe.settings.precision
    return wanted if wanted != "auto" else str((read_json(run_dir / RUN_JSON) or {}).get("precision", "auto"))


def _precision(recipe: Recipe, run_dir: Path) -> tuple[str, dict[str, float]]:
    record = read_json(run_dir / RUN_JSON) or {}
    recorded = recorded_precision(recipe, run_dir)
    if recorded == record.get("precision"):
        return recorded, record.get("precision_probe", {})
    precision, figures = resolve_precision(recorded)
    # Kept at once: a run that dies before its first stage ends must not choose anew.
    write_json(run_dir / RUN_JSON, {**record, "recipe": recipe.settings.name, "precision": precision})
    return precision, figures


def _require_free(runs_dir: Path) -> None:
    try:
        require_space(runs_dir, MIN_FREE_BYTES)
    except StorageFault as error:
        raise InputError(str(error)) from error


def _replace_other_recipe(run_dir: Path, recipe: Recipe) -> None:
    """Clear a folder that was another recipe's: only --force comes so far."""
    record = read_json(run_dir / RUN_JSON)
    if record is not None and record.get("recipe") != recipe.settings.name:
        for path in run_dir.iterdir():
            if path.name != LOCK:
                remove(path)


def _write_run(
    folder: Path, name: str, recipe: Recipe, precision: str, figures: dict[str, float], seed: int | None
) -> None:
    """Write recipe.yaml, which loads to the same stages, and run.json."""
    write_atomic(folder / "recipe.yaml", dump_yaml(resolved(recipe, precision, seed)))
    record: dict[str, Any] = {
        "name": name,
        "recipe": recipe.settings.name,
        "seed": seed,
        "precision": precision,
        "precision_probe": figures,
        "gates": recipe.settings.gates,
        "budget": recipe.settings.budget,
        "stages": [{"name": spec.name, "stage": spec.kind} for spec in recipe.stages],
        "versions": versions(),
    }
    if seed is None:
        record["seeds"] = list(recipe.settings.seeds or ())
    write_json(folder / RUN_JSON, record)


def versions() -> dict[str, str | None]:
    """The versions of the packages that results depend on; None for one that is not installed."""
    return {name: _version(name) for name in VERSIONS}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class _Job:
    """One chain of stages in one folder."""

    recipe: Recipe
    name: str
    folder: Path
    runs_dir: Path
    seed: int
    precision: str
    selection: Selection
    reporter: Reporter
    stop: StopFlag

    def run(self, figures: dict[str, float]) -> list[StageResult]:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "stages").mkdir(exist_ok=True)
        clean_strays(self.folder)
        clean_strays(self.folder / "stages")
        data_root = data_root_of(self.recipe.settings.data_root)
        decisions = schedule(
            self.recipe,
            self.folder,
            runs_dir=self.runs_dir,
            seed=self.seed,
            precision=self.precision,
            data_root=data_root,
            selection=self.selection,
        )
        _write_run(self.folder, self.name, self.recipe, self.precision, figures, self.seed)
        results: list[StageResult] = []
        for decision in decisions:
            results.append(self.stage(decision, data_root))
            if results[-1].action == STOPPED:
                break
        return results

    def stage(self, decision: Decision, data_root: Path | None) -> StageResult:
        name, folder, seconds = decision.spec.name, stage_dir(self.folder, decision.spec.name), 0.0
        label = name if not self.recipe.settings.seeds else f"seed {self.seed}: {name}"
        if decision.to_do:
            self.reporter.say(f"{label}: {'; '.join(decision.reasons[:4])}")
            start = time.monotonic()
            try:
                self.work(decision, folder, data_root)
            except TrainingFault as fault:
                if isinstance(fault, NoMemory) or not self.recipe.settings.seeds:
                    raise
                return self.stopped(name, folder, fault, time.monotonic() - start)
            seconds = time.monotonic() - start
            self.reporter.say(f"{label}: done in {format_seconds(seconds)}")
        elif decision.action == "skip":
            tidy_stage(folder)
            self.reporter.say(f"{label}: up to date")
        if decision.action != "leave":
            self.copy_reports(folder)
        self.stop.check()
        return StageResult(
            name, "done" if decision.to_do else decision.action, decision.reasons, seconds, self.seed
        )

    def stopped(self, name: str, folder: Path, fault: TrainingFault, seconds: float) -> StageResult:
        """Write down why this seed stops here; the same command tries it again."""
        steps = read_metrics(folder / "metrics.jsonl")
        write_json(folder / FAULT_JSON, {"step": steps[-1]["step"] if steps else None, "cause": str(fault)})
        self.reporter.say(f"seed {self.seed} stops: {fault}")
        self.stop.check()
        return StageResult(name, STOPPED, (str(fault),), seconds, self.seed)

    def work(self, decision: Decision, folder: Path, data_root: Path | None) -> None:
        spec, start = decision.spec, time.monotonic()
        if decision.action == "run" and folder.exists():
            remove(folder)
        folder.mkdir(exist_ok=True)
        clean_strays(folder)
        (folder / FAULT_JSON).unlink(missing_ok=True)
        record = {"key": decision.key, **decision.parts}
        write_json(folder / BEGUN_JSON, record)
        run = StageRun(
            spec.name,
            self.folder,
            seed=self.seed,
            inputs=self.inputs(spec),
            input_names={role: _names(value) for role, value in spec.inputs.items() if value},
            precision=self.precision,
            data_root=data_root,
            gates=self.recipe.settings.gates,
            budget=self.recipe.settings.budget if spec.reads_budget else None,
            stage_key=decision.key,
            reporter=self.reporter,
            stop=self.stop,
        )
        try:
            spec.module.run(spec.config, run)
        except InputError:
            if not any((folder / CHECKPOINTS).glob("step-*")):
                remove(folder)  # nothing to continue from: the corrected input is not "other data"
            raise
        timings = {"seconds": time.monotonic() - start, "continued": decision.action == "continue"}
        finish_stage(folder, {**record, "notes": run.notes, "gates": run.gate_records, "timings": timings})

    def inputs(self, spec: StageSpec) -> dict[str, Any]:
        """The folders of a stage's inputs by role; those of other runs are verified here."""
        found: dict[str, Any] = {}
        for role, value in spec.inputs.items():
            if isinstance(value, Reference):
                found[role] = self.input_dir(value)
            elif value:
                found[role] = [self.input_dir(reference) for reference in value]
        return found

    def input_dir(self, reference: Reference) -> Path:
        if not reference.run:
            return stage_dir(self.folder, reference.stage)
        folder, problem = find_stage(self.runs_dir, reference.run, reference.stage, self.seed)
        problem = problem or stage_damage(folder, read_json(folder / STAGE_JSON) or {})
        if problem:
            raise InputError(f"input {reference} {problem}; run it again")
        return folder

    def copy_reports(self, folder: Path) -> None:
        for name in RUN_FILES:
            source, target = folder / name, self.folder / name
            if source.is_file() and (not target.is_file() or source.read_bytes() != target.read_bytes()):
                write_atomic(target, source.read_bytes())


def _names(value: Reference | tuple[Reference, ...] | None) -> str | list[str]:
    return [str(item) for item in value] if isinstance(value, tuple) else str(value)
