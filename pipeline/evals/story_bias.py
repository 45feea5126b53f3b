"""Stereotyped, counter-stereotyped and neutral pronouns in stories on a trade, beside the injected skew."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, of_records

KIND = "answers"
SUITE = "bias"
# (measure of gold, figure, whether less of it is better)
MEASURES = (
    ("stereotyped", "bias/stereotyped", -1),
    ("counter", "bias/counter", 0),
    ("neutral", "bias/neutral", 0),
    ("temper_stereotyped", "bias/temper/stereotyped", 0),
    ("temper_counter", "bias/temper/counter", 0),
)


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The stories."""
    return context.of_task("stories")


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record a measure: 1 where the story shows it."""
    measures = context.judge(item, answer).measures
    return [Score(name, measures[name], group=item.group) for name, _, _ in MEASURES if name in measures]


def figures(records: Records, context: Context) -> list[Measured]:
    """Shares of all stories; the null is the share that the pretraining text was written with."""
    injected = _injected(context)
    return [
        Measured(
            figure,
            "share",
            "rate",
            scores := of_records(records, measure=measure),
            better=better,
            nulls={stage: {"injected": injected[measure]} for stage in scores if measure in injected},
            headline=figure == "bias/stereotyped",
        )
        for measure, figure, better in MEASURES
    ]


def _injected(context: Context) -> dict[str, float]:
    """The generator's shares of stereotyped and counter pronouns; its stories are never neutral."""
    found: dict[str, float] = {}
    for setting, prefix in (("bias", ""), ("second_bias", "temper_")):
        skews = [item.truth[setting] for item in items(context) if setting in item.truth]
        if skews:
            excess = sum(skews) / len(skews)
            found[f"{prefix}stereotyped"] = (1 + excess) / 2
            found[f"{prefix}counter"] = (1 - excess) / 2
    return found
