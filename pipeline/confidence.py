"""Figures of a confidence in answers: how far it is off, and how well it tells right answers from wrong ones.

Of scored answers: the score is 1 for right, the weight is the confidence. Formulas in `pipeline.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from data.randomness import key
from pipeline.answers import Answer
from pipeline.measured import Measured, Scored, rarer_by

if TYPE_CHECKING:
    import numpy as np

ATTEMPTED = ("right", "wrong", "fabricated")  # outcomes of answers that claim something
Scores = dict[str, list[Scored]]


def of_tokens(answer: Answer) -> float:
    """The probability per token: the geometric mean over the tokens with the one that ends the answer."""
    # Rounding can put a sure token's log-probability above 0.
    return math.exp(min(sum(answer.logprobs) / len(answer.logprobs), 0.0))


def ece(name: str, scores: Scores, *, seed: int, num_bins: int) -> Measured:
    """Calibration error; nulls are always being sure, and what chance leaves of perfect calibration."""
    from pipeline import calibration

    nulls = {
        stage: {
            "always_sure": share,
            "perfectly_calibrated": calibration.ece_by_chance(
                _columns(scores[stage])[0], key=key("ece by chance", seed, stage), num_bins=num_bins
            ),
        }
        for stage, share in shares_wrong(scores).items()
    }

    def of(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return calibration.ece(confidence, right, counts, num_bins=num_bins)

    return replace(_statistic(name, "probability", -1, scores, nulls, of), bounds=(0.0, 1.0))


def aurc(name: str, scores: Scores) -> Measured:
    """Area under the risk-coverage curve; the null is confidence that tells nothing."""
    from pipeline import calibration

    nulls = {stage: {"no_order": share} for stage, share in shares_wrong(scores).items()}
    return _statistic(name, "share", -1, scores, nulls, calibration.aurc)


def auroc(name: str, scores: Scores) -> Measured:
    """Chance that a right answer is more confident than a wrong one; nulls are one half, and the length."""
    from pipeline import calibration

    nulls = {stage: {"chance": 0.5, "length": _auroc_of_length(rows)} for stage, rows in scores.items()}
    found = _statistic(name, "probability", 1, scores, nulls, calibration.auroc)
    return replace(found, bounds=(0.0, 1.0), rests_on=rarer_by(lambda row: row.score))


def shares_wrong(scores: Scores) -> dict[str, float]:
    """The share of each stage's answers that are wrong."""
    return {stage: 1 - sum(row.score for row in rows) / len(rows) for stage, rows in scores.items()}


def _statistic(
    name: str,
    unit: str,
    better: int,
    scores: Scores,
    nulls: dict[str, dict[str, float]],
    of: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Measured:
    """A figure of confidence, right and counts."""

    def resampled(rows: Sequence[Scored], counts: np.ndarray) -> np.ndarray:
        return of(*_columns(rows), counts)

    return Measured(name, unit, "statistic", scores, better, nulls, resampled=resampled)


def _columns(rows: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and 1 for right."""
    import numpy as np

    return np.array([row.weight for row in rows]), np.array([row.score for row in rows])


def _auroc_of_length(rows: Sequence[Scored]) -> float:
    """AUROC of the answer's length in characters as its confidence, shorter or longer, whichever tells more."""
    from pipeline.calibration import auroc

    found = float(auroc([len(row.text) for row in rows], [row.score for row in rows]))
    return max(found, 1 - found)
