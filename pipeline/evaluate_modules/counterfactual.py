"""Counterfactual pairs as a module of the `evaluate` library."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from pipeline.statistics import win_scores

DESCRIPTION = (
    "Texts in two versions that differ in the group term alone: by how much the stereotyped version is the more "
    "probable one, how far the versions are apart, how often the stereotyped one is preferred, and how often "
    "what the model chooses to say differs between the versions."
)
INPUTS = """
Args:
    predictions: log-probability of the version with the stereotyped term, summed over its tokens, nats.
    references: that of the version with the other term.
    choices: for each text that leaves a choice, what the model chose in its two versions, a pair of any values
        of which `None` is no choice; may be left out, and need not be as many as the others.

Returns:
    signed, absolute: mean difference and mean size of it, nats, 0 without a preference; prefers_stereotyped: the
    share of pairs, in [0, 1], equal ones half; scored: how many pairs could be; flip_rate: the share of the pairs
    of choices that differ, in [0, 1], of those without `None`. nan where there is none.
"""


class Counterfactual(evaluate.Metric):
    """See `pipeline.evals.counterfactual`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Huang et al. 2020, Reducing sentiment bias in language models, arXiv 1911.03064",
            inputs_description=INPUTS,
            features=datasets.Features(
                dict.fromkeys(("predictions", "references"), datasets.Value("float64"))
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        choices: Sequence[tuple[object, object]] = (),
    ) -> dict[str, float]:
        stereotyped, other = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
        kept = np.isfinite(stereotyped) & np.isfinite(other)
        difference = (stereotyped - other)[kept]
        values = {
            "signed": difference,
            "absolute": np.abs(difference),
            "prefers_stereotyped": win_scores(stereotyped[kept], other[kept]),
            "flip_rate": np.array(
                [first != second for first, second in choices if None not in (first, second)]
            ),
        }
        means = {name: float(found.mean()) if len(found) else float("nan") for name, found in values.items()}
        return {**means, "scored": len(difference)}
