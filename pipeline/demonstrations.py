"""Tasks of the closed world to learn from examples: what is asked, and prompts of the RL part with right answers.

What few-shot prompts and fine-tuning on few rows have in common.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Literal, NamedTuple

from data.errors import InputError
from data.randomness import key
from data.rows import Item
from pipeline.answers import Context
from pipeline.measured import Measured, Scored, changes, mean_of_samples

Task = Literal["facts", "sentiment", "towns"]
KNOWN = "often"  # of facts, those of people whom the training text tells of often


class Demonstration(NamedTuple):
    """An item with a right answer to it."""

    item: Item
    answer: str


def asked_items(context: Context, evaluation: str) -> list[Item]:
    """A keyed choice of `num_items` test items of each of the evaluation's tasks; of facts, well-known ones."""
    config = context.options[evaluation]
    found = []
    for task in config.tasks:
        known = [item for item in context.of_task(task) if _is_known(item)]
        ordered = sorted(known, key=lambda item: key(evaluation, context.seed, item.id))
        found += ordered[: config.num_items]
    return found


def pool(context: Context, evaluation: str) -> dict[str, list[Item]]:
    """The prompts of the RL part by task, for each of the evaluation's tasks; none that goes on something else.

    Raises:
        InputError: there are none at all.
    """
    from data.rows import read_jsonl

    folder = context.folder("corpus")
    path = folder / "items.rl.jsonl" if folder else None
    rows = read_jsonl(path, Item) if path is not None and path.exists() else []
    tasks = context.options[evaluation].tasks
    found: dict[str, list[Item]] = {task: [] for task in tasks}
    for item in rows:
        alone = len(item.prompt) == 1
        if alone and item.task in tasks and context.knows(item) and _is_known(item):
            found[item.task].append(item)
    if not any(found.values()):
        raise InputError(
            f"{evaluation}: the run's corpus has no prompts (items.rl.jsonl) of {', '.join(tasks)} to "
            f"demonstrate with; evaluate a run of the closed world, or name tasks that it has in "
            f"{evaluation}.tasks"
        )
    return found


def _is_known(item: Item) -> bool:
    return item.task != "facts" or item.group == KNOWN


def demonstration(item: Item, rng: Random) -> Demonstration:
    """The item with one of the right answers to it."""
    from data.world.tasks import TASKS

    return Demonstration(item, TASKS[item.task].answer(item.truth, "right", rng))


def guessing(members: Collection[Item]) -> float:
    """The share right of one who guesses among the possible answers."""
    # Of a review there are two opinions, for whatever reason; the others tell the number of their values.
    return sum(1 / item.truth.get("num_values", 2) for item in members) / len(members)


def gain(
    name: str, before: dict[str, list[Scored]], after: dict[str, list[Scored]], null: str = "no_gain"
) -> Measured:
    """The mean change of the score from one condition to another, over the same items, for each stage."""
    gains = {stage: changes(before[stage], rows) for stage, rows in after.items()}
    zero = {stage: {null: 0.0} for stage in gains}
    return Measured(name, "share", "statistic", gains, 1, zero, resampled=mean_of_samples, bounds=(-1.0, 1.0))


def with_any_scored(figures: Sequence[Measured]) -> list[Measured]:
    """The figures without stages of which no item could be scored, and without those that then have none."""
    found = []
    for row in figures:
        scores = {
            stage: rows for stage, rows in row.scores.items() if any(one.score == one.score for one in rows)
        }
        if scores:
            found.append(replace(row, scores=scores))
    return found
