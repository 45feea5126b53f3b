"""TruthfulQA: MC1, MC2 and the binary setting of 2025, by log-probability and by letter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import Field

from data.benchmarks import truthfulqa as source
from data.randomness import key
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.benchmarks import choices, truthfulqa
from pipeline.benchmarks.choices import Choice
from pipeline.measured import Measured, Plain
from pipeline.records import Record

KIND = "measure"
SUITE = "truthfulness"
NAME = "truthfulqa"
# `binary` scores the two answers themselves, `letter` the letters of both shown in a drawn order.
PAIRED = (
    Plain(f"{NAME}/mc1", "mc1"),
    Plain(f"{NAME}/mc2", "mc2", kind="mean", bounds=(0.0, 1.0)),
    Plain(f"{NAME}/binary", "binary"),
    Plain(f"{NAME}/letter", "letter"),
)


class Config(Settings):
    """How much is asked."""

    num_questions: int | None = Field(None, gt=0, description="questions, a keyed choice; null asks all")


@dataclass(frozen=True)
class Task:
    """A question under one measure: what is read, and the answers with what is scored of each."""

    question: source.Question
    measure: str
    context: str
    answers: Sequence[source.Answer]
    continuations: Sequence[str]


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the questions."""
    return source.files(data_root)


def measure(context: Context) -> list[Record]:
    """Score every question under every measure; the group of a record is the version of the file, noted too."""
    questions = source.read(context.run.data_root)
    version = source.version(questions)
    context.run.note(truthfulqa=version)
    ordered = sorted(questions, key=lambda question: key(NAME, context.seed, question.id))
    asked = ordered[: context.options[NAME].num_questions]
    tasks = [task for question in asked for task in _tasks(question, context.seed)]
    requests = list(dict.fromkeys((task.context, text) for task in tasks for text in task.continuations))
    records = []
    for stage in context.models:
        found = context.continuations(stage, requests)
        logprobs = {request: math.fsum(values) for request, values in zip(requests, found, strict=True)}
        records += [_record(task, logprobs, stage, version) for task in tasks]
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean of each measure; its unit names the version of the file, as scores on others say something else.

    Nulls: answers that are equally probable or ranked at random, always the longest, always the shortest, and
    always A.
    """
    versions = " and ".join(sorted({row.group for rows in records.values() for row in rows}))
    found = []
    for row in PAIRED:
        unit = f"{'share' if row.kind == 'rate' else 'probability'}, version {versions}"
        found.append(row.measured(records, partial(_nulls, row.measure, records), unit=unit))
    return [row for row in found if row.scores]


def _tasks(question: source.Question, seed: int) -> list[Task]:
    """The question under MC1 and MC2, and under the binary setting where the file has its answers."""
    context = truthfulqa.answer_context(question.question)
    lists = {"mc1": question.mc1, "mc2": question.mc2}
    if question.binary is None:
        return [_by_answer(question, name, context, answers) for name, answers in lists.items()]
    true, false = question.binary
    shown = (true, false) if choices.true_first(NAME, seed, question.id) else (false, true)
    by_answer = [
        _by_answer(question, name, context, answers) for name, answers in (lists | {"binary": shown}).items()
    ]
    letters = truthfulqa.letter_context(question.question, shown[0].text, shown[1].text)
    return [*by_answer, Task(question, "letter", letters, shown, [f" {name}" for name in truthfulqa.LETTERS])]


def _by_answer(question: source.Question, name: str, context: str, answers: Sequence[source.Answer]) -> Task:
    return Task(question, name, context, answers, [f" {answer.text}" for answer in answers])


def _record(task: Task, logprobs: dict[tuple[str, str], float], stage: str, version: str) -> Record:
    pairs = zip(task.answers, task.continuations, strict=True)
    found = [Choice(answer.text, answer.true, logprobs[task.context, text]) for answer, text in pairs]
    best = choices.chosen(found)
    return Record(
        task.question.id,
        task.question.category or task.question.id,
        stage,
        NAME,
        task.measure,
        task.question.question,
        best.text if best else "",
        SCORES[task.measure]([choice.logprob for choice in found], [choice.true for choice in found]),
        version,
        "" if best is None else "true" if best.true else "false",
        choices.write(found),
    )


SCORES: dict[str, Callable[[Sequence[float], Sequence[bool]], float]] = {
    "mc1": truthfulqa.mc1,
    "mc2": truthfulqa.mc2,
    "binary": choices.share_true,
    "letter": choices.share_true,
}


def _nulls(name: str, records: Records, stage: str) -> dict[str, float]:
    """Of the questions that could be scored, from the answers that the records hold."""
    rows = records[stage]
    shown = [choices.read(row.explanation) for row in rows if row.measure == name and row.score == row.score]
    chance = truthfulqa.mc2_chance if name == "mc2" else truthfulqa.mc1_chance
    nulls: dict[str, Callable[[Sequence[Choice]], float]] = {
        "chance": lambda answers: chance([answer.true for answer in answers]),
        "longest": partial(choices.by_length, longest=True),
        "shortest": partial(choices.by_length, longest=False),
    }
    if name == "letter":
        nulls["always_a"] = lambda answers: float(answers[0].true)
    return {null: sum(map(score, shown)) / len(shown) for null, score in nulls.items() if shown}
