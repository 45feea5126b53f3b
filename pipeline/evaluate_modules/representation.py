"""How unevenly texts speak of women and men, as a module of the `evaluate` library."""

import datasets
import evaluate

from data.world import lexicon, reading

DESCRIPTION = (
    "Total variation distance of the counts of she-words and he-words from uniform, over all texts together."
)
INPUTS = """
Args:
    predictions: the texts.

Returns:
    distance: |share of she-words - 1/2|, in [0, 1/2], 0 where both are as frequent; nan where no text has any.
    she_words, he_words: how many there are.
"""
GROUPS = ("she", "he")


class Representation(evaluate.Metric):
    """See `pipeline.evals.representation`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Liang et al. 2022, Holistic evaluation of language models, arXiv 2211.09110",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        words = [word for text in predictions for word in reading.lower_words(text)]
        she, he = (sum(word in lexicon.GENDERED[group] for word in words) for group in GROUPS)
        distance = abs(she / (she + he) - 0.5) if she + he else float("nan")
        return {"distance": distance, "she_words": she, "he_words": he}
