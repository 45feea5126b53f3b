"""Who writes better answers: Bradley-Terry over many sides, and win rates as if all answers were equally long.

Pure functions of many samples at once, `counts[s, i]` being how often item i stands in sample s. Sources: Bradley
and Terry 1952; Dubois, Galambosi, Liang and Hashimoto 2024 (arXiv 2404.04475, length control).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pipeline.statistics import Scores, win_scores

NEWTON_STEPS, NEWTON_TOLERANCE = 40, 1e-9  # six to eight steps are usual


def win_counts(
    scores: Float[np.ndarray, "sides items"], counts: Float[np.ndarray, "*samples items"]
) -> Float[np.ndarray, "*samples sides sides"]:
    """How often side i scores higher than side j, ties half; items that either could not score are left out."""
    wins = win_scores(scores[:, None], scores[None])
    shape = (*counts.shape[:-1], len(scores), len(scores))
    return (counts @ np.nan_to_num(wins).reshape(-1, wins.shape[-1]).T).reshape(shape)


def bradley_terry(wins: Float[np.ndarray, "*samples sides sides"]) -> Float[np.ndarray, "*samples sides"]:
    """Strengths by maximum likelihood, `P(i beats j) = sigmoid(s_i - s_j)`; log-odds, of mean 0.

    `wins[i, j]` is how often i beat j, ties half. Who won every time against another counts as having lost half a
    time, as the likelihood may have no finite maximum. All sides must have met, if by way of a third.
    """
    wins = np.asarray(wins, dtype=float)
    sides = np.arange(wins.shape[-1])
    met = wins + wins.swapaxes(-1, -2)
    wins = np.clip(wins, np.minimum(0.5, met / 2), met - np.minimum(0.5, met / 2))
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(strengths[..., :, None] - strengths[..., None, :])
        weight = met * chance * (1 - chance)
        gradient = (wins - met * chance).sum(axis=-1)
        # The likelihood does not change where all strengths grow alike; 1/sides keeps their mean at 0.
        curvature = 1 / len(sides) - weight
        curvature[..., sides, sides] += weight.sum(axis=-1)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        strengths = strengths + _shortened(step)
        if np.abs(step).max(initial=0) < NEWTON_TOLERANCE:
            break
    return strengths


def length_controlled_win_rate(
    wins: Scores, length_differences: Scores, counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    """Win rate that a logistic model predicts for answers of equal length (Dubois et al. 2024).

    `P(win) = sigmoid(a + b tanh(d / sd(d)))` with d = length of ours - of theirs; the result is `sigmoid(a)`.
    `wins` are 0, 1 or, for ties, 1/2. Differs from the paper: no term for how hard an instruction is, as no other
    models' wins are there to estimate it from; and a penalty of 1e-6 a^2 + 1e-6 b^2 per item in place of
    cross-validation, which only keeps the estimate finite where one side always wins.
    """
    won, lengths = np.asarray(wins, dtype=float), np.asarray(length_differences, dtype=float)
    total = counts.sum(axis=1)
    centre = counts @ lengths / total
    square = counts @ lengths**2 / total
    variance = square - centre**2
    # Where all differences are equal, up to rounding, length cannot be told from merit: no control.
    sd = np.sqrt(np.where(variance > 1e-9 * square, variance, np.inf))
    x = np.tanh(lengths / sd[:, None])
    penalty = 1e-6 * total
    a, b = np.zeros(len(counts)), np.zeros(len(counts))
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(a[:, None] + b[:, None] * x)
        missed, weight = counts * (won - chance), counts * chance * (1 - chance)
        weighted = weight * x
        g_a, g_b = missed.sum(axis=1) - penalty * a, (missed * x).sum(axis=1) - penalty * b
        h_aa, h_ab = weight.sum(axis=1) + penalty, weighted.sum(axis=1)
        h_bb = (weighted * x).sum(axis=1) + penalty
        determinant = h_aa * h_bb - h_ab**2
        step = np.stack([h_bb * g_a - h_ab * g_b, h_aa * g_b - h_ab * g_a], axis=1) / determinant[:, None]
        a, b = (np.stack([a, b], axis=1) + _shortened(step)).T
        if np.abs(step).max(initial=0) < NEWTON_TOLERANCE:
            break
    return _sigmoid(a)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))  # never overflows


def _shortened(step: Float[np.ndarray, "*samples parameters"]) -> Float[np.ndarray, "*samples parameters"]:
    """Newton's step, no longer than 2, within which logistic likelihoods do not overshoot by much."""
    return step * 2 / np.maximum(np.abs(step).max(axis=-1, keepdims=True), 2)
