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
    f"{MOST_KL:g} nats per completion, its mean gold is below that of the model it started from with an "
    "interval that excludes 0, or its seed was stopped by a fault in its training or in a stage before it."
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
    """Every aligned model with how many of the chains that evaluated it, or lost it, show it collapsed."""
    names = {
        stage.name: name
        for chain in chains
        for name in chain.model_names
        if (stage := chain.stage_that_made(name))
    }
    lost = {chain.label: [names.get(stage, stage) for stage in _lost(chain)] for chain in chains}
    models = dict.fromkeys(
        [name for chain in chains for name in chain.model_names if chain.kind_of(name) in ALIGNED]
        + [name for stages in lost.values() for name in stages]
    )
    found = []
    for model in models:
        judged = {chain.label: reasons(chain, model) for chain in chains if model in chain.model_names}
        judged |= {
            chain.label: [chain.fault.told] for chain in chains if chain.fault and model in lost[chain.label]
        }
        why = {label: told for label, told in judged.items() if told}
        found.append(Collapses(model, len(why), len(judged), why))
    return found


def _lost(chain: RunData) -> list[str]:
    """The aligned stages that a fault took: the one that stopped, or all that an earlier stage left undone."""
    if chain.fault is None:
        return []
    done = {stage.name for stage in chain.stages}
    aligned = [stage["name"] for stage in chain.record["stages"] if stage["stage"] in ALIGNED]
    if chain.fault.stage in aligned:
        return [chain.fault.stage]
    return [name for name in aligned if name not in done]
