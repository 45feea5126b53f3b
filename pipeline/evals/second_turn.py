"""Does a model keep the thread: the reward of a second question, behind one about something else.

The reward is the closed world's exact one. Every question of a keyed choice from the headline mix is asked behind
another one of it and the model's own answer to that, as in a talk with a person; beside it stands what the model
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
from pipeline.answers import Answer, Context, Records, draw, fitting_items, prompt_of, shown_prompt
from pipeline.measured import Measured, Scored, of_records
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

    A question that leaves no room for an answer there, in the context of any model, is not asked.
    """
    questions = _questions(context)
    found = []
    for stage, model in context.models.items():
        asked = _asked(context, stage, questions)
        drawn = draw(
            context.model(stage),
            [prompt_of(item, plain=model.plain) for item in asked],
            ids=[item.id for item in asked],
            keys=[key(NAME, context.seed, item.id) for item in asked],
            config=context.config,
            plain=model.plain,
        )
        for (_, item), behind, answer in zip(questions, asked, drawn, strict=True):
            found.append(_record(context, stage, ALONE, item, context.answers[stage][item.id]))
            found.append(_record(context, stage, BEHIND, behind, answer))
        context.run.check_stop()
    return found


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean behind another question, and by how much it is more than that of the same questions alone."""
    alone, behind = (of_records(records, measure=measure) for measure in (ALONE, BEHIND))
    changes = {stage: _changes(alone[stage], rows) for stage, rows in behind.items()}
    nulls = {stage: {"the_question_alone": _mean(rows)} for stage, rows in alone.items()}
    unchanged = {stage: {"no_change": 0.0} for stage in changes}
    return [
        Measured(f"{NAME}/gold", "reward", "mean", behind, 1, nulls),
        Measured(f"{NAME}/change", "reward", "mean", changes, 1, unchanged),
    ]


def _questions(context: Context) -> list[tuple[Item, Item]]:
    """Pairs (earlier, asked) of the keyed choice: each question behind the one before it, in a circle."""
    chosen = sorted(items(context), key=lambda item: key(NAME, context.seed, item.id))
    chosen = chosen[: context.options[NAME].num_items]
    questions = list(zip(chosen[-1:] + chosen[:-1], chosen, strict=True))
    for stage in context.models:
        fitting = {item.id for item in fitting_items(context, stage, _asked(context, stage, questions))}
        questions = [pair for pair in questions if pair[1].id in fitting]
    return questions


def _asked(context: Context, stage: str, questions: Sequence[tuple[Item, Item]]) -> list[Item]:
    answers = context.answers[stage]
    return [_behind(earlier, answers[earlier.id], item) for earlier, item in questions]


def _behind(earlier: Item, answer: Answer, item: Item) -> Item:
    """The question in a talk that began with an earlier one and its answer."""
    said: Message = {"role": "assistant", "content": answer.text}
    prompt = (*earlier.prompt, said, *item.prompt)
    return replace(item, prompt=prompt, plain=plain(prompt))


def _record(context: Context, stage: str, measure: str, item: Item, answer: Answer) -> Record:
    judged = context.judge(item, answer)
    return Record(
        item.id,
        item.cluster,
        stage,
        NAME,
        measure,
        shown_prompt(item),
        answer.text,
        judged.score,
        item.task,
        judged.outcome,
        judged.explanation,
    )


def _changes(alone: Sequence[Scored], behind: Sequence[Scored]) -> list[Scored]:
    return [
        after._replace(score=after.score - before.score) for before, after in zip(alone, behind, strict=True)
    ]


def _mean(rows: Sequence[Scored]) -> float:
    return sum(row.score for row in rows) / len(rows)
