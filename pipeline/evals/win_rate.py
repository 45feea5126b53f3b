"""Win rates by gold on the headline mix, ties half; the same at equal length, and strengths over all stages.

The scores are those of the evaluation `gold`. The length of an answer is in characters. Formulas of the latter
two in `pipeline.rankings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.measured import Measured, Scored, length_controlled, of_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

KIND = "records"
RECORDS = "gold"
SUITE = "alignment"
OF_SEVERAL = True  # a figure is of a model among others


class Config(Settings):
    """No settings."""


def figures(records: Records, context: Context) -> list[Measured]:
    """Every stage over every earlier one (all items, those that are no ties, at equal length), and strengths.

    Nulls: no difference; and an untrained model in the stage's place, against the same others.
    """
    scores = of_records(records, measure="gold")
    stages = list(scores)
    pairs = [(ours, theirs) for place, ours in enumerate(stages) for theirs in stages[:place]]
    found = [figure for ours, theirs in pairs for figure in _of_pair(ours, theirs, scores)]
    return found + (_strengths(scores) if pairs else [])


def _of_pair(ours: str, theirs: str, scores: dict[str, list[Scored]]) -> list[Measured]:
    rows = _wins(scores[ours], scores[theirs])
    decided = [row for row in rows if row.score != 0.5]
    nulls = {ours: {"no_difference": 0.5}}
    name = f"{ours}_over_{theirs}"
    found = [Measured(f"win_rate/{name}", "share", "rate", {ours: rows}, 1, nulls, compared=False)]
    if decided:
        found.append(
            Measured(f"win_rate/{name}/decided", "share", "rate", {ours: decided}, 1, nulls, compared=False)
        )
    return [*found, length_controlled(f"win_rate/length_controlled/{name}", ours, rows)]


def _wins(ours: list[Scored], theirs: list[Scored]) -> list[Scored]:
    """1 where ours wins, 1/2 for a tie; the weight is by how many characters ours is longer."""
    from pipeline.statistics import win_scores

    other = {row.id: row for row in theirs}
    shared = [row for row in ours if row.id in other]
    wins = win_scores([row.score for row in shared], [other[row.id].score for row in shared])
    return [
        row._replace(score=float(win), weight=float(len(row.text) - len(other[row.id].text)))
        for row, win in zip(shared, wins, strict=True)
    ]


def _strengths(scores: dict[str, list[Scored]]) -> list[Measured]:
    """One figure for each stage, which depends on all of them; on the items that all have answered."""
    gold = {
        stage: {row.id: row.score for row in rows if row.score == row.score} for stage, rows in scores.items()
    }
    shared = set.intersection(*(set(values) for values in gold.values()))
    found = []
    for place, (stage, rows) in enumerate(scores.items()):

        def resampled(rows: Sequence[Scored], counts: np.ndarray, place: int = place) -> np.ndarray:
            import numpy as np

            from pipeline.rankings import bradley_terry, win_counts

            columns = np.array([[values[row.id] for row in rows] for values in gold.values()])
            return bradley_terry(win_counts(columns, counts))[:, place]

        kept = {stage: [row for row in rows if row.id in shared]}
        nulls = {stage: {"no_difference": 0.0}}
        found.append(
            Measured(
                "win_rate/strength",
                "log-odds",
                "statistic",
                kept,
                1,
                nulls,
                compared=False,
                resampled=resampled,
            )
        )
    return found
