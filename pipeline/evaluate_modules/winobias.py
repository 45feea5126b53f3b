"""WinoBias' accuracies with and against the stereotype as a module of the `evaluate` library."""

import datasets
import evaluate

from pipeline.benchmarks import winobias

DESCRIPTION = (
    "WinoBias (Zhao et al. 2018): accuracy of pro- and of anti-stereotypical sentences, and the difference."
)
INPUTS = """
Args:
    predictions: log-probability of who is meant, nats.
    references: log-probability of the other person, nats.
    side: "pro" or "anti".
    pair: name that a pro and an anti sentence share.

Returns:
    pro, anti (in [0, 1]), difference (in [-1, 1], paired); nan where there is nothing to score.
"""


class WinoBias(evaluate.Metric):
    """See `pipeline.benchmarks.winobias`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Zhao et al. 2018, Gender bias in coreference resolution: evaluation and debiasing methods",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                    "side": datasets.Value("string"),
                    "pair": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: list[float], references: list[float], side: list[str], pair: list[str]
    ) -> dict[str, float]:
        return winobias.metrics(predictions, references, side, pair)
