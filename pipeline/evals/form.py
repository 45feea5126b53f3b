"""Length of the answers, and the share of them that end by themselves."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Plain

KIND = "answers"
SUITE = "alignment"
LENGTH, ENDS = Plain("length", "length", kind="mean", better=0), Plain("ends", "ends")
PAIRED = (LENGTH, ENDS)


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The headline mix."""
    return context.headline


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """The number of tokens, the one that ends it included, and whether it ended."""
    return [
        Score("length", float(len(answer.tokens)), group=item.task),
        Score("ends", float(answer.ended), group=item.task),
    ]


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean length and the share that ends."""
    longest = {"longest_allowed": float(context.config.max_new_tokens)}
    length = LENGTH._replace(bounds=(0.0, longest["longest_allowed"]))
    return [length.measured(records, lambda stage: longest, unit="tokens"), ENDS.measured(records)]
