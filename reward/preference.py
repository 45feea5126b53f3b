"""Bradley-Terry: the probability that one completion is preferred to another, from their scores.

`P(chosen over rejected) = sigmoid(chosen - rejected)`. Bradley and Terry 1952; as the loss of a reward model
Christiano et al. 2017 (section 2.2.3), Stiennon et al. 2020 (section 3.4). Scores are log-odds in nats: only
differences mean something, so adding a constant to every score changes nothing here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


class Calibration(NamedTuple):
    """Stated confidence against accuracy, over bins of equal width of the confidence in [1/2, 1]."""

    error: float
    confidence: list[float]
    accuracy: list[float]
    sizes: list[int]


def bradley_terry_loss(
    chosen: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    margin: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Average `-log sigmoid(chosen - rejected - margin)` over pairs, in nats; log 2 for equal scores.

    The margin, where given, is how much better the chosen one should at least score (Touvron et al. 2023,
    section 3.2.2).
    """
    difference = chosen - rejected if margin is None else chosen - rejected - margin
    return -F.logsigmoid(difference).mean()


def probability(
    chosen: Float[Tensor, "*pairs"], rejected: Float[Tensor, "*pairs"]
) -> Float[Tensor, "*pairs"]:
    """Probability in [0, 1] that the first is preferred: `sigmoid(chosen - rejected)`."""
    return torch.sigmoid(chosen - rejected)


def wins(chosen: Float[Tensor, "*pairs"], rejected: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
    """Score each pair 1 where the chosen one scores higher, 0 where lower, 1/2 for a tie.

    A tie is a coin toss, not a hit: a model that scores everything alike has accuracy 1/2. NaN stays NaN.
    """
    difference = chosen - rejected
    return torch.where(difference.isnan(), difference, torch.sign(difference) / 2 + 0.5)


def accuracy(chosen: Float[Tensor, " batch"], rejected: Float[Tensor, " batch"]) -> float:
    """Share of pairs in which the chosen one scores higher, ties half; NaN without pairs."""
    return float(wins(chosen, rejected).double().mean())


def calibration(
    chosen: Float[Tensor, " batch"], rejected: Float[Tensor, " batch"], *, num_bins: int = 10
) -> Calibration:
    """Compare the model's confidence in its own preference with how often that preference is right.

    `error` is the expected calibration error: the gap between mean confidence and accuracy, averaged over the
    bins with their share of the pairs as weight (Guo et al. 2017, equation 3), in [0, 1]. Empty bins are left
    out.
    """
    difference = (chosen - rejected).double()
    confidence = torch.sigmoid(difference.abs())
    right = wins(chosen, rejected).double()
    place = _bins(confidence, num_bins)
    bins = [place == index for index in range(num_bins) if bool((place == index).any())]
    means = [float(confidence[rows].mean()) for rows in bins]
    accuracies = [float(right[rows].mean()) for rows in bins]
    counts = [int(rows.sum()) for rows in bins]
    gaps = zip(means, accuracies, counts, strict=True)
    error = sum(count * abs(mean - share) for mean, share, count in gaps) / max(len(difference), 1)
    return Calibration(error, means, accuracies, counts)


def calibration_gaps(
    chosen: Float[Tensor, " batch"], rejected: Float[Tensor, " batch"], *, num_bins: int = 10
) -> Float[Tensor, "batch bins"]:
    """Each pair's confidence minus its outcome, in the column of its bin and 0 elsewhere.

    The error of `calibration` is the sum of the absolute column sums over the number of pairs.
    """
    confidence = torch.sigmoid((chosen - rejected).double().abs())
    gaps = confidence - wins(chosen, rejected).double()
    return gaps[:, None] * F.one_hot(_bins(confidence, num_bins), num_bins)


def _bins(confidence: Float[Tensor, " batch"], num_bins: int) -> Int[Tensor, " batch"]:
    return ((confidence - 0.5) * 2 * num_bins).long().clamp(0, num_bins - 1)
