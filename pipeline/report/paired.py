"""Runs against each other: paired changes of the figures whose items are the same, and why others have none.

Paired are the figures that evaluations name in their `PAIRED`; each is computed again from both runs' records and
must give the figure that its run has, or it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from data import open_folder
from pipeline.measured import Plain, comparison_of, value_of, with_verdicts
from pipeline.records import Comparison, Figure, Record
from pipeline.report.read import RunData
from pipeline.report.tables import AT_CHANCE, BENCHMARKS, at_chance
from pipeline.report.verdicts import StageVerdict, word_of

EVALS = "pipeline.evals"
SAME = 1e-6  # figures are computed from records that are written in full, so only rounding is allowed
# Why a figure has no paired change.
OTHER_ITEMS = "they answered other items"
OTHER_VERSION = "the benchmark's files differ"
OTHER_SCORES = "the figure is another one than its records give today"
NONE_SHARED = "no item could be scored in both"


class Step(NamedTuple):
    """A model of one run against one of another: changes with verdicts, and why figures have none."""

    before: RunData
    after: RunData
    stages: tuple[str, str]
    changes: list[Comparison]
    unpaired: dict[str, list[str]]

    @property
    def verdict(self) -> StageVerdict:
        """The headline figures in words; where there are none of these, the whole ones with a better side."""
        before, after = self.labels
        rows = [row for row in self.changes if row.better and row.verdict != AT_CHANCE]
        family = [row for row in rows if row.holm_p is not None]
        return StageVerdict(before, after, word_of(family), family)

    @property
    def labels(self) -> tuple[str, str]:
        """Both models with their runs."""
        before, after = self.stages
        return f"{self.before.label}: {before}", f"{self.after.label}: {after}"


@cache
def plain_figures() -> dict[str, tuple[str, Plain]]:
    """The figures that are paired by name, each with the evaluation whose records it comes from."""
    modules = {name: open_folder.load(EVALS, name) for name in open_folder.names(EVALS)}
    return {
        row.name: (getattr(module, "RECORDS", name), row)
        for name, module in modules.items()
        for row in getattr(module, "PAIRED", ())
    }


def steps(runs: Sequence[Sequence[RunData]]) -> list[Step]:
    """Every later run against the first, chain by chain of the same seed, model by model of the same name.

    Where each has one chain the seeds may differ. Last models are compared whatever their names.
    """
    first, *others = runs
    found = []
    for other in others:
        for before in first:
            for after in other:
                if before.seed == after.seed or len(first) == len(other) == 1:
                    found += [_step(before, after, pair) for pair in _pairs(before, after)]
    return found


def _pairs(before: RunData, after: RunData) -> list[tuple[str, str]]:
    shared = [(stage, stage) for stage in before.model_names if stage in after.model_names]
    last = (
        [(before.model_names[-1], after.model_names[-1])] if before.model_names and after.model_names else []
    )
    return list(dict.fromkeys(shared + last))


def _step(before: RunData, after: RunData, stages: tuple[str, str]) -> Step:
    known = plain_figures()
    names = dict.fromkeys(
        figure.name
        for figure in before.evaluation.figures
        if figure.stage == stages[0] and after.figure(figure.name, stages[1]) and figure.name in known
    )
    changes: list[Comparison] = []
    unpaired: dict[str, list[str]] = {}
    for name in names:
        found = _change(before, after, stages, *known[name])
        if isinstance(found, str):
            unpaired.setdefault(found, []).append(name)
        else:
            changes.append(found)
    judged = [_with_chance(row, before, after, stages) for row in with_verdicts(changes)]
    return Step(before, after, stages, judged, unpaired)


def _change(
    before: RunData, after: RunData, stages: tuple[str, str], evaluation: str, how: Plain
) -> Comparison | str:
    """The paired change of one figure, or why there is none."""
    sides = [_rows(run, stage, evaluation, how) for run, stage in zip((before, after), stages, strict=True)]
    if not _same_items(*sides, weighed=how.kind == "ratio"):
        return OTHER_ITEMS if evaluation not in BENCHMARKS or same_version(*sides) else OTHER_VERSION
    labels = (f"{before.label}: {stages[0]}", f"{after.label}: {stages[1]}")
    measured = how.measured(dict(zip(labels, sides, strict=True)))
    for run, stage, label in zip((before, after), stages, labels, strict=True):
        figure, value = run.figure(how.name, stage), value_of(measured, measured.scores[label])
        if figure is None or not math.isclose(value, figure.value, rel_tol=0, abs_tol=SAME):
            return OTHER_SCORES
    return comparison_of(measured, *labels, seed=before.seed) or NONE_SHARED


def _with_chance(row: Comparison, before: RunData, after: RunData, stages: tuple[str, str]) -> Comparison:
    """No conclusion where both sides are at chance."""
    both = (before.figure(row.name, stages[0]), after.figure(row.name, stages[1]))
    return replace(row, verdict=AT_CHANCE) if all(map(at_chance, both)) else row


def _rows(run: RunData, stage: str, evaluation: str, how: Plain) -> list[Record]:
    rows = run.records(evaluation, how.measure, stage)
    return [row for row in rows if how.group in (None, row.group)]


def _same_items(before: Sequence[Record], after: Sequence[Record], *, weighed: bool) -> bool:
    """Whether both answered the same: equal ids, prompts and groups, of texts also their sizes."""

    def asked(rows: Sequence[Record]) -> dict[tuple[str, str], tuple[str, float]]:
        return {(row.id, row.group): (row.prompt, row.weight if weighed else 1.0) for row in rows}

    return bool(before) and asked(before) == asked(after)


def same_version(before: Sequence[Record], after: Sequence[Record]) -> bool:
    """Whether two sets of items may be of the same file: they share some, and no shared one differs."""
    first = {(row.measure, row.id): (row.prompt, row.group) for row in before}
    shared = [row for row in after if (row.measure, row.id) in first]
    return bool(shared) and all(first[row.measure, row.id] == (row.prompt, row.group) for row in shared)


# --- benchmarks side by side ------------------------------------------------------------------------------


class Beside(NamedTuple):
    """A benchmark's figure in every run of the same version; None in runs of another, which have another row."""

    name: str
    stage: str
    unit: str
    figures: list[Figure | None]


def benchmarks_beside(chains: Sequence[RunData]) -> list[Beside]:
    """The benchmarks' main figures over runs, never those of different versions in one row."""
    found = []
    for benchmark in BENCHMARKS:
        versions = _versions(benchmark, chains)
        names = dict.fromkeys(
            (figure.name, figure.stage)
            for chain in chains
            for figure in chain.evaluation.figures
            if figure.name.startswith(f"{benchmark}/")
            and figure.name.count("/") == 1
            and figure.stage in chain.model_names
        )
        for name, stage in names:
            for members in versions:
                figures = [
                    chain.figure(name, stage) if place in members else None
                    for place, chain in enumerate(chains)
                ]
                unit = next((figure.unit for figure in figures if figure), None)
                if unit is not None:
                    found.append(Beside(name, stage, unit, figures))
    return found


def _versions(benchmark: str, chains: Sequence[RunData]) -> list[list[int]]:
    """The places of the chains, those of the same version together."""
    groups: list[tuple[list[Record], str, list[int]]] = []
    for place, chain in enumerate(chains):
        rows = [row for row in chain.evaluation.records if row.evaluation == benchmark]
        unit = " ".join(
            sorted({f.unit for f in chain.evaluation.figures if f.name.startswith(f"{benchmark}/")})
        )
        for first, its_unit, members in groups:
            if its_unit == unit and same_version(first, rows):
                members.append(place)
                break
        else:
            if rows:
                groups.append((rows, unit, [place]))
    return [members for _, _, members in groups]
