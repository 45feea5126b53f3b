"""Answers whose final number can be checked: the share that is right, by task."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from data.verify import final_number, is_checkable, is_right
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, of_records

KIND = "answers"
SUITE = "truthfulness"


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The items whose truth is a number."""
    return [item for item in context.items if is_checkable(item.truth)]


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """1 where the answer ends with the known number."""
    right = is_right(item.truth, answer.text)
    found = final_number(answer.text)
    return [
        Score(
            "right",
            float(right),
            "right" if right else "malformed" if found is None else "wrong",
            f"ends with {found}, known is {item.truth['answer']}",
            item.task,
        )
    ]


def figures(records: Records, context: Context) -> list[Measured]:
    """The share of each task; the null is the answer to another problem of the task."""
    asked = items(context)
    tasks = sorted({item.task for item in asked})
    found = []
    for task in tasks:
        of_task = [item for item in asked if item.task == task]
        nulls = {}
        for stage in context.answers:
            others = context.other_answer(stage, of_task)
            hits = [is_right(item.truth, others[item.id].text) for item in of_task]
            nulls[stage] = {"answer to another problem": sum(hits) / len(hits)}
        scores = of_records(records, measure="right", group=task)
        found.append(Measured(f"verified/{task}/right", "share", "rate", scores, 1, nulls))
    return found
