"""What the evaluations of a reward model on pairs of completions share: how a record shows them, and nulls."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.untrained import UNTRAINED

OVER = "\n--- over ---\n"  # stands between the better and the worse completion in a record
# A reward model's share of pairs in the right order: by chance, and before any training. The last layers of its
# heads are drawn as likely with the other sign, which turns every pair round; an implicit one finds them equal.
RANKING = {"chance": 0.5, UNTRAINED: 0.5}


def length_only(longer: Collection[float]) -> dict[str, float]:
    """Accuracy of always taking the longer completion, or the shorter where that is better.

    `longer` is 1 for each pair whose better completion is the longer one, 1/2 where both are equally long.
    """
    share = sum(longer) / len(longer) if longer else 0.5
    return {"longer": share} if share >= 0.5 else {"shorter": 1 - share}
