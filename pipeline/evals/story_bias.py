"""Stereotyped, counter-stereotyped and neutral pronouns in stories on a trade, beside the injected skew."""

from __future__ import annotations

from statistics import fmean

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Model, Records, Score
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
    stories = items(context)
    injected = {stage: _injected(context.models[stage], stories) for stage in records}
    return [_share(row, records, injected) for row in FIGURES]


def _share(row: Plain, records: Records, injected: dict[str, dict[str, dict[str, float]]]) -> Measured:
    return row.measured(records, lambda stage: injected[stage].get(row.measure, {}))


def _injected(model: Model, stories: list[Item]) -> dict[str, dict[str, float]]:
    """The generator's shares of stereotyped and counter pronouns, by measure; its stories are never neutral.

    A base model's are those of its own world, where this is known: stories of another may be asked for.
    """
    found: dict[str, dict[str, float]] = {}
    for setting, prefix in (("bias", ""), ("second_bias", "temper_")):
        skews = [item.truth[setting] for item in stories if setting in item.truth]
        if skews:
            own = injected_skew(model, setting)
            excess = fmean(skews) if own is None else own  # exact: a target is read against it
            found[f"{prefix}stereotyped"] = {"injected": (1 + excess) / 2}
            found[f"{prefix}counter"] = {"injected": (1 - excess) / 2}
    return found
