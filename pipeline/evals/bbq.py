"""BBQ: whether the stereotype answers where the text does not tell, and against the text where it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from data.benchmarks import bbq as source
from data.randomness import key
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.benchmarks import bbq
from pipeline.benchmarks.bbq import BIASED, UNKNOWN
from pipeline.measured import Measured, Plain, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "bias"
NAME = "bbq"
# Measures of records. The outcome of a record of bias is the role of the answer, that of a record of accuracy the
# role of the right answer: so the score of what always answers in one role can be computed from the records.
BIAS_AMB, BIAS_DIS, RIGHT_AMB, RIGHT_DIS = "bias_amb", "bias_dis", "right_amb", "right_dis"
S_AMB = Plain(f"{NAME}/s_amb", BIAS_AMB, kind="mean", better=0, bounds=(-1.0, 1.0))
ACCURACIES = (Plain(f"{NAME}/accuracy_amb", RIGHT_AMB), Plain(f"{NAME}/accuracy_dis", RIGHT_DIS))
PAIRED = (S_AMB, *ACCURACIES)


class Config(Settings):
    """How much is asked."""

    questions_per_category: int | None = Field(
        None, gt=0, description="questions of each category, a keyed choice of contexts; null asks all"
    )


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of all categories that lie there."""
    return source.files(data_root)


def measure(context: Context) -> list[Record]:
    """Choose among the three answers of each question: two records, its bias and whether it is right."""
    questions = _chosen(source.read(context.run.data_root), context)
    requests = [
        (bbq.prompt(question.context, question.question), f" {answer}")
        for question in questions
        for answer in question.answers
    ]
    records = []
    for stage in context.models:
        sums = [math.fsum(values) for values in context.continuations(stage, requests)]
        for place, question in enumerate(questions):
            records += _records(question, sums[3 * place : 3 * place + 3], stage)
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """s_AMB, s_DIS and both accuracies, over all questions and by category.

    Neither bias score has a better direction: 0 is best.
    """
    categories = dict.fromkeys(row.group for rows in records.values() for row in rows)
    found = []
    for category in (None, *sorted(categories)):
        rows = {
            stage: [row for row in rows if category in (None, row.group)] for stage, rows in records.items()
        }
        prefix = NAME if category is None else f"{NAME}/{category.lower()}"
        found += _figures(prefix, rows)
    return found


def _figures(prefix: str, records: Records) -> list[Measured]:
    """The four figures of some records."""
    s_amb, *accuracies = (row._replace(name=row.name.replace(NAME, prefix, 1)) for row in PAIRED)
    s_dis = Measured(
        f"{prefix}/s_dis",
        "bias score",
        "ratio",
        of_records(records, measure=BIAS_DIS),
        nulls=dict.fromkeys(records, DIS_NULLS),
        bounds=(-1.0, 1.0),
    )
    return [
        s_amb.measured(records, lambda stage: AMB_NULLS, unit="bias score"),
        s_dis,
        *(row.measured(records, partial(_accuracy_nulls, row.measure, records)) for row in accuracies),
    ]


# Of any answerer that is as likely to name either person; one that always answers unknown has no s_DIS.
AMB_NULLS: Mapping[str, float] = {"chance": 0.0, "always_unknown": 0.0, "always_biased": 1.0}
DIS_NULLS: Mapping[str, float] = {"chance": 0.0, "always_biased": 1.0}


def _accuracy_nulls(measure: str, records: Records, stage: str) -> dict[str, float]:
    roles = [row.outcome for row in records[stage] if row.measure == measure and row.outcome]
    if not roles:
        return {"chance": 1 / 3}
    shares = {f"always_{name}": roles.count(name) / len(roles) for name in (UNKNOWN, BIASED)}
    return {"chance": 1 / 3} | shares


def _chosen(questions: Sequence[source.Question], context: Context) -> list[source.Question]:
    """The first of each category by the key of their context, in the order of the files.

    Questions on one context stay together, as those on one context are answered the faster.
    """
    limit = context.options[NAME].questions_per_category
    if limit is None:
        return list(questions)
    taken: dict[str, int] = {}
    kept: set[str] = set()
    for question in sorted(questions, key=lambda asked: (key(NAME, context.seed, asked.context), asked.id)):
        taken[question.category] = taken.get(question.category, 0) + 1
        if taken[question.category] <= limit:
            kept.add(question.id)
    return [question for question in questions if question.id in kept]


def _records(question: source.Question, logprobs: Sequence[float], stage: str) -> list[Record]:
    answer = bbq.choose(logprobs)
    biased = bbq.NONE if question.biased is None else question.biased
    chosen, right = (bbq.role(n, biased, question.unknown) for n in (answer, question.right))
    bias = float(bbq.bias_scores([answer], [biased], [question.unknown])[0])
    correct = float(bbq.right_scores([answer], [question.right])[0])
    shared = (question.id, question.template, stage, NAME)
    asked = bbq.prompt(question.context, question.question)
    text = "" if answer == bbq.NONE else question.answers[answer]
    shown = "; ".join(f"{name} {value:.2f}" for name, value in zip(question.answers, logprobs, strict=True))
    names = (BIAS_AMB, RIGHT_AMB) if question.ambiguous else (BIAS_DIS, RIGHT_DIS)
    weight = float(chosen != UNKNOWN)
    return [
        Record(*shared, names[0], asked, text, bias, question.category, chosen, shown, weight),
        Record(*shared, names[1], asked, text, correct, question.category, right, shown),
    ]
