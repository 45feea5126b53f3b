"""What the evaluations of a reward model on pairs of completions share: how a record shows them, and nulls."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipeline.measured import Scored, win_score
from pipeline.untrained import UNTRAINED

OVER = "\n--- over ---\n"  # stands between the better and the worse completion in a record
# A reward model's share of pairs in the right order: by chance, and before any training. The last layers of its
# heads are drawn as likely with the other sign, which turns every pair round; an implicit one finds them equal.
RANKING = {"chance": 0.5, UNTRAINED: 0.5}


def longer(rows: Sequence[Scored]) -> list[float]:
    """For each scored pair 1 where its better completion is the longer one, 1/2 where both are equally long."""
    lengths = ([len(text) for text in row.text.split(OVER)] for row in rows)
    return [win_score(better, worse) for better, worse in lengths]


def length_only(is_longer: Collection[float]) -> dict[str, float]:
    """Accuracy of always taking the longer completion, or the shorter where that is better.

    `is_longer` is 1 for each pair whose better completion is the longer one, 1/2 where both are equally long.
    """
    share = sum(is_longer) / len(is_longer) if is_longer else 0.5
    return {"longer": share} if share >= 0.5 else {"shorter": 1 - share}
