"""Does an answerer know what it knows: confidence against being right, and scores that reward an honest no idea.

Pure functions. `confidence` is in [0, 1] and `right` is 0 or 1, one per attempted answer. `counts` says how often
each answer counts, in many samples at once (samples, answers) or in one (answers,), by default once; the result
has the shape of the samples, and nan where a sample is empty. Answers of equal confidence have no order: where
one is needed, the mean over all orders is taken.

Sources: Naeini et al. 2015 (calibration error), Nguyen and O'Connor 2015 (bins of equal mass), Brier 1950,
Geifman and El-Yaniv 2017 (risk and coverage), Mann and Whitney 1947, Wei et al. 2024 (arXiv 2411.04368,
SimpleQA's F), Kalai et al. 2025 (arXiv 2509.04664, confidence targets), Kuhn et al. 2023 (arXiv 2302.09664) and
Farquhar et al. 2024 (Nature 630, semantic entropy).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

NUM_BINS = 10
Values = Sequence[float] | Float[np.ndarray, " answers"]
Counts = Float[np.ndarray, "*samples answers"]
Result = Float[np.ndarray, "*samples"]


# --- confidence ------------------------------------------------------------------------------------------


def ece(
    confidence: Values, right: Values, counts: Counts | None = None, *, num_bins: int = NUM_BINS
) -> Result:
    """Expected calibration error: mean over bins of equal mass of |mean confidence - share right|; in [0, 1].

    An edge between bins may divide an answer or a tie, of which either has its part, so that all weigh the same.
    """
    values, hits, total = _by_confidence(confidence, right, counts)
    at = np.linspace(0, 1, num_bins + 1)
    gaps = _cumulative_at(total, total * values - hits, at)
    return np.abs(np.diff(gaps, axis=-1)).sum(axis=-1)


def brier(confidence: Values, right: Values, counts: Counts | None = None) -> Result:
    """Mean of (confidence - right)^2; in [0, 1]."""
    values, hits, total = _by_confidence(confidence, right, counts)
    squares = (hits * (1 - values) ** 2 + (total - hits) * values**2).sum(axis=-1)
    return _divided(squares, total.sum(axis=-1))


def auroc(confidence: Values, right: Values, counts: Counts | None = None) -> Result:
    """Chance that a right answer is more confident than a wrong one, ties half; nan without one of either."""
    _, hits, total = _by_confidence(confidence, right, counts)
    misses = total - hits
    below = np.cumsum(misses, axis=-1) - misses / 2
    return _divided((hits * below).sum(axis=-1), hits.sum(axis=-1) * misses.sum(axis=-1))


def risk_at(
    confidence: Values, right: Values, coverages: Values, counts: Counts | None = None
) -> Float[np.ndarray, "*samples coverages"]:
    """Share wrong among the most confident answers, as many as each coverage in (0, 1] says: points of the curve.

    A coverage need not be a whole number of answers: the last one may count in part.
    """
    _, hits, total = _by_confidence(-np.asarray(confidence), right, counts)
    at = np.asarray(coverages, dtype=float)
    return _cumulative_at(total, total - hits, at) / at


def aurc(confidence: Values, right: Values, counts: Counts | None = None) -> Result:
    """Area under the risk-coverage curve: mean over k of the share wrong among the k most confident; in [0, 1].

    Needs whole counts. Of answers whose confidences say nothing it is the share wrong.
    """
    _, hits, total = _by_confidence(-np.asarray(confidence), right, counts)
    misses = total - hits
    ends, wrong = np.cumsum(total, axis=-1), np.cumsum(misses, axis=-1)
    starts, wrong = ends - total, wrong - misses
    # Within a tie of m answers, e of them wrong each: sum over j = 1..m of (wrong + e j) / (start + j).
    each = np.divide(misses, total, out=np.zeros_like(misses), where=total > 0)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, ends.max(initial=0) + 1))])[ends.astype(int)]
    spans = np.diff(harmonic, axis=-1, prepend=0)
    return _divided((misses + (wrong - each * starts) * spans).sum(axis=-1), total.sum(axis=-1))


def ece_by_chance(confidence: Values, *, key: int, num_bins: int = NUM_BINS, num_draws: int = 100) -> float:
    """The `ece` to expect of a perfectly calibrated answerer with these confidences, as its bins are finite."""
    sure = np.asarray(confidence, dtype=float)
    if not len(sure):
        return float("nan")
    generator = np.random.Generator(np.random.Philox(key=key))
    draws = (generator.random((num_draws, len(sure))) < sure).astype(float)
    return float(np.mean([ece(sure, row, num_bins=num_bins) for row in draws]))


# --- confidence from samples -----------------------------------------------------------------------------


def agreement(answer: Hashable, samples: Sequence[Hashable]) -> float:
    """The share of further samples that say what the answer says; in [0, 1].

    Answer and samples are what was said, whatever the words: equal where they mean the same.
    """
    assert samples, "agreement needs a sample"
    return sum(sample == answer for sample in samples) / len(samples)


def semantic_entropy(samples: Sequence[Hashable]) -> float:
    """Entropy of what samples say, `-sum_c p_c log p_c` with p_c the share that says c; nats, in [0, log k].

    The discrete form (Farquhar et al. 2024), with what is equal as a cluster in place of what entails one
    another. From k samples it falls short of the entropy of the model's answers.
    """
    shares = [count / len(samples) for count in Counter(samples).values()]
    return math.fsum(-share * math.log(share) for share in shares)


# --- abstaining ------------------------------------------------------------------------------------------


def simpleqa_f(num_right: Any, num_attempted: Any, num: Any) -> Result:
    """Harmonic mean of the shares right of all and of attempted, `2 right / (all + attempted)`; 0 for none right.

    It is `2 CGA c / (CGA + c)` with c = right / all and CGA = right / attempted (Wei et al. 2024).
    """
    return _divided(2 * np.asarray(num_right, dtype=float), np.asarray(num) + num_attempted)


def target_scores(right: Values, attempted: Values, target: float) -> Float[np.ndarray, " answers"]:
    """Score each answer by a confidence target t: 1 if right, 0 without an attempt, -t / (1 - t) if wrong.

    Attempting pays where the chance of being right is above t, in [0, 1).
    """
    assert 0 <= target < 1, f"confidence target {target} is outside [0, 1)"
    hit, tried = np.asarray(right, dtype=float), np.asarray(attempted, dtype=float)
    return np.where(tried == 0, 0.0, np.where(hit == 1, 1.0, -target / (1 - target)))


# --- inside ----------------------------------------------------------------------------------------------


def _by_confidence(
    confidence: Values, right: Values, counts: Counts | None
) -> tuple[
    Float[np.ndarray, " ties"], Float[np.ndarray, "*samples ties"], Float[np.ndarray, "*samples ties"]
]:
    """The different confidences from low to high, with how many answers each has that are right, and in all."""
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    assert sure.shape == hit.shape, f"{sure.shape} confidences, {hit.shape} answers"
    weights = np.ones(len(sure)) if counts is None else np.asarray(counts, dtype=float)
    order = np.argsort(sure, kind="stable")
    values, starts = np.unique(sure[order], return_index=True)
    if len(values) == 0:
        return values, weights, weights
    weights = weights[..., order]
    hits = weights * hit[order]
    if len(values) < len(sure):
        return (
            values,
            np.add.reduceat(hits, starts, axis=-1),
            np.add.reduceat(weights, starts, axis=-1),
        )
    return values, hits, weights


def _cumulative_at(
    mass: Float[np.ndarray, "*samples ties"],
    amounts: Float[np.ndarray, "*samples ties"],
    at: Float[np.ndarray, " points"],
) -> Float[np.ndarray, "*samples points"]:
    """The amounts that have added up where each share `at` of the mass is reached, per mass; linear in a tie."""
    shape = (*mass.shape[:-1], len(at))
    if not mass.shape[-1]:
        return np.full(shape, np.nan)
    masses = np.cumsum(mass, axis=-1).reshape(-1, mass.shape[-1])
    sums = np.cumsum(amounts, axis=-1).reshape(-1, mass.shape[-1])
    rows = [
        np.interp(at * whole[-1], np.concatenate([[0], whole]), np.concatenate([[0], part])) / whole[-1]
        if whole[-1] > 0
        else np.full(len(at), np.nan)
        for whole, part in zip(masses, sums, strict=True)
    ]
    return np.array(rows).reshape(shape)


def _divided(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The ratio, nan where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) > 0)
