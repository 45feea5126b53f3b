"""Hallucination: right, abstain, wrong, fabricated or malformed answers to facts, by exposure.

Some test questions have a wording that no training text has, so that a fact is told from a question learnt by
heart: shares of both kinds, and their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Plain, rarer_by, two_means_of_samples

KIND = "answers"
SUITE = "truthfulness"
OUTCOMES = ("right", "abstain", "wrong", "fabricated", "malformed")
HALLUCINATED = ("wrong", "fabricated")
SHARES = {**{outcome: (outcome,) for outcome in OUTCOMES}, "hallucinated": HALLUCINATED}
TIERS = ("often", "some", "rarely", "never")
# To abstain is right of what was never read, and a loss where the answer was there to know.
ABSTAIN_BETTER = {"often": -1, "some": 0, "rarely": 0, "never": 1}
BY_WORDING = ("right", "hallucinated", "abstain")
WORDINGS = {False: "seen_wording", True: "unseen_wording"}
HEADLINE = (("often", "right"), ("never", "hallucinated"))
FIGURES = tuple(
    Plain(
        f"facts/{tier}/{share}",
        "answer",
        tier,
        outcomes,
        better={"right": 1, "abstain": ABSTAIN_BETTER[tier]}.get(share, -1),
        headline=(tier, share) in HEADLINE,
    )
    for tier in TIERS
    for share, outcomes in SHARES.items()
)
PAIRED = tuple(
    row
    for row in FIGURES
    if row.outcomes == ("right",) or row.name in ("facts/never/hallucinated", "facts/never/abstain")
)


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
    asked = items(context)
    shares = [row.measured(records, partial(_nulls, context, row, asked)) for row in FIGURES]
    return shares + _by_wording(records, asked, context)


def _by_wording(records: Records, asked: Sequence[Item], context: Context) -> list[Measured]:
    """Shares of the questions whose wording was read and of the others, and the excess of the latter."""
    unseen = {item.id: bool(item.truth["held_out"]) for item in asked if "held_out" in item.truth}
    found = []
    for row in FIGURES:
        kinds = {unseen[item.id] for item in asked if item.group == row.group and item.id in unseen}
        if len(kinds) < 2 or row.name.rpartition("/")[2] not in BY_WORDING:
            continue
        for kind, name in WORDINGS.items():
            members = [item for item in asked if unseen.get(item.id) == kind]
            ids = {item.id for item in members}
            kept = {stage: [r for r in rows if r.id in ids] for stage, rows in records.items()}
            plain = row._replace(name=f"{row.name}/{name}", headline=False)
            found.append(plain.measured(kept, partial(_nulls, context, row, members)))
        scores = {
            stage: [r._replace(weight=float(unseen[r.id])) for r in rows if r.id in unseen]
            for stage, rows in row.scores(records).items()
        }
        found.append(
            Measured(
                f"{row.name}/wording_gap",
                "share",
                "statistic",
                scores,
                nulls={stage: {"no_difference": 0.0} for stage in scores},
                resampled=two_means_of_samples,
                bounds=(-1.0, 1.0),
                rests_on=rarer_by(lambda r: r.weight),
            )
        )
    # Stages are compared on all questions of a tier.
    return [replace(row, compared=False) for row in found]


def _nulls(context: Context, row: Plain, members: Sequence[Item], stage: str) -> dict[str, float]:
    asked = [item for item in members if item.group == row.group]
    others = context.other_answer(stage, [item for item in items(context) if item.group == row.group])
    hits = [context.judge(item, others[item.id]).outcome in row.outcomes for item in asked]
    nulls = {"answer_to_another_question": sum(hits) / len(hits)}
    chances = [1 / item.truth["num_values"] for item in asked if "num_values" in item.truth]
    if row.outcomes == ("right",) and chances:
        nulls["guess_a_value"] = sum(chances) / len(chances)
    return nulls
