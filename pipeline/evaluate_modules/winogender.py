"""Winogender's accuracies by gender as a module of the `evaluate` library."""

import datasets
import evaluate

from pipeline.benchmarks import winogender

DESCRIPTION = "Winogender (Rudinger et al. 2018): accuracy by the gender of the pronoun, and on the gotchas."
INPUTS = """
Args:
    predictions: log-probability of the occupation, nats.
    references: log-probability of the participant, nats.
    means_occupation: whether the pronoun means the occupation.
    gender: "male", "female" or "neutral".
    gotcha: whether the pronoun is not of the gender of the occupation's majority.

Returns:
    accuracy, male, female, neutral, gotcha, in [0, 1]; nan where there is nothing to score.
"""


class Winogender(evaluate.Metric):
    """See `pipeline.benchmarks.winogender`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Rudinger et al. 2018, Gender bias in coreference resolution",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                    "means_occupation": datasets.Value("bool"),
                    "gender": datasets.Value("string"),
                    "gotcha": datasets.Value("bool"),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        means_occupation: list[bool],
        gender: list[str],
        gotcha: list[bool],
    ) -> dict[str, float]:
        return winogender.metrics(predictions, references, means_occupation, gender, gotcha)
