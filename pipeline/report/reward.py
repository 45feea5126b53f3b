"""What the stages that learn from pairs say of their reward: a table of accuracies, calibration and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.read import RunData

LEARNS_FROM_PAIRS = ("reward", "implicit_reward", "dpo")  # kinds of stage
SINGLE = {
    "accuracy": "accuracy on the labels (no gold)",
    "accuracy_without_noise": "accuracy in gold's order",
    "accuracy_on_labels": "accuracy on the labels",
    "shuffled_labels": "accuracy after shuffled labels",
    "longer_accuracy": "accuracy of the longer one",
    "calibration_error": "calibration error (ECE)",
    "score_length_correlation": "correlation of score and length",
}
THIRDS = {
    "accuracy_by_score_gap": ("accuracy, {} score gaps", ("small", "middling", "large"), "gap {:.2f}"),
    "accuracy_by_length": ("accuracy, {} completions", ("short", "middling", "long"), "{:.0f} tokens"),
}


def reward_models(chain: RunData) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each such stage its figures on held-out pairs by what they are.

    A figure has `value`, `low`, `high` and `n`, those of them that the stage noted, and in `about` what it is of.
    """
    return {
        stage.name: _figures(stage.notes)
        for stage in chain.stage_of(*LEARNS_FROM_PAIRS)
        if "calibration_error" in stage.notes
    }


def reward_rows(chain: RunData) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """(what, figure of each stage or None) in order."""
    found = reward_models(chain)
    names = dict.fromkeys(what for figures in found.values() for what in figures)
    return [(what, [figures.get(what) for figures in found.values()]) for what in names]


def _figures(notes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found = {words: _figure(notes[name]) for name, words in SINGLE.items() if notes.get(name) is not None}
    if control := found.get(SINGLE["shuffled_labels"]):
        control["about"] = _judged(control)
    for name, (words, parts, about) in THIRDS.items():
        rows: Sequence[Mapping[str, Any]] = notes.get(name) or ()
        for part, row in zip(parts, rows, strict=False):
            found[words.format(part)] = {**_figure(row), "about": about.format(row["mean"])}
    for name, row in (notes.get("accuracy_by_group") or {}).items():
        found[f"accuracy, {name.replace('_', ' ')}"] = {**_figure(row), "about": f"{row['n']} pairs"}
    return found


def _figure(noted: Any) -> dict[str, Any]:
    """A noted figure; a number alone, as some stages noted it, has no interval."""
    if not isinstance(noted, Mapping):
        return {"value": noted}
    figure = {name: noted[name] for name in ("value", "low", "high", "n") if name in noted}
    return figure if "value" in figure else {"value": noted["accuracy"]}


def _judged(control: Mapping[str, Any]) -> str:
    """Whether a model that learned nothing looks like one: its interval holds one half."""
    low, high = control["low"], control["high"]
    if low is None or high is None:
        return "no interval"
    return "interval holds .5" if low <= 0.5 <= high else "interval does not hold .5"
