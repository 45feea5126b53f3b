"""What the reward stage says of its model: accuracy with its nulls, calibration, the role of length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.rows import PreferenceRow, write_jsonl
from pipeline import statistics
from pipeline.calibration import ece
from reward.preference import wins
from reward.scoring import Row

if TYPE_CHECKING:
    from pipeline.run import StageRun

FEWEST = 20  # pairs behind a figure of its own
# An accuracy above this, without the labels' noise where that is known, says that the pairs are easy, not that
# the model is good.
TRIVIAL = 0.9


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
    by_length = by_thirds(best, lengths.double().mean(dim=1), clusters)
    of_both = [name for name in clusters for _ in range(2)]
    run.note(
        **{name: _interval(accuracy)},
        accuracy_on_labels=_interval(statistics.rate(labelled.tolist(), clusters)),
        accuracy_by_kind=by_part(pairs, best, lambda kind: kind),
        accuracy_by_group=by_part(pairs, best, lambda kind: kind.partition("/")[2]),
        accuracy_by_score_gap=by_thirds(best, (chosen - rejected).abs(), clusters),
        accuracy_by_length=by_length,
        calibration_error=calibration_error(
            scale * chosen, scale * rejected, clusters, key=run.key("calibration")
        ),
        score_length_correlation=correlation(
            scores.flatten(), lengths.flatten(), of_both, key=run.key("length")
        ),
        longer_accuracy=float(np.nanmean(wins(*lengths.double().unbind(dim=1)).numpy())),
    )
    _gate(run, accuracy, by_length, clusters, control)
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


def by_part(
    pairs: Sequence[PreferenceRow], hits: Float[Tensor, " pairs"], part: Callable[[str], str]
) -> dict[str, dict[str, float]]:
    """Accuracy of each part of the pairs' kinds ("right_over_wrong/often") with `FEWEST` pairs or more."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if name := part(pair.kind or ""):
            places[name].append(place)
    return {
        name: _interval(statistics.rate(hits[rows].tolist(), [pairs[row].cluster for row in rows]))
        for name, rows in sorted(places.items())
        if len(rows) >= FEWEST
    }


def by_thirds(
    hits: Float[Tensor, " pairs"], by: Float[Tensor, " pairs"], clusters: Sequence[str]
) -> list[dict[str, float]]:
    """Accuracy in the lowest, middle and highest third of `by`, each with its mean of that."""
    parts = by.argsort(stable=True).tensor_split(3)
    return [
        {
            "mean": float(by[part].double().mean()),
            **_interval(statistics.rate(hits[part].tolist(), [clusters[row] for row in part.tolist()])),
        }
        for part in parts
        if len(part)
    ]


def calibration_error(
    chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], clusters: Sequence[str], *, key: int
) -> dict[str, float]:
    """Expected calibration error: the probability of the higher score against how often it was preferred.

    Over bins of equal mass, with a bootstrap over clusters; raw scores, whose differences are log-odds in nats.
    """
    confidence = torch.sigmoid((chosen - rejected).double().abs()).numpy()
    right = wins(chosen, rejected).double().numpy()
    return _interval(statistics.bootstrap(partial(ece, confidence, right), clusters, key=key))


def correlation(
    first: Tensor, second: Tensor, clusters: Sequence[str], *, key: int
) -> dict[str, float] | None:
    """Pearson's correlation with a bootstrap over clusters; None where one does not vary."""
    x, y = (side.double().numpy() - side.double().numpy().mean() for side in (first, second))
    if not x.std() > 0 or not y.std() > 0:
        return None
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def pearson(counts: Float[np.ndarray, "samples items"]) -> Float[np.ndarray, " samples"]:
        means = (counts @ columns / counts.sum(axis=1, keepdims=True)).T
        spread = np.sqrt((means[2] - means[0] ** 2) * (means[3] - means[1] ** 2))
        found: Float[np.ndarray, " samples"] = (means[4] - means[0] * means[1]) / spread
        return found

    with np.errstate(all="ignore"):  # a resample in which one does not vary is nan, and left out
        return _interval(statistics.bootstrap(pearson, clusters, key=key))


def _gate(
    run: StageRun,
    accuracy: statistics.Interval,
    by_length: Sequence[dict[str, float]],
    clusters: Sequence[str],
    control: Float[Tensor, "pairs 2"] | None,
) -> None:
    """Judge the accuracy, as a whole and for every length; a third of fewer than `FEWEST` pairs tells nothing."""
    null = 0.5
    told = (
        f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f}) of {accuracy.num} held-out pairs"
    )
    if control is not None:
        hits = wins(*control.unbind(dim=1))
        null, shuffled = float(hits.mean()), statistics.rate(hits.tolist(), clusters)
        run.note(shuffled_labels_accuracy=null, shuffled_labels=_interval(shuffled))
        holds = "holds" if shuffled.low <= 0.5 <= shuffled.high else "does not hold"
        told += (
            f", {null:.3f} ({shuffled.low:.3f} to {shuffled.high:.3f}) by shuffled labels, which {holds} .5"
        )
    weak = [row for row in by_length if row["n"] >= FEWEST and not row["low"] > 0.5]
    for row in weak:
        told += (
            f"; not shown to be above .5 among pairs of {row['mean']:.0f} tokens: {row['value']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f})"
        )
    passed = accuracy.low > max(null, 0.5) and not weak
    if not passed:
        trained = run.input_names.get("tuned") or run.name
        made = run.input_names.get("preferences") or ["the preferences stage"]
        told += f"; mend {trained} (more training or another learning_rate) or its pairs in {', '.join(made)}"
    if accuracy.value > TRIVIAL:
        trivial = f"{accuracy.value:.0%} of the pairs are in the right order: they may be trivial"
        run.say(trivial)
        told += f"; {trivial}"
    run.gate("reward_accuracy", passed, told)


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
