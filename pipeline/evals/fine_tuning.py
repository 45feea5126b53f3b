"""Learning from few rows: right answers after fine-tuning on 16, 64 and 256 rows of a task, as a curve.

Rows are prompts of the RL part of the closed world with their right answers, none on what is asked about; fewer
rows are among more. A copy of each model is trained in the format that the model is asked in: all of its layers
or the last one alone. After none, the answers are the stage's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from data.errors import InputError
from data.randomness import key, python_random
from data.rows import Item
from data.settings import Settings
from pipeline import demonstrations
from pipeline.answers import Answer, Context, Records, draw, prompt_of, shown_prompt
from pipeline.demonstrations import Demonstration, Task
from pipeline.measured import Measured, Scored, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "language"
ON_REQUEST = True  # it trains
NAME = "fine_tuning"
NONE = "0"  # the measure of the answers before any fine-tuning


class Config(Settings):
    """What is learnt and asked, from how many rows, and how."""

    tasks: tuple[Task, ...] = Field(
        ("facts", "sentiment", "towns"), min_length=1, description="tasks, each with a plain format"
    )
    num_rows: tuple[int, ...] = Field(
        (16, 64, 256),
        min_length=1,
        description="numbers of rows, rising, from 1; those that a task has too few prompts for are left out",
    )
    layers: tuple[Literal["all", "last"], ...] = Field(
        ("all", "last"), min_length=1, description="layers that learn: all, or the last with what follows it"
    )
    epochs: int = Field(8, gt=0, le=1000, description="passes over the rows")
    batch_size: int = Field(16, gt=0, description="rows in one step")
    learning_rate: float = Field(4e-4, gt=0, le=1, description="of AdamW, at its highest")
    num_items: int = Field(120, gt=0, description="test items of each task, a keyed choice")

    @field_validator("num_rows")
    @classmethod
    def _rising(cls, num_rows: tuple[int, ...]) -> tuple[int, ...]:
        if list(num_rows) != sorted(set(num_rows)) or num_rows[0] < 1:
            raise ValueError(f"num_rows {list(num_rows)} must rise from 1 or more")
        return num_rows


class Lesson(NamedTuple):
    """One copy to be trained: on the first so many rows of a task, in all layers or the last one."""

    task: str
    layers: Literal["all", "last"]
    num_rows: int

    @property
    def measure(self) -> str:
        """Its name in records and figures."""
        return f"{self.layers}/{self.num_rows}"


def items(context: Context) -> list[Item]:
    """A keyed choice of each task's items; of facts, those on well-known people.

    Raises:
        InputError: the run has no prompts to train on, or a task has fewer than the least number of rows.
    """
    asked = demonstrations.asked_items(context, NAME)
    rows = _rows(context, asked)
    least = context.options[NAME].num_rows[0]
    for task, found in rows.items():
        if len(found) < least:
            raise InputError(
                f"{NAME}: {least} rows of {task} are wanted and the corpus has {len(found)} on something else "
                f"than the questions; lower {NAME}.num_rows or leave the task out of {NAME}.tasks"
            )
    return asked


def measure(context: Context) -> list[Record]:
    """Answer every item before and after each fine-tuning."""
    asked = items(context)
    rows = _rows(context, asked)
    too_many = {
        task: [num for num in context.options[NAME].num_rows if num > len(left)]
        for task, left in rows.items()
    }
    context.run.note(fine_tuning_too_few_prompts={task: nums for task, nums in too_many.items() if nums})
    found = []
    for stage in context.models:
        own = [context.answers[stage][item.id] for item in asked]
        found += [_record(context, stage, NONE, *pair) for pair in zip(asked, own, strict=True)]
        for lesson in _lessons(context, rows):
            members = [item for item in asked if item.task == lesson.task]
            answers = _answers_after(context, stage, lesson, rows[lesson.task], members)
            found += [
                _record(context, stage, lesson.measure, *pair) for pair in zip(members, answers, strict=True)
            ]
    return found


def figures(records: Records, context: Context) -> list[Measured]:
    """The share right after each number of rows, what the most of them gain, and all layers against the last.

    Nulls: guessing one of the possible answers, and copying the answer of the row whose question has most words
    in common.
    """
    if not records:
        return []
    config: Config = context.options[NAME]
    asked = demonstrations.asked_items(context, NAME)
    rows = _rows(context, asked)
    found = []
    for task in config.tasks:
        members = [item for item in asked if item.task == task]
        curves = {name: of_records(records, measure=name, group=task) for name in _measures(config)}
        for name, scores in curves.items():
            num = int(name.rpartition("/")[2])
            nulls = _nulls(context, members, rows[task][:num]) if any(scores.values()) else {}
            named = dict.fromkeys(scores, nulls)
            found.append(Measured(f"{NAME}/{task}/{name}", "share", "rate", scores, 1, named))
        found += _gains(task, curves, config)
    return demonstrations.with_any_scored(found)


def _measures(config: Config) -> list[str]:
    return [NONE, *(f"{layers}/{num}" for layers in config.layers for num in config.num_rows)]


def _gains(task: str, curves: dict[str, dict[str, list[Scored]]], config: Config) -> list[Measured]:
    """What the most rows gain over none by layers, and what all layers gain over the last after each number."""
    learnt = [num for num in config.num_rows if curves[f"{config.layers[0]}/{num}"]]
    if not learnt:
        return []
    found = [
        demonstrations.gain(f"{NAME}/{task}/{layers}/gain", curves[NONE], curves[f"{layers}/{learnt[-1]}"])
        for layers in config.layers
    ]
    if {"all", "last"} <= set(config.layers):
        found += [
            demonstrations.gain(
                f"{NAME}/{task}/all_over_last/{num}",
                curves[f"last/{num}"],
                curves[f"all/{num}"],
                "no_difference",
            )
            for num in learnt
        ]
    return found


def _nulls(context: Context, members: Sequence[Item], rows: Sequence[Demonstration]) -> dict[str, float]:
    found = {"guess": demonstrations.guessing(members)}
    if rows:
        copied = [Answer(item.id, _nearest(item, rows).answer, True, [], []) for item in members]
        hits = [
            context.judge(item, answer).outcome == "right"
            for item, answer in zip(members, copied, strict=True)
        ]
        found["copy_nearest_row"] = sum(hits) / len(hits)
    return found


def _nearest(item: Item, rows: Sequence[Demonstration]) -> Demonstration:
    """The first row whose question shares the largest part of both questions' words with the item's."""
    asked = _words(item)

    def shared(row: Demonstration) -> float:
        told = _words(row.item)
        return len(asked & told) / len(asked | told)

    return max(rows, key=shared)


def _words(item: Item) -> set[str]:
    from data.world import reading

    return set(reading.lower_words(shown_prompt(item)))


# --- what is learnt --------------------------------------------------------------------------------------


def _rows(context: Context, asked: Sequence[Item]) -> dict[str, list[Demonstration]]:
    """The rows of each task in a keyed order; none is on what is asked about.

    Raises:
        InputError: the run has no prompts to train on.
    """
    told = {_subject(item) for item in asked}
    found = {}
    for task, members in demonstrations.pool(context, NAME).items():
        left = [item for item in members if _subject(item) not in told]
        ordered = sorted(left, key=lambda item: key(NAME, context.seed, item.id))
        found[task] = [
            demonstrations.demonstration(item, python_random(NAME, context.seed, item.id)) for item in ordered
        ]
    return found


def _subject(item: Item) -> str:
    """What a question is about: whom or which town; of a review, what it remarks."""
    return str(item.truth.get("name") or item.truth.get("remarks"))


def _lessons(context: Context, rows: dict[str, list[Demonstration]]) -> Iterator[Lesson]:
    """Every fine-tuning for which there are rows."""
    config: Config = context.options[NAME]
    for task in config.tasks:
        for layers in config.layers:
            for num in config.num_rows:
                if num <= len(rows[task]):
                    yield Lesson(task, layers, num)


def _answers_after(
    context: Context, stage: str, lesson: Lesson, rows: Sequence[Demonstration], asked: Sequence[Item]
) -> list[Answer]:
    """The answers of a copy of the model after a lesson; the order of rows is the same for every model."""
    from pipeline.fine_tune import encode_rows, fine_tuned

    config: Config = context.options[NAME]
    loaded, plain = context.model(stage), context.models[stage].plain
    learnt = rows[: lesson.num_rows]
    encoded = encode_rows(loaded, [row.item for row in learnt], [row.answer for row in learnt], plain=plain)
    told = f"{stage} on {lesson.num_rows} rows of {lesson.task}, {lesson.layers} layers"
    with context.run.progress(told, config.epochs * len(encoded), "rows") as bar:
        tuned = fine_tuned(
            loaded.model,
            encoded,
            layers=lesson.layers,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=key(NAME, context.seed, lesson.task),
            advance=bar.advance,
        )
    context.run.check_stop()
    return draw(
        replace(loaded, model=tuned),
        [prompt_of(item, plain=plain) for item in asked],
        ids=[item.id for item in asked],
        keys=[key("evaluate", context.seed, item.id) for item in asked],
        config=context.config,
        plain=plain,
    )


def _record(context: Context, stage: str, measure: str, item: Item, answer: Answer) -> Record:
    return context.record(NAME, measure, stage, item, answer, lambda judged: float(judged.outcome == "right"))
