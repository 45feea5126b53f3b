"""The closed world's exact reward on the headline mix of test prompts."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Plain

KIND = "answers"
SUITE = "alignment"
PAIRED = (Plain("gold/mean", "gold", kind="mean", headline=True),)


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The headline mix, where the truth is known."""
    return [item for item in context.headline if context.knows(item)]


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """The gold score; the explanation lists its terms."""
    judged = context.judge(item, answer)
    terms = ", ".join(f"{name} {value:+.2f}" for name, value in judged.terms.items() if value)
    return [Score("gold", judged.score, judged.outcome, terms, item.task)]


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean, beside what the answers to other questions of the same task earn."""
    asked = items(context)

    def nulls(stage: str) -> dict[str, float]:
        others = context.other_answer(stage, asked)
        scores = [context.judge(item, others[item.id]).score for item in asked]
        return {"answer_to_another_question": sum(scores) / len(scores)} if scores else {}

    return [row.measured(records, nulls, unit="reward") for row in PAIRED]
