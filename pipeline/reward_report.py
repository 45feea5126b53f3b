"""What the reward stage says of its model: accuracy with its nulls, calibration, the role of length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.rows import PreferenceRow, write_jsonl
from pipeline import statistics
from reward.preference import calibration, wins
from reward.scoring import Row

if TYPE_CHECKING:
    from pipeline.run import StageRun

FEWEST = 20  # pairs behind a figure of its own
TRIVIAL = 0.9  # an accuracy on labels above this says that the pairs are easy, not that the model is good


def report(
    run: StageRun,
    pairs: Sequence[PreferenceRow],
    rows: Sequence[Row],
    scores: Float[Tensor, "pairs 2"],
    control: Float[Tensor, "pairs 2"] | None,
    *,
    scale: float = 1.0,
) -> None:
    """Write records.jsonl of the held-out pairs, the notes and the gate.

    Args:
        run: the stage at work.
        pairs: the held-out pairs.
        rows: their rows: of pair n the chosen completion at 2n, the rejected one at 2n + 1.
        scores: of the chosen and the rejected completion.
        control: the same by the model of shuffled labels.
        scale: what the scores were divided by, in nats of log-odds.
    """
    chosen, rejected = scores.unbind(dim=1)
    labelled = wins(chosen, rejected)
    true = true_order(pairs, labelled)
    lengths = torch.tensor([len(row.tokens) - row.start for row in rows]).view(-1, 2)
    clusters = [pair.cluster for pair in pairs]
    best, name = (labelled, "accuracy") if bool(true.isnan().all()) else (true, "accuracy_without_noise")
    accuracy = statistics.rate(best.tolist(), clusters)
    run.note(
        **{name: _interval(accuracy)},
        accuracy_on_labels=_interval(statistics.rate(labelled.tolist(), clusters)),
        accuracy_by_kind=by_kind(pairs, best),
        accuracy_by_score_gap=by_thirds(best, (chosen - rejected).abs()),
        accuracy_by_length=by_thirds(best, lengths.double().mean(dim=1)),
        calibration_error=calibration(scale * chosen, scale * rejected).error,
        score_length_correlation=correlation(scores.flatten(), lengths.flatten()),
        longer_accuracy=float(np.nanmean(wins(*lengths.double().unbind(dim=1)).numpy())),
    )
    _gate(run, accuracy, labelled, control)
    with run.publish("records.jsonl") as path:
        write_jsonl(path, _records(pairs, scores, labelled, best, lengths))


def true_order(pairs: Sequence[PreferenceRow], labelled: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Turn a hit on the label into a hit on gold's order; NaN where gold is unknown or ties."""
    found = labelled.clone()
    for place, pair in enumerate(pairs):
        if pair.chosen_gold is None or pair.rejected_gold is None or pair.chosen_gold == pair.rejected_gold:
            found[place] = float("nan")
        elif pair.chosen_gold < pair.rejected_gold:
            found[place] = 1 - labelled[place]
    return found


def by_kind(pairs: Sequence[PreferenceRow], hits: Float[Tensor, " pairs"]) -> dict[str, dict[str, float]]:
    """Accuracy of each kind with `FEWEST` pairs or more, clustered."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if pair.kind:
            places[pair.kind].append(place)
    return {
        kind: _interval(statistics.rate(hits[rows].tolist(), [pairs[row].cluster for row in rows]))
        for kind, rows in sorted(places.items())
        if len(rows) >= FEWEST
    }


def by_thirds(hits: Float[Tensor, " pairs"], by: Float[Tensor, " pairs"]) -> list[dict[str, float]]:
    """Accuracy in the lowest, middle and highest third of `by`, each with its mean."""
    parts = by.argsort(stable=True).tensor_split(3)
    return [
        {"mean": float(by[part].double().mean()), "accuracy": float(hits[part].nanmean())}
        for part in parts
        if len(part)
    ]


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson's correlation; None where one does not vary."""
    stacked = torch.stack([first.double(), second.double()])
    return float(torch.corrcoef(stacked)[0, 1]) if bool((stacked.std(dim=1) > 0).all()) else None


def _gate(
    run: StageRun,
    accuracy: statistics.Interval,
    labelled: Float[Tensor, " pairs"],
    control: Float[Tensor, "pairs 2"] | None,
) -> None:
    null = 0.5
    if control is not None:
        null = float(wins(*control.unbind(dim=1)).mean())
        run.note(shuffled_labels_accuracy=null)
    told = (
        f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f}) of {accuracy.num} held-out pairs"
    )
    told += "" if control is None else f", {null:.3f} by shuffled labels"
    run.gate("reward_accuracy", accuracy.low > max(null, 0.5), told)
    if float(labelled.mean()) > TRIVIAL:
        run.say(f"{labelled.mean():.0%} of the labels are met: the pairs may be trivial")


def _interval(interval: statistics.Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.num}


def _records(
    pairs: Sequence[PreferenceRow],
    scores: Float[Tensor, "pairs 2"],
    labelled: Float[Tensor, " pairs"],
    best: Float[Tensor, " pairs"],
    lengths: Tensor,
) -> list[dict[str, Any]]:
    """One line a pair; `score` is 1, 1/2 or 0 by gold's order where it is known, else by the label."""
    found = []
    columns = zip(pairs, scores.tolist(), labelled.tolist(), best.tolist(), lengths.tolist(), strict=True)
    for pair, (chosen, rejected), on_label, hit, tokens in columns:
        found.append(
            {
                "id": pair.id,
                "cluster": pair.cluster,
                "kind": pair.kind,
                "score": None if hit != hit else hit,
                "label": on_label,
                "margin": chosen - rejected,
                "chosen_score": chosen,
                "rejected_score": rejected,
                "chosen_tokens": tokens[0],
                "rejected_tokens": tokens[1],
            }
        )
    return found
