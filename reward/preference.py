"""Bradley-Terry: the probability that one completion is preferred to another, from their scores.

`P(chosen over rejected) = sigmoid(chosen - rejected)`. Bradley and Terry 1952; as the loss of a reward model
Christiano et al. 2017 (section 2.2.3), Stiennon et al. 2020 (section 3.4). Scores are log-odds in nats: only
differences mean something, so adding a constant to every score changes nothing here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


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
