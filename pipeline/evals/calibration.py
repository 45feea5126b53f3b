"""Is a model as sure of its answers as they are right: calibration error, Brier score, risk at coverage, AUROC.

Among attempted answers to the questions on facts. Confidence is the answer's probability per token, the geometric
mean over its tokens with the one that ends it, as it was sampled; a record keeps it as its weight. Formulas in
`pipeline.calibration`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from data.randomness import key
from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Scored, of_records, rarer_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

KIND = "answers"
SUITE = "truthfulness"
RIGHT = "right"
ATTEMPTED = (RIGHT, "wrong", "fabricated")


class Config(Settings):
    """Bins and points of the curve."""

    num_bins: int = Field(10, gt=0, description="bins of equal mass of the calibration error")
    coverages: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75),
        description="shares in (0, 1] of the answers, the most confident ones, of which the risk is shown",
    )

    @field_validator("coverages")
    @classmethod
    def _inside(cls, coverages: tuple[float, ...]) -> tuple[float, ...]:
        outside = [coverage for coverage in coverages if not 0 < coverage <= 1]
        if outside:
            raise ValueError(f"coverages {outside} are outside (0, 1]; 1 is all answers")
        return coverages


def items(context: Context) -> list[Item]:
    """The questions on facts."""
    return context.of_task("facts")


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record of an attempted answer: 1 for right, weighing its confidence; none of another answer."""
    judged = context.judge(item, answer)
    if judged.outcome not in ATTEMPTED or not answer.logprobs:
        return []
    confidence = math.exp(min(sum(answer.logprobs) / len(answer.logprobs), 0.0))
    right = float(judged.outcome == RIGHT)
    return [
        Score("answer", right, judged.outcome, f"confidence {confidence:.3f}", item.group, weight=confidence)
    ]


Scores = dict[str, "list[Scored]"]
Nulls = dict[str, dict[str, float]]


def figures(records: Records, context: Context) -> list[Measured]:
    """Figures of confidence; nulls are always being sure, confidence that tells nothing, and the length."""
    from pipeline import calibration

    scores, config = of_records(records), context.options["calibration"]
    wrong = {stage: 1 - sum(row.score for row in rows) / len(rows) for stage, rows in scores.items()}
    chance = {stage: _ece_by_chance(rows, stage, context) for stage, rows in scores.items()}
    constant = {
        stage: {"always_sure": share, "constant": share * (1 - share)} for stage, share in wrong.items()
    }
    unordered = {stage: {"no_order": share} for stage, share in wrong.items()}
    by_length = {stage: {"chance": 0.5, "length": _auroc_of_length(rows)} for stage, rows in scores.items()}

    def ece(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return calibration.ece(confidence, right, counts, num_bins=config.num_bins)

    errors = {stage: _squared_errors(rows) for stage, rows in scores.items()}
    calibrated = {
        stage: {"always_sure": share, "perfectly_calibrated": chance[stage]} for stage, share in wrong.items()
    }
    return [
        replace(_statistic("ece", "probability", -1, scores, calibrated, ece), bounds=(0.0, 1.0)),
        Measured("calibration/brier", "squared error", "mean", errors, -1, constant, bounds=(0.0, 1.0)),
        _statistic("aurc", "share", -1, scores, unordered, calibration.aurc),
        replace(
            _statistic("auroc", "probability", 1, scores, by_length, calibration.auroc),
            bounds=(0.0, 1.0),
            rests_on=rarer_by(lambda row: row.score),
        ),
        *(_risk(coverage, scores, unordered) for coverage in config.coverages),
    ]


def _statistic(
    name: str,
    unit: str,
    better: int,
    scores: Scores,
    nulls: Nulls,
    of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Measured:
    """A figure of confidence, right and counts."""

    def resampled(rows: Sequence[Scored], counts: np.ndarray) -> np.ndarray:
        return of(*_columns(rows), counts)

    return Measured(f"calibration/{name}", unit, "statistic", scores, better, nulls, resampled=resampled)


def _risk(coverage: float, scores: Scores, nulls: Nulls) -> Measured:
    """Share wrong of the most confident answers, with all that are as confident as the last of them."""
    found: Scores = {}
    for stage, rows in scores.items():
        ordered = sorted((row.weight for row in rows), reverse=True)
        least = ordered[math.ceil(coverage * len(rows) - 1e-9) - 1]
        found[stage] = [row._replace(score=1 - row.score) for row in rows if row.weight >= least]
    # Not compared, as the most confident answers of two stages are to other questions.
    return Measured(f"calibration/risk/{coverage:g}", "share", "rate", found, -1, nulls, compared=False)


def _columns(rows: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and 1 for right."""
    import numpy as np

    return np.array([row.weight for row in rows]), np.array([row.score for row in rows])


def _squared_errors(rows: Sequence[Scored]) -> list[Scored]:
    return [row._replace(score=(row.weight - row.score) ** 2) for row in rows]


def _ece_by_chance(rows: Sequence[Scored], stage: str, context: Context) -> float:
    from pipeline.calibration import ece_by_chance

    draws = key("ece by chance", context.seed, stage)
    return ece_by_chance(_columns(rows)[0], key=draws, num_bins=context.options["calibration"].num_bins)


def _auroc_of_length(rows: Sequence[Scored]) -> float:
    """AUROC of the answer's length in characters as its confidence, shorter or longer, whichever tells more."""
    from pipeline.calibration import auroc

    found = float(auroc([len(row.text) for row in rows], [row.score for row in rows]))
    return max(found, 1 - found)
