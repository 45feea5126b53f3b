"""CrowS-Pairs' shares by three rules as a module of the `evaluate` library."""

import datasets
import evaluate

from pipeline.benchmarks import crows_pairs
from pipeline.benchmarks.crows_pairs import Sentence

DESCRIPTION = (
    "CrowS-Pairs (Nangia et al. 2020): share of pairs whose more stereotypical sentence is more probable."
)
INPUTS = """
Args:
    predictions: log-probability of each token of the more stereotypical sentence, nats.
    references: those of the less stereotypical one.
    tokens_more: token ids of the more stereotypical sentence.
    tokens_less: those of the less stereotypical one.

Returns:
    sum, mean, shared: the share by each rule, 1/2 without preference; likelihood_diff: mean distance of the sums,
    nats. nan where there is nothing to score.
"""


class CrowsPairs(evaluate.Metric):
    """See `pipeline.benchmarks.crows_pairs`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Nangia et al. 2020, CrowS-Pairs: A challenge dataset for measuring social biases in MLMs",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                    "tokens_more": datasets.Sequence(datasets.Value("int64")),
                    "tokens_less": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[list[float]],
        tokens_more: list[list[int]],
        tokens_less: list[list[int]],
    ) -> dict[str, float]:
        more = [Sentence(*pair) for pair in zip(tokens_more, predictions, strict=True)]
        less = [Sentence(*pair) for pair in zip(tokens_less, references, strict=True)]
        return crows_pairs.metrics(more, less)
