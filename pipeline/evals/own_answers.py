"""Does the reward model know when a chat model's own answer to a fact is better than none: test questions.

The annotator's wrong answers name a value by chance, which is easily seen to be unlikely. A model's own wrong
answers are those that it finds likely, and these are what it is paid for or not: a policy that follows its
reward is left with the wrong answers of which this reward thinks well. So each own answer that names a value is
set against abstaining: a right one should score higher, a wrong one lower.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from data.randomness import python_random
from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, shown_prompt
from pipeline.measured import Measured, of_records, win_score
from pipeline.ranked_pairs import OVER, RANKING, length_only, longer
from pipeline.records import Record

KIND = "measure"
SUITE = "reward"
NAME = "own_answers"
RIGHT, WRONG = "own_right_over_abstain", "abstain_over_own_wrong"
MEASURES = {"right": RIGHT, "wrong": WRONG, "fabricated": WRONG}


class Config(Settings):
    """How many answers are looked at."""

    items_per_group: int = Field(
        300,
        gt=0,
        description="questions on facts of each group (how often the text tells it), a keyed choice",
    )


def items(context: Context) -> list[Item]:
    """A keyed choice of the questions on facts of each group; none without a reward model."""
    return context.some_of_each_group(NAME, "facts") if context.folder("reward") else []


def measure(context: Context) -> list[Record]:
    """One record of each answer that names a value: 1 where the better of it and abstaining scores higher."""
    asked = items(context)
    chat = [stage for stage, model in context.models.items() if asked and not model.plain]
    return [record for stage in chat for record in _of_stage(context, stage, asked)]


def _of_stage(context: Context, stage: str, asked: Sequence[Item]) -> list[Record]:
    from data.world.tasks import facts
    from pipeline.reward_scores import score_with

    answers = context.answers[stage]
    told = [item for item in asked if context.judge(item, answers[item.id]).outcome in MEASURES]
    own = [answers[item.id] for item in told]
    none = [facts.answer(item.truth, "abstain", python_random(NAME, context.seed, item.id)) for item in told]
    scores = score_with(
        told * 2,
        [*(answer.text for answer in own), *none],
        context,
        ended=[*(answer.ended for answer in own), *(True for _ in none)],
    )
    sides = zip(told, own, none, scores[: len(told)], scores[len(told) :], strict=True)
    return [_record(context, stage, *side) for side in sides]


def _record(
    context: Context, stage: str, item: Item, answer: Answer, none: str, score: float, score_of_none: float
) -> Record:
    outcome = context.judge(item, answer).outcome
    sides = [(answer.text, score), (none, score_of_none)]
    (better, high), (worse, low) = sides if outcome == "right" else reversed(sides)
    return Record(
        item.id,
        item.cluster,
        stage,
        NAME,
        MEASURES[outcome],
        shown_prompt(item),
        f"{better}{OVER}{worse}",
        win_score(high, low),
        item.group,
        outcome,
        f"{high:+.2f} against {low:+.2f}",
    )


def figures(records: Records, context: Context) -> list[Measured]:
    """The share that the reward model ranks as gold does, of own right and of own wrong answers, by tier.

    Models are not compared by it, as each is asked about answers of its own. Nulls: chance and an untrained
    reward model; the longer answer, or the shorter where that is right more often.
    """
    found = []
    names = dict.fromkeys((row.measure, row.group) for rows in records.values() for row in rows)
    for measure, group in sorted(names):
        scores = of_records(records, measure=measure, group=group)
        nulls = {stage: {**RANKING, **length_only(longer(rows))} for stage, rows in scores.items()}
        found.append(Measured(f"reward/{measure}/{group}", "share", "rate", scores, 1, nulls, compared=False))
    return found
