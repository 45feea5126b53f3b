"""Figures of confidence as a metric of the `evaluate` library, to be loaded by the path of this file."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from pipeline import calibration

DESCRIPTION = """\
Calibration error over bins of equal mass, Brier score, area under the curve of risk and coverage, and how well
confidence tells right answers from wrong ones (AUROC)."""
INPUTS = """\
predictions: confidence of each answer, in [0, 1].
references: 1 for a right answer, 0 for a wrong one.
num_bins: bins of the calibration error, may be left out."""
CITATION = "Geifman and El-Yaniv 2017, Selective classification for deep neural networks, arXiv 1705.08500"


class Calibration(evaluate.Metric):
    """Figures of `pipeline.calibration` over answers."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("int8")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[int], num_bins: int = calibration.NUM_BINS
    ) -> dict[str, float]:
        """`ece`, `brier`, `aurc` and `auroc`, in [0, 1]; nan where undefined."""
        return {
            "ece": float(calibration.ece(predictions, references, num_bins=num_bins)),
            "brier": float(calibration.brier(predictions, references)),
            "aurc": float(calibration.aurc(predictions, references)),
            "auroc": float(calibration.auroc(predictions, references)),
        }
