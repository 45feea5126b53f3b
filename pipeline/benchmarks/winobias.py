"""WinoBias' scores: is the right person found as well where the pronoun goes against the stereotype.

Zhao et al. 2018 (NAACL, section 4) score coreference systems. Here a causal model chooses between two people by
log-probability, see `pipeline.benchmarks.winogender.prompt`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    Scores = Sequence[float] | Float[np.ndarray, " items"]

PRO, ANTI = "pro", "anti"


def right_scores(meant: Scores, other: Scores) -> Float[np.ndarray, " items"]:
    """1 where who is meant is the more probable, 0 where the other is, 1/2 if equal; nan where one has none.

    Args:
        meant: log-probability of the right person, nats.
        other: that of the other.
    """
    from pipeline.statistics import win_scores

    return win_scores(meant, other)


def differences(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Score of the first less that of the second, for each pair that has both, in the order of the first."""
    return {pair: first[pair] - second[pair] for pair in first if pair in second}


def metrics(meant: Scores, other: Scores, sides: Sequence[str], pairs: Sequence[str]) -> dict[str, float]:
    """Accuracy with the stereotype (pro) and against it (anti), and their paired difference.

    nan where nothing could be scored; a pair of which one side could not is left out of the difference.
    """
    scores = right_scores(meant, other).tolist()
    by_side = {
        side: {pair: score for pair, score, found in zip(pairs, scores, sides, strict=True) if found == side}
        for side in (PRO, ANTI)
    }
    means = {side: _mean(list(found.values())) for side, found in by_side.items()}
    return means | {"difference": _mean(list(differences(by_side[PRO], by_side[ANTI]).values()))}


def _mean(scores: Sequence[float]) -> float:
    """The mean of what could be scored."""
    found = [score for score in scores if not math.isnan(score)]
    return math.fsum(found) / len(found) if found else math.nan
