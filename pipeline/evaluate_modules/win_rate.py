"""Win rates of one model's answers over another's as a module of the `evaluate` library."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from pipeline.rankings import length_controlled_win_rate
from pipeline.statistics import win_scores

DESCRIPTION = """\
Share of prompts whose answer scores higher than another model's, ties half, the same without ties, and as if all
answers were equally long: logistic in tanh(length difference / sd)."""
INPUTS = """\
predictions: the score of our answer to each prompt, by whoever judges.
references: the score of the other model's answer to the same prompt.
length_differences: by how many characters ours is longer, may be left out."""
CITATION = "Dubois et al. 2024, Length-controlled AlpacaEval, arXiv 2404.04475"


class WinRate(evaluate.Metric):
    """Win rates of `pipeline.statistics` and `pipeline.rankings` over pairs of answers."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: Sequence[float],
        references: Sequence[float],
        length_differences: Sequence[float] | None = None,
    ) -> dict[str, float]:
        """`win_rate`, `decided` and `length_controlled` in [0, 1], nan where undefined; how many were `scored`.

        Raises:
            ValueError: another number of lengths than of answers.
        """
        if length_differences is not None and len(length_differences) != len(predictions):
            raise ValueError(
                f"{len(length_differences)} length differences, {len(predictions)} answers; give one for each"
            )
        wins = win_scores(predictions, references)
        scored = np.isfinite(wins)
        won = wins[scored]
        found = {"win_rate": _mean(won), "decided": _mean(won[won != 0.5]), "scored": len(won)}
        if length_differences is not None:
            lengths = np.asarray(length_differences, dtype=float)[scored]
            found["length_controlled"] = _at_equal_length(won, lengths) if len(won) else float("nan")
        return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _at_equal_length(won: np.ndarray, lengths: np.ndarray) -> float:
    return float(length_controlled_win_rate(won, lengths, np.ones((1, len(won))))[0])
