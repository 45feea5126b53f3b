"""How often a stage's answer beats an earlier stage's by gold, ties half, on the headline mix."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Scored, of_records

KIND = "answers"
SUITE = "alignment"


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The headline mix, where the truth is known."""
    return [item for item in context.headline if context.knows(item)]


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """The gold score that decides."""
    judged = context.judge(item, answer)
    return [Score("gold", judged.score, judged.outcome, "", item.task)]


def figures(records: Records, context: Context) -> list[Measured]:
    """Win rates of every stage over every earlier one, and the same among the items that are no ties."""
    scores = of_records(records, measure="gold")
    stages = list(scores)
    found = []
    for place, ours in enumerate(stages):
        for theirs in stages[:place]:
            rows = _wins(scores[ours], scores[theirs])
            nulls = {ours: {"no_difference": 0.5}}
            name = f"win_rate/{ours}_over_{theirs}"
            found.append(Measured(name, "share", "rate", {ours: rows}, 1, nulls, compared=False))
            decided = [row for row in rows if row.score != 0.5]
            if decided:
                found.append(
                    Measured(f"{name}/decided", "share", "rate", {ours: decided}, 1, nulls, compared=False)
                )
    return found


def _wins(ours: list[Scored], theirs: list[Scored]) -> list[Scored]:
    from pipeline.statistics import win_scores

    other = {row.id: row.score for row in theirs}
    shared = [row for row in ours if row.id in other]
    wins = win_scores([row.score for row in shared], [other[row.id] for row in shared])
    return [row._replace(score=float(win)) for row, win in zip(shared, wins, strict=True)]
