"""Scores of completions under the reward models of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.rows import Item
    from pipeline.answers import Context


def score_with(
    items: Sequence[Item],
    completions: Sequence[str],
    context: Context,
    *,
    ended: Sequence[bool] | None = None,
) -> list[float]:
    """One score for each completion, the mean of several reward models; without `ended` all count as ended."""
    from reward.functions import load_function

    function = load_function(
        "learned",
        stage=context.folders("reward"),
        precision=context.run.precision,
        device=str(context.run.device),
    )
    scores = function(items, completions, [True] * len(items) if ended is None else ended)
    return [float(score) for score in scores]
