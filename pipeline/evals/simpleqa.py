"""SimpleQA: short factual questions answered greedily; correct, incorrect or not attempted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from data.benchmarks import simpleqa as source
from data.randomness import key
from data.rows import user
from data.settings import Settings
from pipeline.answers import PLAIN_STOP, Context, Records
from pipeline.benchmarks import simpleqa
from pipeline.benchmarks.simpleqa import CORRECT, INCORRECT, NOT_ATTEMPTED
from pipeline.measured import Measured, Plain, Scored, f_of_attempts, of_records, with_outcome
from pipeline.records import Record

KIND = "measure"
SUITE = "truthfulness"
NAME = "simpleqa"
MEASURE = "answer"
PAIRED = (
    Plain(f"{NAME}/correct", MEASURE, outcomes=(CORRECT,)),
    Plain(f"{NAME}/hallucinated", MEASURE, outcomes=(INCORRECT,), better=-1),
)
ATTEMPTED = Plain(f"{NAME}/attempted", MEASURE, outcomes=(CORRECT, INCORRECT), better=0)
KNOWN = "known is "  # an explanation begins so, and the known answer follows


class Config(Settings):
    """How much is asked."""

    num_questions: int = Field(300, gt=0, description="questions, a keyed choice")
    max_new_tokens: int = Field(32, gt=0, description="longest answer, tokens")


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The file of the questions."""
    return source.files(data_root)


def measure(context: Context) -> list[Record]:
    """Let every model answer greedily and grade it by a normalised match; the group is the topic.

    A question that leaves no room for an answer in the model's context could not be scored.
    """
    questions = source.read(context.run.data_root)
    ordered = sorted(questions, key=lambda question: key(NAME, context.seed, question.id))
    asked = ordered[: context.options[NAME].num_questions]
    records = []
    for stage in context.models:
        answers = _answers(context, stage, asked)
        records += [_record(question, answers.get(question.id), stage) for question in asked]
        context.run.check_stop()
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Rates of all questions, rates of the attempted ones, and F.

    Those of the attempted ones are not compared: each stage attempts other questions. F tells both at once.
    Nulls: always abstaining, and the most common known answer to every question.
    """
    nulls = {stage: _nulls(rows) for stage, rows in records.items()}
    attempted = {
        stage: [row for row in rows if row.outcome != NOT_ATTEMPTED] for stage, rows in records.items()
    }
    rates = [row.measured(records) for row in (*PAIRED, ATTEMPTED)]
    rates += [
        Measured(
            f"{NAME}/{name}_of_attempted",
            "share",
            "rate",
            of_records(attempted, measure=MEASURE, score=with_outcome(grade)),
            better,
            compared=False,
        )
        for name, grade, better in (("correct", CORRECT, 1), ("hallucinated", INCORRECT, -1))
    ]
    return [
        *(
            replace(row, scores=_with_any(row.scores), nulls=_named(nulls, row.name.rpartition("/")[2]))
            for row in rates
        ),
        f_of_attempts(f"{NAME}/f", _attempts(records), _named(nulls, "f"), unit="F"),
    ]


def _answers(context: Context, stage: str, asked: Sequence[source.Question]) -> dict[str, str]:
    """A model's greedy answers by question, where there is room for one."""
    from pipeline.language_model import context_of

    config, model, plain = context.options[NAME], context.model(stage), context.models[stage].plain
    room = context_of(model.model) - config.max_new_tokens
    prompts = {question.id: _prompt(question.question, plain=plain) for question in asked}
    fitting = [name for name, prompt in prompts.items() if len(model.encode(prompt)) <= room]
    completions = model.generate(
        [prompts[name] for name in fitting],
        keys=[key(NAME, context.seed, name) for name in fitting],
        max_new_tokens=config.max_new_tokens,
        temperature=0.0,
        stop=PLAIN_STOP if plain else None,
        batch_size=context.config.batch_size,
    )
    return {name: done.text.strip() for name, done in zip(fitting, completions, strict=True)}


def _prompt(question: str, *, plain: bool) -> Any:
    """The plain question format for a model to continue, or a conversation for it to answer."""
    return f"Question: {question}\nAnswer:" if plain else list(user(question))


def _record(question: source.Question, answer: str | None, stage: str) -> Record:
    """The grade of one answer; None could not be given, and is neither wrong nor an abstention."""
    grade = "" if answer is None else simpleqa.grade(answer, question.answer, question.question)
    return Record(
        question.id,
        question.source or question.id,
        stage,
        NAME,
        MEASURE,
        question.question,
        answer or "",
        float(grade == CORRECT) if grade else math.nan,
        question.topic,
        grade,
        f"{KNOWN}{question.answer}",
    )


def _with_any(scores: Mapping[str, Sequence[Scored]]) -> dict[str, Sequence[Scored]]:
    """The stages that have an item to show: one that never attempts has no rate of attempted questions."""
    return {stage: rows for stage, rows in scores.items() if any(row.score == row.score for row in rows)}


def _attempts(records: Records) -> dict[str, list[Scored]]:
    """Score 1 for a correct answer, weight 1 for an attempt."""
    return {
        stage: [Scored(row.id, row.cluster, row.score, float(row.outcome != NOT_ATTEMPTED)) for row in rows]
        for stage, rows in records.items()
    }


def _nulls(rows: Sequence[Record]) -> dict[str, dict[str, float]]:
    """By null, the rates that it would have on the questions that could be scored."""
    scored = [row.explanation.removeprefix(KNOWN) for row in rows if row.score == row.score]
    known = [tuple(simpleqa.words(answer)) for answer in scored]
    if not known:
        return {}
    common = Counter(known).most_common(1)[0][0]
    grades = {
        "always_abstaining": [NOT_ATTEMPTED] * len(known),
        "most_common_answer": [CORRECT if answer == common else INCORRECT for answer in known],
    }
    return {name: simpleqa.rates(found)._asdict() for name, found in grades.items()}


def _named(nulls: dict[str, dict[str, dict[str, float]]], name: str) -> dict[str, dict[str, float]]:
    """One rate of every null that has it, by stage."""
    return {
        stage: {null: found[name] for null, found in of_stage.items() if found[name] == found[name]}
        for stage, of_stage in nulls.items()
    }
