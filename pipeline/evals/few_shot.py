"""Learning from examples in the prompt: right answers after 0, 1 and 4 demonstrations of the task.

Demonstrations (Brown et al. 2020, arXiv 2005.14165, section 2) are prompts of the RL part of the closed world
with their right answers, never on what is asked about; the nearest are the same for every number of them. Base
models see them in the plain question format, chat models as earlier turns. After none of them, the answers are
the stage's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from data.errors import InputError
from data.randomness import key, python_random
from data.rows import Item, Message
from data.settings import Settings
from pipeline import demonstrations
from pipeline.answers import Answer, Context, Records, draw, prompt_of
from pipeline.demonstrations import Demonstration, Task
from pipeline.measured import Measured, of_records
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.language_model import LanguageModel

KIND = "measure"
SUITE = "language"
ON_REQUEST = True  # it draws answers of its own
NAME = "few_shot"
NO_ROOM = "too long"


class Config(Settings):
    """What is asked, and after how many demonstrations."""

    tasks: tuple[Task, ...] = Field(
        ("facts", "sentiment", "towns"), min_length=1, description="tasks, each with a plain format"
    )
    ks: tuple[int, ...] = Field(
        (0, 1, 4), min_length=1, description="numbers of demonstrations, rising, each in [0, 32]"
    )
    num_items: int = Field(120, gt=0, description="test items of each task, a keyed choice")

    @field_validator("ks")
    @classmethod
    def _rising(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if list(ks) != sorted(set(ks)) or not 0 <= ks[0] <= ks[-1] <= 32:
            raise ValueError(f"ks {list(ks)} must rise and lie in [0, 32]")
        return ks


def items(context: Context) -> list[Item]:
    """A keyed choice of each task's items; of facts, those on well-known people.

    Raises:
        InputError: the run has no prompts to demonstrate with.
    """
    demonstrations.pool(context, NAME)
    return demonstrations.asked_items(context, NAME)


def measure(context: Context) -> list[Record]:
    """Answer every item after each number of demonstrations; nan where a prompt leaves no room for an answer."""
    asked = items(context)
    shown = _demonstrations(context, asked)
    return [
        _record(context, item, shown[item.id][:k], stage, k, answer)
        for stage in context.models
        for k in context.options[NAME].ks
        for item, answer in zip(asked, _answers(context, stage, asked, shown, k), strict=True)
    ]


def figures(records: Records, context: Context) -> list[Measured]:
    """The share right of each task and number, and what the most demonstrations gain over the fewest.

    Nulls: guessing one of the possible answers, and copying the nearest demonstration.
    """
    config: Config = context.options[NAME]
    asked = items(context) if records else []
    shown = _demonstrations(context, asked)
    found = []
    for task in config.tasks:
        members = [item for item in asked if item.task == task]
        curves = {k: of_records(records, measure=str(k), group=task) for k in config.ks}
        for k, scores in curves.items():
            nulls = dict.fromkeys(scores, _nulls(context, members, shown, k)) if members else {}
            found.append(Measured(f"{NAME}/{task}/{k}", "share", "rate", scores, 1, nulls))
        first, last = config.ks[0], config.ks[-1]
        if first != last:
            found.append(demonstrations.gain(f"{NAME}/{task}/gain", curves[first], curves[last]))
    return demonstrations.with_any_scored(found)


def _nulls(
    context: Context, members: Sequence[Item], shown: dict[str, list[Demonstration]], k: int
) -> dict[str, float]:
    found = {"guess": demonstrations.guessing(members)}
    if k:
        copied = [Answer(item.id, shown[item.id][0].answer, True, [], []) for item in members]
        hits = [
            context.judge(item, answer).outcome == "right"
            for item, answer in zip(members, copied, strict=True)
        ]
        found["copy_demonstration"] = sum(hits) / len(hits)
    return found


# --- what is asked ---------------------------------------------------------------------------------------


def _demonstrations(context: Context, asked: Sequence[Item]) -> dict[str, list[Demonstration]]:
    """For each item as many demonstrations as are wanted, the nearest to the question first.

    All are of the item's task, and none shares its cluster, which names what it is about, or that of another.

    Raises:
        InputError: a task has too few.
    """
    most = context.options[NAME].ks[-1]
    pool = demonstrations.pool(context, NAME) if asked else {}
    return {item.id: _drawn(context, item, pool[item.task], most) for item in asked}


def _drawn(context: Context, item: Item, pool: Sequence[Item], num: int) -> list[Demonstration]:
    rng = python_random(NAME, context.seed, item.id)
    taken = {item.cluster}
    found: list[Demonstration] = []
    for other in rng.sample(pool, len(pool)):
        if len(found) == num:
            break
        if other.cluster not in taken:
            taken.add(other.cluster)
            found.append(demonstrations.demonstration(other, rng))
    if len(found) < num:
        raise InputError(
            f"{NAME}: {num} demonstrations of {item.task} are wanted and the corpus has {len(found)} on "
            "something else than the question; lower few_shot.ks or leave the task out of few_shot.tasks"
        )
    return found


def prompt(item: Item, shown: Sequence[Demonstration], *, plain: bool) -> Any:
    """The question after its demonstrations, the nearest last: plain lines, or turns of a conversation."""
    asked = prompt_of(item, plain=plain)
    if plain:
        told = [f"{prompt_of(row.item, plain=True)} {row.answer}\n" for row in reversed(shown)]
        return "".join(told) + asked
    turns: list[Message] = []
    for row in reversed(shown):
        turns += [*row.item.prompt, Message(role="assistant", content=row.answer)]
    return turns + asked


# --- what is answered ------------------------------------------------------------------------------------


def _answers(
    context: Context, stage: str, asked: Sequence[Item], shown: dict[str, list[Demonstration]], k: int
) -> list[Answer | None]:
    """The answers after k demonstrations; each item has its own random stream, the same for every k and model."""
    if k == 0:
        return [context.answers[stage][item.id] for item in asked]
    config, model = context.config, context.models[stage]
    prompts = [prompt(item, shown[item.id][:k], plain=model.plain) for item in asked]
    loaded = context.model(stage)
    fitting = [place for place, text in enumerate(prompts) if _fits(loaded, text, config.max_new_tokens)]
    with context.run.progress(f"{stage} with {k} demonstrations", len(fitting), "items") as bar:
        drawn = draw(
            loaded,
            [prompts[place] for place in fitting],
            ids=[asked[place].id for place in fitting],
            keys=[key("evaluate", context.seed, asked[place].id) for place in fitting],
            config=config,
            plain=model.plain,
        )
        bar.advance(len(fitting))
    context.run.check_stop()
    found: list[Answer | None] = [None] * len(asked)
    for place, answer in zip(fitting, drawn, strict=True):
        found[place] = answer
    return found


def _fits(loaded: LanguageModel, text: Any, max_new_tokens: int) -> bool:
    from pipeline.language_model import context_of

    return len(loaded.encode(text)) + max_new_tokens <= context_of(loaded.model)


def _record(
    context: Context,
    item: Item,
    shown: Sequence[Demonstration],
    stage: str,
    k: int,
    answer: Answer | None,
) -> Record:
    """The prompt is shown in the plain format, whatever the model was asked in."""
    common = (item.id, item.cluster, stage, NAME, str(k), prompt(item, shown, plain=True))
    if answer is None:
        return Record(*common, "", math.nan, item.task, "", NO_ROOM)
    judged = context.judge(item, answer)
    right = float(judged.outcome == "right")
    return Record(*common, answer.text, right, item.task, judged.outcome, judged.explanation)
