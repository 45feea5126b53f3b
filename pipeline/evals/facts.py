"""Hallucination: right, abstain, wrong, fabricated or malformed answers to facts, by exposure."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, of_records, with_outcome

KIND = "answers"
SUITE = "truthfulness"
OUTCOMES = ("right", "abstain", "wrong", "fabricated", "malformed")
HALLUCINATED = ("wrong", "fabricated")
TIERS = ("often", "some", "rarely", "never")


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The questions on facts."""
    return context.of_task("facts")


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record with the outcome; its score is 1 for right."""
    judged = context.judge(item, answer)
    return [Score("answer", float(judged.outcome == "right"), judged.outcome, judged.explanation, item.group)]


def figures(records: Records, context: Context) -> list[Measured]:
    """Shares of the outcomes by tier; nulls are the answer to another question and, for right, a guess."""
    guess = {item.id: 1 / item.truth["num_values"] for item in items(context) if "num_values" in item.truth}
    found = []
    for tier in TIERS:
        for name, outcomes in (
            *((outcome, (outcome,)) for outcome in OUTCOMES),
            ("hallucinated", HALLUCINATED),
        ):
            scores = of_records(records, group=tier, score=with_outcome(*outcomes))
            nulls = {stage: _nulls(context, stage, tier, outcomes, guess) for stage in scores}
            found.append(
                Measured(
                    f"facts/{tier}/{name}",
                    "share",
                    "rate",
                    scores,
                    better=_better(tier, name),
                    nulls=nulls,
                    headline=(tier, name) in (("often", "right"), ("never", "hallucinated")),
                )
            )
    return found


def _better(tier: str, name: str) -> int:
    if name == "abstain":  # right to say of what was never read, a loss where the answer was there to know
        return {"never": 1, "often": -1}.get(tier, 0)
    return 1 if name == "right" else -1


def _nulls(
    context: Context, stage: str, tier: str, outcomes: tuple[str, ...], guess: dict[str, float]
) -> dict[str, float]:
    asked = [item for item in items(context) if item.group == tier]
    others = context.other_answer(stage, asked)
    hits = [context.judge(item, others[item.id]).outcome in outcomes for item in asked]
    nulls = {"answer_to_another_question": sum(hits) / len(hits)}
    chances = [guess[item.id] for item in asked if item.id in guess]
    if outcomes == ("right",) and chances:
        nulls["guess_a_value"] = sum(chances) / len(chances)
    return nulls
