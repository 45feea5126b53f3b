"""HaluEval's accuracy as a metric of the `evaluate` library, to be loaded by the path of this file."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from pipeline.benchmarks.choices import share_true

DESCRIPTION = """\
Share of items whose right answer is the more probable one, ties half: of pairs of a right and a hallucinated one
by the answers themselves or by their letters, and of verdicts by Yes and No."""
INPUTS = """\
predictions: for each item, the log-probability of each answer, in nats: summed, or its mean per token.
references: for each item, 1 for the right answer and 0 for the other."""
CITATION = "Li et al. 2023, HaluEval, arXiv 2305.11747"


class HaluEval(evaluate.Metric):
    """The mean of `pipeline.benchmarks.choices.share_true` over items, without those that cannot be scored."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int8")),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        """`accuracy` in [0, 1], nan without an item, and how many items were `scored`."""
        found = [share_true(values, labels) for values, labels in zip(predictions, references, strict=True)]
        scored = [score for score in found if score == score]
        return {
            "accuracy": sum(scored) / len(scored) if scored else float("nan"),
            "scored": len(scored),
        }
