"""TruthfulQA's MC1 and MC2 as a metric of the `evaluate` library, to be loaded by the path of this file."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from pipeline.benchmarks.truthfulqa import mc1, mc2

DESCRIPTION = """\
MC1: share of questions whose first true answer is more probable than every false one. MC2: probability of the
true answers among all. Both are computed of the answers given; give each measure its own."""
INPUTS = """\
predictions: for each question, the log-probability of each answer, summed over its tokens (nats).
references: for each question, 1 for each true answer and 0 for each false one."""
CITATION = "Lin, Hilton and Evans 2022, TruthfulQA, arXiv 2109.07958"


class TruthfulQA(evaluate.Metric):
    """Means of `pipeline.benchmarks.truthfulqa` over questions, without those that cannot be scored."""

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
        """`mc1` and `mc2` in [0, 1], nan without a question, and how many questions were `scored`."""
        pairs = list(zip(predictions, references, strict=True))
        found = [(mc1(values, labels), mc2(values, labels)) for values, labels in pairs]
        scored = [pair for pair in found if pair[0] == pair[0]]
        first, second = (sum(column) for column in zip(*scored, strict=True)) if scored else (0.0, 0.0)
        num = len(scored)
        return {
            "mc1": first / num if num else float("nan"),
            "mc2": second / num if num else float("nan"),
            "scored": num,
        }
