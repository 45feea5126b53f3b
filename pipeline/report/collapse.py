"""Which aligned models have collapsed, by one stated rule, in one chain and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.report.read import RunData
from pipeline.report.verdicts import ALIGNED

FEWEST_ENDS = 0.5
MOST_KL = 50.0  # nats per completion; healthy runs sit at 3 to 12, collapsed ones were seen at 50 to 85
RULE = (
    f"A model counts as collapsed where fewer than {FEWEST_ENDS:.0%} of its answers end, its KL is above "
    f"{MOST_KL:g} nats per completion, or its mean gold is below that of the model it started from with an "
    "interval that excludes 0."
)


class Collapses(NamedTuple):
    """How often a model collapsed over seeds, and why, by chain."""

    model: str
    num: int
    of: int
    reasons: dict[str, list[str]]


def reasons(run: RunData, model: str) -> list[str]:
    """Why a model counts as collapsed; empty where it does not."""
    found = []
    ends, kl = run.figure("ends", model), run.figure("kl", model)
    if ends and ends.value < FEWEST_ENDS:
        found.append(f"{ends.value:.3f} of its answers end")
    if kl and kl.value > MOST_KL:
        found.append(f"its KL is {kl.value:.1f} nats per completion")
    parents = {entry["name"]: entry["parent"] for entry in run.evaluation.models}
    for row in run.evaluation.comparisons:
        if (row.name, row.before, row.after) == ("gold/mean", parents.get(model), model) and row.high < 0:
            found.append(f"gold fell by {-row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    return found


def collapses(chains: Sequence[RunData]) -> list[Collapses]:
    """Every aligned model with how many of the chains that evaluated it show it collapsed."""
    models = dict.fromkeys(
        name for chain in chains for name in chain.model_names if chain.kind_of(name) in ALIGNED
    )
    found = []
    for model in models:
        judged = {chain.label: reasons(chain, model) for chain in chains if model in chain.model_names}
        why = {label: told for label, told in judged.items() if told}
        found.append(Collapses(model, len(why), len(judged), why))
    return found
