"""SimpleQA's rates and F as a metric of the `evaluate` library, to be loaded by the path of this file."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from pipeline.benchmarks.simpleqa import grade, rates

DESCRIPTION = """\
Answers graded correct, hallucinated or not attempted by a normalised match, their rates, and F: the harmonic mean
of the correct rate and of the correct rate among attempted answers."""
INPUTS = """\
predictions: the answers; of a number, without other numbers, such as those of the question.
references: the known answer of each question."""
CITATION = "Wei et al. 2024, Measuring short-form factuality in large language models, arXiv 2411.04368"


class SimpleQA(evaluate.Metric):
    """Rates of `pipeline.benchmarks.simpleqa` over answers."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Rates in [0, 1], nan where undefined; see `pipeline.benchmarks.simpleqa.Rates`."""
        grades = [grade(answer, known) for answer, known in zip(predictions, references, strict=True)]
        return rates(grades)._asdict()
