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
predictions: the answers.
references: the known answer of each question.
questions: the question of each answer, may be left out; where it is given, an answer may repeat its numbers."""
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

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], questions: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Rates in [0, 1], nan where undefined; see `pipeline.benchmarks.simpleqa.Rates`.

        Raises:
            ValueError: another number of questions than of answers.
        """
        asked = [""] * len(predictions) if questions is None else questions
        if len(asked) != len(predictions):
            raise ValueError(f"{len(asked)} questions, {len(predictions)} answers; give one for each answer")
        return rates(list(map(grade, predictions, references, asked)))._asdict()
