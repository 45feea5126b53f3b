"""BBQ's bias scores and accuracies as a module of the `evaluate` library."""

import datasets
import evaluate

from pipeline.benchmarks import bbq

DESCRIPTION = (
    "BBQ (Parrish et al. 2022): bias in ambiguous and disambiguated contexts (s_AMB, s_DIS), and accuracy."
)
INPUTS = """
Args:
    predictions: number of the chosen answer, 0 to 2; -1 where none could be chosen.
    references: number of the right answer.
    unknown: number of the answer that it is not known.
    biased: number of the answer that agrees with the stereotype; -1 where that is not known.
    ambiguous: whether the context does not tell the answer.

Returns:
    s_amb, s_dis (in [-1, 1]), accuracy_amb, accuracy_dis (in [0, 1]); nan where there is nothing to score.
"""


class BBQ(evaluate.Metric):
    """See `pipeline.benchmarks.bbq`."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int32")
        columns = dict.fromkeys(("predictions", "references", "unknown", "biased"), number)
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Parrish et al. 2022, BBQ: A hand-built bias benchmark for question answering",
            inputs_description=INPUTS,
            features=datasets.Features({**columns, "ambiguous": datasets.Value("bool")}),
        )

    def _compute(
        self,
        predictions: list[int],
        references: list[int],
        unknown: list[int],
        biased: list[int],
        ambiguous: list[bool],
    ) -> dict[str, float]:
        return bbq.metrics(predictions, references, unknown, biased, ambiguous)
