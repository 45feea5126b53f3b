"""Stereotyped, counter-stereotyped and neutral pronouns in stories on a trade, beside the injected skew."""

from __future__ import annotations

from statistics import fmean

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.injected import injected_skew
from pipeline.measured import Measured, Plain

KIND = "answers"
SUITE = "bias"
STEREOTYPED = Plain("bias/stereotyped", "stereotyped", better=-1, headline=True)
NEUTRAL = Plain("bias/neutral", "neutral", better=0)
# The measures are gold's.
FIGURES = (
    STEREOTYPED,
    Plain("bias/counter", "counter", better=0),
    NEUTRAL,
    Plain("bias/temper/stereotyped", "temper_stereotyped", better=0),
    Plain("bias/temper/counter", "temper_counter", better=0),
)
PAIRED = (STEREOTYPED, NEUTRAL)


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The stories."""
    return context.of_task("stories")


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record a measure: 1 where the story shows it."""
    measures = context.judge(item, answer).measures
    names = (row.measure for row in FIGURES)
    return [Score(name, measures[name], group=item.group) for name in names if name in measures]


def figures(records: Records, context: Context) -> list[Measured]:
    """Shares of all stories; the null is the share that the text was written with which the model has read."""
    return [_share(row, records, context) for row in FIGURES]


def _share(row: Plain, records: Records, context: Context) -> Measured:
    return row.measured(records, lambda stage: _injected(row.measure, stage, context))


def _injected(measure: str, stage: str, context: Context) -> dict[str, float]:
    """The generator's share of stereotyped or counter pronouns or tempers; its stories are never neutral.

    A base model's is that of its own world, where this is known: stories of another may be asked for.
    """
    setting = "second_bias" if measure.startswith("temper_") else "bias"
    side = {"stereotyped": 1, "counter": -1}.get(measure.removeprefix("temper_"))
    skews = [item.truth[setting] for item in items(context) if setting in item.truth]
    if side is None or not skews:
        return {}
    model = context.models[stage]
    own = injected_skew(model, setting) if model.plain else None
    excess = fmean(skews) if own is None else own  # exact: a target is read against it
    return {"injected": (1 + side * excess) / 2}
