"""What a run has to do and why: each stage is skipped, continued or run, by its key and what lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.errors import InputError
from pipeline.config import redact, suggest
from pipeline.graph import stage_files
from pipeline.keys import code_digests, differences, file_digests, key_of
from pipeline.recipe import Recipe, Reference, StageSpec
from pipeline.run_directory import (
    BEGUN_JSON,
    CHECKPOINTS,
    STAGE_JSON,
    find_stage,
    read_json,
    stage_damage,
    stage_dir,
)

Action = Literal["skip", "continue", "run", "leave"]


@dataclass(frozen=True)
class Decision:
    """What happens to one stage; `leave` is a stage outside the selection. `reasons` say why it is to do."""

    spec: StageSpec
    action: Action
    reasons: tuple[str, ...]
    key: str
    parts: dict[str, Any] = field(repr=False)
    stale_data: bool = False

    @property
    def to_do(self) -> bool:
        """Whether the stage's `run` is called."""
        return self.action in ("run", "continue")


@dataclass(frozen=True)
class Selection:
    """The stages asked for: all, or those `until`, `since` (--from) or `only` the named one."""

    until: str | None = None
    since: str | None = None
    only: str | None = None
    force: bool = False

    def names(self, recipe: Recipe) -> list[str]:
        """The selected stage names in order; InputError for an unknown one or an empty selection."""
        known = [spec.name for spec in recipe.stages]
        for option, name in (("--until", self.until), ("--from", self.since), ("--only", self.only)):
            if name is not None and name not in known:
                raise InputError(
                    f"{option} {name}: no such stage{suggest(name, known)}; there are {', '.join(known)}"
                )
        if self.only is not None:
            if self.until or self.since:
                raise InputError("--only excludes --from and --until; give it alone")
            return [self.only]
        first = known.index(self.since) if self.since else 0
        last = known.index(self.until) if self.until else len(known) - 1
        if first > last:
            raise InputError(f"--from {self.since} stands after --until {self.until}; nothing would run")
        return known[first : last + 1]


def schedule(
    recipe: Recipe,
    run_dir: Path,
    *,
    runs_dir: Path,
    seed: int,
    precision: str,
    data_root: Path | None,
    selection: Selection,
    quick: bool = False,
) -> list[Decision]:
    """Decide every stage of a recipe; `quick` compares sizes rather than checksums.

    Raises InputError where a selected stage needs one that is not selected and not up to date, and where an
    unfinished stage would lose its work because a data file changed.
    """
    selected = selection.names(recipe)
    decisions: dict[str, Decision] = {}
    for spec in recipe.stages:
        parts = _parts(spec, recipe, decisions, runs_dir, seed, precision, data_root)
        decisions[spec.name] = _decide(spec, parts, run_dir, spec.name in selected, selection.force, quick)
    problems = [problem for name in selected for problem in _blocked(decisions[name], decisions, selected)]
    problems += [] if selection.force else _changed_data(decisions, run_dir)
    if problems:
        raise InputError(problems)
    return [decision if name in selected else _left(decision) for name, decision in decisions.items()]


def _left(decision: Decision) -> Decision:
    return Decision(decision.spec, "leave", decision.reasons, decision.key, decision.parts)


def _parts(
    spec: StageSpec,
    recipe: Recipe,
    decisions: dict[str, Decision],
    runs_dir: Path,
    seed: int,
    precision: str,
    data_root: Path | None,
) -> dict[str, Any]:
    config = redact(spec.config.model_dump(mode="json"))
    inputs: dict[str, list[list[str]]] = {role: [] for role, value in spec.inputs.items() if value}
    for role, reference in spec.references():
        inputs[role].append([str(reference), _input_key(reference, decisions, runs_dir, seed)])
    return {
        "name": spec.name,
        "stage": spec.kind,
        "seed": seed,
        "precision": None if spec.ignores_precision else precision,
        "budget": recipe.settings.budget if spec.reads_budget else None,
        "config": config,
        "inputs": inputs,
        "files": file_digests(stage_files(spec, data_root), data_root),
        "code": code_digests(spec.module.__name__, config, _loaded(spec)),
    }


def _loaded(spec: StageSpec) -> list[str]:
    return list(spec.module.loaded(spec.config)) if hasattr(spec.module, "loaded") else []


def _input_key(reference: Reference, decisions: dict[str, Decision], runs_dir: Path, seed: int) -> str:
    if not reference.run:
        return decisions[reference.stage].key
    folder, problem = find_stage(runs_dir, reference.run, reference.stage, seed)
    if problem:
        raise InputError(f"an input {problem}")
    return str((read_json(folder / STAGE_JSON) or {})["key"])


def _decide(
    spec: StageSpec, parts: dict[str, Any], run_dir: Path, selected: bool, force: bool, quick: bool
) -> Decision:
    folder, key = stage_dir(run_dir, spec.name), key_of(parts)
    done, begun = read_json(folder / STAGE_JSON), read_json(folder / BEGUN_JSON)
    record = done or begun
    reasons: list[str] = []
    action: Action = "run"
    if record is None:
        reasons = ["not run yet"]
    elif record.get("key") != key:
        reasons = differences(record, parts) or ["its record has another form"]
    elif done is None:
        action, reasons = "continue", [_progress(folder)]
    elif problem := stage_damage(folder, done, quick=quick):
        reasons = [f"damaged: {problem}"]
    else:
        action = "skip"
    same_settings = record is not None and record.get("config") == parts["config"]
    stale_data = same_settings and (record or {}).get("files") != parts["files"]
    if force and selected:
        action, reasons = "run", [*reasons, "forced"] if action == "run" else ["forced"]
    return Decision(spec, action, tuple(reasons), key, parts, stale_data)


def _progress(folder: Path) -> str:
    steps = sorted((folder / CHECKPOINTS).glob("step-*"))
    return (
        f"unfinished, continues after step {int(steps[-1].name[5:]):,}"
        if steps
        else "unfinished, starts again"
    )


def _blocked(decision: Decision, decisions: dict[str, Decision], selected: Sequence[str]) -> list[str]:
    return [
        f"{decision.spec.name} needs {reference}, which is not selected and not up to date "
        f"({'; '.join(decisions[reference.stage].reasons[:3])}); select it too, or all stages"
        for _, reference in decision.spec.references()
        if not reference.run and reference.stage not in selected and decisions[reference.stage].to_do
    ]


def _changed_data(decisions: dict[str, Decision], run_dir: Path) -> list[str]:
    """Refusals for unfinished stages whose data, or whose inputs' data, changed since they started."""
    tainted: dict[str, str] = {}
    problems = []
    for name, decision in decisions.items():
        sources = [name] if decision.stale_data else []
        sources += [
            tainted[ref.stage]
            for _, ref in decision.spec.references()
            if not ref.run and ref.stage in tainted
        ]
        if not sources:
            continue
        tainted[name] = sources[0]
        unfinished = (stage_dir(run_dir, name) / BEGUN_JSON).exists() and decision.action == "run"
        if unfinished and not (stage_dir(run_dir, name) / STAGE_JSON).exists():
            changed = [reason for reason in decisions[sources[0]].reasons if reason.startswith("data file")]
            problems.append(
                f"{name} is unfinished and was started on other data ({sources[0]}: {'; '.join(changed)}); "
                f"restore the data to continue, or start anew with --force"
            )
    return problems
