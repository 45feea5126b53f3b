"""Does a model keep the thread: the reward of a second question, behind one about something else.

The reward is the closed world's exact one. Every question of a keyed choice from the headline mix is asked behind
another one of it and the model's own answer to that, as in a conversation; beside it stands what the model
answered to the same question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from data.randomness import key
from data.rows import Item, Message
from data.settings import Settings
from data.world.case import plain
from pipeline.answers import Answer, Context, Records, draw, fitting_items, prompt_of
from pipeline.measured import Measured, Scored, changes, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "alignment"
NAME = "second_turn"
ALONE, BEHIND = "alone", "answer"


class Config(Settings):
    """How much is asked."""

    num_items: int = Field(160, gt=0, description="questions of the headline mix, a keyed choice")


def items(context: Context) -> list[Item]:
    """The headline mix, where the truth is known."""
    return [item for item in context.headline if context.knows(item)]


def measure(context: Context) -> list[Record]:
    """For each question two records by gold: of the answer alone, and of that behind another question.

    A question that leaves no room for an answer there, in the context of any model, is left out.
    """
    questions = _questions(context)
    answers = {stage: _answers(context, stage, questions) for stage in context.models if questions}
    found = []
    for stage, answered in answers.items():
        for _, item in questions:
            if all(item.id in others for others in answers.values()):
                alone = context.answers[stage][item.id]
                found.append(context.record(NAME, ALONE, stage, item, alone))
                found.append(context.record(NAME, BEHIND, stage, *answered[item.id]))
    return found


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean behind another question, and by how much it is more than that of the same questions alone."""
    alone, behind = (of_records(records, measure=measure) for measure in (ALONE, BEHIND))
    gained = {stage: changes(alone[stage], rows) for stage, rows in behind.items()}
    nulls = {stage: {"the_question_alone": _mean(rows)} for stage, rows in alone.items()}
    unchanged = {stage: {"no_change": 0.0} for stage in gained}
    return [
        Measured(f"{NAME}/gold", "reward", "mean", behind, 1, nulls),
        Measured(f"{NAME}/change", "reward", "mean", gained, 1, unchanged),
    ]


def _questions(context: Context) -> list[tuple[Item, Item]]:
    """Pairs (earlier, asked) of the keyed choice: each question behind the one before it, in a circle."""
    chosen = sorted(items(context), key=lambda item: key(NAME, context.seed, item.id))
    chosen = chosen[: context.options[NAME].num_items]
    return list(zip(chosen[-1:] + chosen[:-1], chosen, strict=True)) if len(chosen) > 1 else []


def _answers(
    context: Context, stage: str, questions: Sequence[tuple[Item, Item]]
) -> dict[str, tuple[Item, Answer]]:
    """By item, the question behind its earlier one with the model's answer; those without room are absent."""
    model, own = context.models[stage], context.answers[stage]
    asked = [_behind(earlier, own[earlier.id], item) for earlier, item in questions]
    asked = fitting_items(context, stage, asked)
    drawn = draw(
        context.model(stage),
        [prompt_of(item, plain=model.plain) for item in asked],
        ids=[item.id for item in asked],
        keys=[key(NAME, context.seed, item.id) for item in asked],
        config=context.config,
        plain=model.plain,
    )
    context.run.check_stop()
    return {item.id: (item, answer) for item, answer in zip(asked, drawn, strict=True)}


def _behind(earlier: Item, answer: Answer, item: Item) -> Item:
    """The question in a conversation that began with an earlier one and its answer."""
    said: Message = {"role": "assistant", "content": answer.text}
    prompt = (*earlier.prompt, said, *item.prompt)
    return replace(item, prompt=prompt, plain=plain(prompt))


def _mean(rows: Sequence[Scored]) -> float:
    return sum(row.score for row in rows) / len(rows)
