"""HaluEval: right against hallucinated answers, by log-probability and by letter, and verdicts on answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from data.benchmarks import halueval as source
from data.randomness import key
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.benchmarks import choices, halueval
from pipeline.benchmarks.choices import Choice
from pipeline.measured import Measured, Plain, Scored, of_records, rarer_by
from pipeline.records import Record

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

KIND = "measure"
SUITE = "truthfulness"
NAME = "halueval"
# `likelier` compares summed log-probabilities, which favour short answers; `per_token` their means.
OF_PAIRS = ("likelier", "per_token", "letter")
VERDICT, MARGIN = "verdict", "margin"
PAIRED = (Plain(f"{NAME}/{VERDICT}", VERDICT),)
HALLUCINATED, RIGHT = "hallucinated", "right"

Logprobs = dict[tuple[str, str], list[float]]


class Config(Settings):
    """How much is asked."""

    num_pairs: int = Field(
        500, gt=0, description="questions of the pairs, a keyed choice, in every file of them"
    )
    num_labelled: int = Field(1000, gt=0, description="labelled answers, a keyed choice")


@dataclass(frozen=True)
class Task:
    """Something to choose: what is read, and the answers (text, true) with what is scored of each."""

    id: str
    cluster: str
    group: str
    measure: str
    prompt: str
    context: str
    answers: tuple[tuple[str, bool], ...]
    continuations: tuple[str, ...]


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the pairs and of the labelled answers."""
    return source.files(data_root)


def measure(context: Context) -> list[Record]:
    """Let every model choose between the answers of each pair, and judge the labelled answers."""
    found, config, seed = source.read(context.run.data_root), context.options[NAME], context.seed
    questions = sorted({pair.question for pair in found.pairs}, key=lambda text: key(NAME, seed, text))
    kept = set(questions[: config.num_pairs])
    labelled = sorted(found.labelled, key=lambda row: key(NAME, seed, row.id))[: config.num_labelled]
    tasks = [task for pair in found.pairs if pair.question in kept for task in _of_pair(pair, seed)]
    tasks += [_of_labelled(row) for row in labelled]
    requests = list(dict.fromkeys((task.context, text) for task in tasks for text in task.continuations))
    records = []
    for stage in context.models:
        logprobs = dict(zip(requests, context.continuations(stage, requests), strict=True))
        records += [record for task in tasks for record in _records(task, logprobs, stage)]
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """The share of right choices for each file of pairs, and accuracy and AUROC of the verdicts.

    Nulls: chance, always the shorter or longer answer, always A; of verdicts the majority, and how well the
    length of what was read tells them.
    """
    groups = sorted({row.group for rows in records.values() for row in rows if row.measure in OF_PAIRS})
    shares = [_of_choices(records, name, group) for group in groups for name in OF_PAIRS]
    margins = {stage: found for stage, rows in records.items() if (found := _margins(rows))}
    return [
        *(share for share in shares if share.scores),
        *(row.measured(records, lambda stage: _verdict_nulls(records[stage])) for row in PAIRED),
        Measured(
            f"{NAME}/auroc",
            "AUROC",
            "statistic",
            margins,
            better=1,
            nulls={stage: _auroc_nulls(records[stage]) for stage in margins},
            resampled=_auroc,
            bounds=(0.0, 1.0),
            rests_on=rarer_by(lambda row: row.weight),
        ),
    ]


def _of_pair(pair: source.Pair, seed: int) -> list[Task]:
    """The pair under every measure; both answers stand in an order drawn by key, the same for every file."""
    true_first = choices.true_first(NAME, seed, pair.question)
    answers = ((pair.right, True), (pair.hallucinated, False))
    shown = answers if true_first else answers[::-1]
    (first, _), (second, _) = shown
    context = halueval.answer_context(pair.knowledge, pair.question)
    texts = tuple(f" {text}" for text, _ in shown)
    letters = halueval.letter_context(pair.knowledge, pair.question, first, second)
    names = tuple(f" {letter}" for letter in halueval.LETTERS)
    common = (pair.id, pair.question, pair.group)
    return [
        *(Task(*common, name, context, context, shown, texts) for name in ("likelier", "per_token")),
        Task(*common, "letter", letters, letters, shown, names),
    ]


def _of_labelled(row: source.Labelled) -> Task:
    context = halueval.verdict_context(row.query, row.response)
    answers = ((halueval.YES, row.hallucinated), (halueval.NO, not row.hallucinated))
    continuations = tuple(f" {text}" for text, _ in answers)
    prompt = f"{row.query}\n{row.response}"
    return Task(row.id, row.query, source.GENERAL, VERDICT, prompt, context, answers, continuations)


def _records(task: Task, logprobs: Logprobs, stage: str) -> list[Record]:
    """The record of the choice, and for a verdict one of its margin, whose outcome is what people found."""
    scored = [logprobs[task.context, text] for text in task.continuations]
    values = [_mean(found) if task.measure == "per_token" else math.fsum(found) for found in scored]
    found = [Choice(text, true, value) for (text, true), value in zip(task.answers, values, strict=True)]
    best = choices.chosen(found)
    score = choices.share_true(values, [choice.true for choice in found])
    shared = (task.id, task.cluster, stage, NAME)
    shown = (task.prompt, best.text if best else "")
    if task.measure != VERDICT:
        return [Record(*shared, task.measure, *shown, score, task.group, "", choices.write(found))]
    outcome = HALLUCINATED if found[0].true else RIGHT
    margin = values[0] - values[1]
    return [
        Record(*shared, VERDICT, *shown, score, task.group, outcome, choices.write(found)),
        Record(*shared, MARGIN, *shown, margin, task.group, outcome),
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _of_choices(records: Records, name: str, group: str) -> Measured:
    scores = of_records(records, measure=name, group=group)
    nulls = {stage: _pair_nulls(name, group, records[stage]) for stage in scores}
    return Measured(f"{NAME}/{name}/{group}", "share", "rate", scores, better=1, nulls=nulls)


def _pair_nulls(name: str, group: str, rows: Sequence[Record]) -> dict[str, float]:
    """Of the pairs that could be scored, from the answers that the records hold."""
    shown = [
        choices.read(row.explanation)
        for row in rows
        if row.measure == name and row.group == group and row.score == row.score
    ]
    nulls: dict[str, Callable[[Sequence[Choice]], float]] = {
        "chance": lambda answers: 0.5,
        "shortest": partial(choices.by_length, longest=False),
        "longest": partial(choices.by_length, longest=True),
    }
    if name == "letter":
        nulls["always_a"] = lambda answers: float(answers[0].true)
    return {null: sum(map(score, shown)) / len(shown) for null, score in nulls.items() if shown}


def _verdict_nulls(rows: Sequence[Record]) -> dict[str, float]:
    kept = [row for row in rows if row.measure == VERDICT and row.score == row.score]
    if not kept:
        return {}
    yes = sum(row.outcome == HALLUCINATED for row in kept) / len(kept)
    return {"chance": 0.5, "majority": max(yes, 1 - yes)}


def _margins(
    rows: Sequence[Record], value: Callable[[Record], float] = lambda row: row.score
) -> list[Scored]:
    """A value of each labelled answer; its weight is 1 where people found it hallucinated, else 0."""
    return [
        Scored(row.id, row.cluster, value(row), float(row.outcome == HALLUCINATED))
        for row in rows
        if row.measure == MARGIN
    ]


def _auroc_nulls(rows: Sequence[Record]) -> dict[str, float]:
    """Chance, and the length of what was read in place of the margin, of the answers that could be scored."""
    import numpy as np

    by_length = _margins(rows, lambda row: len(row.prompt))
    kept = [new for new, old in zip(by_length, _margins(rows), strict=True) if old.score == old.score]
    return {"chance": 0.5, "longer": float(_auroc(kept, np.ones((1, len(kept))))[0])}


def _auroc(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    from pipeline.calibration import auroc

    return auroc([row.score for row in rows], [row.weight for row in rows], counts)
