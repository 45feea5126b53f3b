"""Runs against each other: paired changes of the figures whose items are the same, and why others have none.

Only figures that are plain means, rates or ratios of one measure are paired; each is computed again from both
runs' records and must give the figure that its run has, or it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from pipeline.measured import Measured, comparison_of, interval_of, of_records, with_outcome, with_verdicts
from pipeline.records import Comparison, Figure, Record
from pipeline.report.read import RunData
from pipeline.report.tables import BENCHMARKS, at_chance
from pipeline.report.verdicts import StageVerdict, word_of

SAME = 1e-6  # figures are computed from records that are written in full, so only rounding is allowed
AT_CHANCE = "not told apart from chance"
# Why a figure has no paired change.
OTHER_ITEMS = "they answered other items"
OTHER_VERSION = "the benchmark's files differ"
OTHER_SCORES = "the figure is another one than its records give today"
NONE_SHARED = "no item could be scored in both"


class Plain(NamedTuple):
    """How a figure comes from records: which are taken, what counts, and which side is better."""

    evaluation: str
    measure: str
    group: str | None = None
    outcomes: tuple[str, ...] = ()
    kind: Literal["rate", "mean", "ratio"] = "rate"
    better: int = 1
    headline: bool = False


class Step(NamedTuple):
    """A model of one run against one of another: changes with verdicts, and why figures have none."""

    before: RunData
    after: RunData
    stages: tuple[str, str]
    changes: list[Comparison]
    unpaired: dict[str, list[str]]

    @property
    def verdict(self) -> StageVerdict:
        """The headline figures in words; all that have a better side where there are none of these."""
        before, after = self.labels
        rows = [row for row in self.changes if row.better and row.verdict != AT_CHANCE]
        family = [row for row in rows if row.holm_p is not None] or rows
        return StageVerdict(before, after, word_of(family), family)

    @property
    def labels(self) -> tuple[str, str]:
        """Both models with their runs."""
        before, after = self.stages
        return f"{self.before.label}: {before}", f"{self.after.label}: {after}"


HALLUCINATED = ("wrong", "fabricated")
PLAIN = {
    "gold/mean": Plain("gold", "gold", kind="mean", headline=True),
    "facts/often/right": Plain("facts", "answer", "often", ("right",), headline=True),
    "facts/some/right": Plain("facts", "answer", "some", ("right",)),
    "facts/rarely/right": Plain("facts", "answer", "rarely", ("right",)),
    "facts/never/right": Plain("facts", "answer", "never", ("right",)),
    "facts/never/hallucinated": Plain("facts", "answer", "never", HALLUCINATED, better=-1, headline=True),
    "facts/never/abstain": Plain("facts", "answer", "never", ("abstain",)),
    "bias/stereotyped": Plain("story_bias", "stereotyped", better=-1, headline=True),
    "bias/neutral": Plain("story_bias", "neutral", better=0),
    "refusal/harmful": Plain("refusal", "refusal", "harmful", ("refused",), headline=True),
    "refusal/harmless": Plain("refusal", "refusal", "harmless", ("refused",), better=-1, headline=True),
    "length": Plain("form", "length", kind="mean", better=0),
    "ends": Plain("form", "ends"),
    # Not the loss per token, as tokens differ where tokenizers do, nor scores of each run's own reward model.
    "loss/bits_per_byte": Plain("held_out_loss", "bits", kind="ratio", better=-1),
    "truthfulqa/mc1": Plain("truthfulqa", "mc1"),
    "truthfulqa/mc2": Plain("truthfulqa", "mc2", kind="mean"),
    "truthfulqa/binary": Plain("truthfulqa", "binary"),
    "truthfulqa/letter": Plain("truthfulqa", "letter"),
    "simpleqa/correct": Plain("simpleqa", "answer", outcomes=("correct",)),
    "simpleqa/hallucinated": Plain("simpleqa", "answer", outcomes=("incorrect",), better=-1),
    "halueval/verdict": Plain("halueval", "verdict"),
    "bbq/accuracy_amb": Plain("bbq", "right_amb"),
    "bbq/accuracy_dis": Plain("bbq", "right_dis"),
    "bbq/s_amb": Plain("bbq", "bias_amb", kind="mean", better=0),
    "crows_pairs/sum": Plain("crows_pairs", "sum", better=0),
    "crows_pairs/mean": Plain("crows_pairs", "mean", better=0),
    "crows_pairs/shared": Plain("crows_pairs", "shared", better=0),
    "winobias/pro": Plain("winobias", "pro"),
    "winobias/anti": Plain("winobias", "anti"),
    "winogender/accuracy": Plain("winogender", "referent"),
}


def plain(name: str) -> Plain | None:
    """How a figure comes from records; None where it is no plain mean."""
    if name.startswith("task/") and name.endswith("/right"):
        return Plain("tasks", "answer", name.split("/")[1], ("right",))
    return PLAIN.get(name)


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
    names = dict.fromkeys(
        figure.name
        for figure in before.evaluation.figures
        if figure.stage == stages[0] and after.figure(figure.name, stages[1]) and plain(figure.name)
    )
    changes: list[Comparison] = []
    unpaired: dict[str, list[str]] = {}
    for name in names:
        found = _change(before, after, stages, name)
        if isinstance(found, str):
            unpaired.setdefault(found, []).append(name)
        else:
            changes.append(found)
    judged = [_with_chance(row, before, after, stages) for row in with_verdicts(changes)]
    return Step(before, after, stages, judged, unpaired)


def _change(before: RunData, after: RunData, stages: tuple[str, str], name: str) -> Comparison | str:
    """The paired change of one figure, or why there is none."""
    how = plain(name)
    assert how is not None
    sides = [_rows(run, stage, how) for run, stage in zip((before, after), stages, strict=True)]
    if not _same_items(*sides, weighed=how.kind == "ratio"):
        return OTHER_ITEMS if how.evaluation not in BENCHMARKS or same_version(*sides) else OTHER_VERSION
    labels = (f"{before.label}: {stages[0]}", f"{after.label}: {stages[1]}")
    score = with_outcome(*how.outcomes) if how.outcomes else (lambda record: record.score)
    scores = of_records(dict(zip(labels, sides, strict=True)), score=score)
    for run, stage, label in zip((before, after), stages, labels, strict=True):
        figure = run.figure(name, stage)
        value = interval_of(how.kind, scores[label]).value
        if figure is None or not math.isclose(value, figure.value, rel_tol=0, abs_tol=SAME):
            return OTHER_SCORES
    measured = Measured(name, "", how.kind, scores, how.better, headline=how.headline)
    return comparison_of(measured, *labels, seed=before.seed) or NONE_SHARED


def _with_chance(row: Comparison, before: RunData, after: RunData, stages: tuple[str, str]) -> Comparison:
    """No conclusion where both sides are at chance."""
    both = (before.figure(row.name, stages[0]), after.figure(row.name, stages[1]))
    return replace(row, verdict=AT_CHANCE) if all(map(at_chance, both)) else row


def _rows(run: RunData, stage: str, how: Plain) -> list[Record]:
    rows = run.records(how.evaluation, how.measure, stage)
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
