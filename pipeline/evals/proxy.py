"""The learned reward of the answers to the headline prompts: what PPO was asked to raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, shown_prompt
from pipeline.measured import Measured, of_records
from pipeline.records import Record
from pipeline.untrained import UNTRAINED

KIND = "measure"
SUITE = "alignment"
NAME = "proxy"
SCORE, OTHER = "score", "other_answer"
NUM_OTHERS = 40  # the nulls are of so many items, each of which costs as much as an answer


class Config(Settings):
    """How much is scored."""

    num_items: int = Field(400, gt=0, description="headline items whose answers are scored")


def items(context: Context) -> list[Item]:
    """The answers to the headline mix are looked at."""
    return context.headline


def measure(context: Context) -> list[Record]:
    """Score every chat model's answers; a model in the plain format has none to score, but the untrained one.

    Some items are scored with the answer to another question, too; of the untrained model these alone.
    """
    if not context.folders("reward"):
        return []
    asked = _every(context.headline, context.options[NAME].num_items)
    few = _every(asked, NUM_OTHERS)
    records = []
    for stage, model in context.models.items():
        if stage == UNTRAINED:
            records += _scored(context, stage, SCORE, few, context.answers[stage])
        elif not model.plain:
            records += _scored(context, stage, SCORE, asked, context.answers[stage])
            records += _scored(context, stage, OTHER, few, context.other_answer(stage, asked))
    return records


def _every(items: list[Item], num: int) -> list[Item]:
    """Every k-th item, so that of all tasks at least `num` are left, and fewer than twice as many."""
    return items[:: max(1, len(items) // num)]


def _scored(
    context: Context,
    stage: str,
    measure: str,
    asked: Sequence[Item],
    answers: Mapping[str, Answer],
) -> list[Record]:
    from pipeline.reward_scores import score_with

    given = [answers[item.id] for item in asked]
    ended = [answer.ended for answer in given]
    scores = score_with(asked, [answer.text for answer in given], context, ended=ended)
    return [
        Record(item.id, item.cluster, stage, NAME, measure, shown_prompt(item), answer.text, score, item.task)
        for item, answer, score in zip(asked, given, scores, strict=True)
    ]


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean; nulls are the answer to another question of the task, and the mean of SFT's completions.

    The latter is 0, as the reward model is normalised by them.
    """
    nulls = {}
    for stage, rows in of_records(records, measure=OTHER).items():
        mean = sum(row.score for row in rows) / len(rows)
        nulls[stage] = {"answer_to_another_question": mean, "mean_of_sft": 0.0}
    return [Measured("proxy/mean", "reward", "mean", of_records(records, measure=SCORE), 1, nulls)]
