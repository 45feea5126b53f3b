"""The learned reward of the answers to the headline prompts: what PPO was asked to raise."""

from __future__ import annotations

from pydantic import Field

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Context, Records, shown_prompt
from pipeline.measured import Measured, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "alignment"


class Config(Settings):
    """How much is scored."""

    num_items: int = Field(400, gt=0, description="headline items whose answers are scored")


def items(context: Context) -> list[Item]:
    """The answers to the headline mix are looked at."""
    return context.headline


def measure(context: Context) -> list[Record]:
    """Score every chat model's answers; a model in the plain format has none to score."""
    if not context.folders("reward"):
        return []
    from pipeline.reward_scores import score_with

    asked = context.headline[:: max(1, len(context.headline) // context.options["proxy"].num_items)]
    records = []
    for stage, model in context.models.items():
        if model.plain:
            continue
        answers = [context.answers[stage][item.id] for item in asked]
        ended = [answer.ended for answer in answers]
        scores = score_with(asked, [answer.text for answer in answers], context, ended=ended)
        for item, answer, score in zip(asked, answers, scores, strict=True):
            shown = (shown_prompt(item), answer.text)
            records.append(Record(item.id, item.cluster, stage, "proxy", "score", *shown, score, item.task))
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean; 0 is the mean of the SFT model's completions where the reward model is normalised."""
    return [Measured("proxy/mean", "reward", "mean", of_records(records, measure="score"), better=1)]
