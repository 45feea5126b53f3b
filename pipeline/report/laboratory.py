"""The fits of the over-optimisation laboratory: how a reward and gold rise and turn with the KL."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pipeline.overoptimisation import Fit
from pipeline.report.read import RunData


class FitRow(NamedTuple):
    """A fit with what it is of; `bound`: its KL is an upper bound, not measured."""

    stage: str
    reward: str
    bound: bool
    fit: Fit


def fit_rows(chain: RunData) -> list[FitRow]:
    """The fits of the stages that learn from a reward, and of best-of-n."""
    rows = [
        FitRow(stage, "optimised" if name == "score" else name, False, fitted)
        for (stage, name), fitted in chain.fits.items()
    ]
    return rows + [
        FitRow(f"best of n of {model}", "optimised" if name == "reward" else name, True, fitted)
        for (model, name), fitted in chain.best_of_n_fits.items()
    ]


def fits_json(chain: RunData) -> list[dict[str, Any]]:
    """The same as data: (value, low, high) of a, b and the KL at the peak, null where a bound is infinite."""
    return [
        {
            "run": chain.label,
            "stage": row.stage,
            "reward": row.reward,
            "form": row.fit.form,
            "kl": "upper bound" if row.bound else "measured",
            "start": row.fit.start,
            "a": row.fit.a,
            "b": row.fit.b,
            "peak_kl": row.fit.peak_kl and [x if math.isfinite(x) else None for x in row.fit.peak_kl],
        }
        for row in fit_rows(chain)
    ]
