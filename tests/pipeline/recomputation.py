"""Every figure of a report that is a rate, mean or ratio, from its name and the run's records alone.

Shares nothing with `pipeline.statistics`: loops and dictionaries, from the formulas.
"""

import math
import re

import numpy as np
from scipy import stats

from data.world.tasks import facts

GROUNDING = {
    "faithful": ("faithful",),
    "intrinsic": ("intrinsic", "both"),
    "extrinsic": ("extrinsic", "both"),
}


def clustered_error(residuals, clusters):
    """By dictionary, from the formula, sharing nothing with pipeline.statistics."""
    sums = {}
    for residual, cluster in zip(residuals, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + residual
    num = len(sums)
    return math.sqrt(num / (num - 1) * math.fsum(total**2 for total in sums.values())) / len(residuals), num


def degrees_of_freedom(excess, num):
    return min(num - 1, max(4, 2 / (2 / (num - 1) + max(excess, 0) / num)))


def shape(residuals, clusters):
    """Skewness and excess kurtosis of the clusters' sums."""
    sums = {}
    for residual, cluster in zip(residuals, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + residual
    second, third, fourth = (math.fsum(v**order for v in sums.values()) / len(sums) for order in (2, 3, 4))
    return (third / second**1.5, fourth / second**2 - 3) if second > 1e-24 else (0.0, 0.0)


def expected_rate(scores, clusters):
    p, n = math.fsum(scores) / len(scores), len(scores)
    alone = len(set(clusters)) == 1
    error, num = (0.0, 1) if alone else clustered_error([s - p for s in scores], clusters)
    unclustered = math.fsum((s - p) ** 2 for s in scores) / n**2
    effective = p * (1 - p) / max(error**2, unclustered) if error > 1e-12 else num
    excess = shape([s - p for s in scores], clusters)[1] if num < n else 0
    q = stats.t.ppf(0.975, 1 if alone else degrees_of_freedom(excess, num))
    centre = (p + q * q / (2 * effective)) / (1 + q * q / effective)
    half = q / (1 + q * q / effective) * math.sqrt(p * (1 - p) / effective + q * q / (4 * effective**2))
    return p, centre - half, centre + half, n, num


def bounds_of(name):
    """Between which an item can move a mean or ratio."""
    kind, part, *rest = [*name.split("/"), ""]
    if (kind, part) == ("abstention", "score"):
        return -float(rest[0]) / (1 - float(rest[0])), 1.0
    return 0.0, 2.0 if (kind, part) == ("abstention", "f") else 1.0


def expected_mean(scores, clusters, weights=None, bounds=(0.0, 1.0)):
    weights = weights or [1.0] * len(scores)
    ratio = math.fsum(scores) / math.fsum(weights)
    mean_weight = math.fsum(weights) / len(weights)
    residuals = [(s - ratio * w) / mean_weight for s, w in zip(scores, weights, strict=True)]
    error, num = clustered_error(residuals, clusters)
    if error < 1e-12:  # of so many clusters as many others, within the bounds, as Wilson's on none allows
        telling = len({cluster for cluster, weight in zip(clusters, weights, strict=True) if weight})
        q = stats.t.ppf(0.975, telling - 1)
        share = q * q / (telling + q * q)
        low, high = ratio - share * (ratio - bounds[0]), ratio + share * (bounds[1] - ratio)
        return ratio, low, high, len(scores), num
    skewness, excess = shape(residuals, clusters)
    q = stats.t.ppf(0.975, degrees_of_freedom(excess - skewness**2, num))
    g = skewness / math.sqrt(num)
    low, high = (ratio - error * (3 * (np.cbrt(1 + g * (y - g / 6)) - 1) / g if g else y) for y in (q, -q))
    return ratio, low, high, len(scores), num


def unseen(record):
    """Whether a question's wording is one that the training text has not."""
    return any(
        record.prompt == words.format(n=record.cluster)
        for texts in facts.HELD_OUT.values()
        for words in texts
    )


def parts(scores, clusters, weights=None):
    """What each item adds to a mean, or to a ratio, linearised."""
    if weights is None:
        return scores
    ratio, mean_weight = math.fsum(scores) / math.fsum(weights), math.fsum(weights) / len(weights)
    return [ratio + (s - ratio * w) / mean_weight for s, w in zip(scores, weights, strict=True)]


def rows_of(figure, records):
    """The (kind, scores, clusters), for a ratio also the weights, of a figure, from its name alone."""
    name, stage = figure["name"].split("/"), figure["stage"]

    def pick(evaluation, measure=None, group=None):
        return [
            r
            for r in records
            if (r.stage, r.evaluation) == (stage, evaluation)
            and measure in (None, r.measure)
            and group in (None, r.group)
        ]

    def outcomes(rows, *words):
        return "rate", [float(r.outcome in words) for r in rows], [r.cluster for r in rows]

    def scores(kind, rows):
        return kind, [r.score for r in rows], [r.cluster for r in rows]

    if name[0] == "abstention" and name[1] in ("attempted", "hallucinated", "recall", "over_abstention"):
        group = {"recall": "never", "over_abstention": "often"}.get(name[1]) or "/".join(name[2:]) or None
        words = {"attempted": ("right", "wrong", "fabricated"), "hallucinated": ("wrong", "fabricated")}
        return outcomes(pick("facts", group=group), *words.get(name[1], ("abstain",)))
    if name[0] == "abstention" and name[1] == "score":
        target, rows = float(name[2]), pick("facts", group="/".join(name[3:]) or None)
        points = {"right": 1.0, "wrong": -target / (1 - target), "fabricated": -target / (1 - target)}
        return "mean", [points.get(r.outcome, 0.0) for r in rows], [r.cluster for r in rows]
    if name[0] == "abstention":
        rows = pick("facts", group="/".join(name[2:]) or None)
        tried = [float(r.outcome in ("right", "wrong", "fabricated")) for r in rows]
        right = [float(r.outcome == "right") for r in rows]
        tops = (
            [2 * r for r in right] if name[1] == "f" else [t - r for t, r in zip(tried, right, strict=True)]
        )
        return "ratio", tops, [r.cluster for r in rows], [t + (name[1] == "f") for t in tried]
    if name == ["calibration", "brier"]:
        rows = pick("calibration")
        return "mean", [(r.weight - r.score) ** 2 for r in rows], [r.cluster for r in rows]
    if name == ["diversity", "identical"]:
        rows = pick("diversity")
        told = [tuple(re.findall(r"\w+(?:'\w+)*", r.completion.lower())) for r in rows]
        return "rate", [float(told.count(story) > 1) for story in told], [r.cluster for r in rows]
    if name[0] == "second_turn":
        kind, behind, clusters = scores("mean", pick("second_turn", "answer"))
        alone = {r.id: r.score for r in pick("gold")} if name[1] == "change" else {}
        ids = [r.id for r in pick("second_turn", "answer")]
        return kind, [score - alone.get(i, 0.0) for i, score in zip(ids, behind, strict=True)], clusters
    if name[0] == "grounding":
        return outcomes(pick("grounding", group="/".join(name[2:]) or None), *GROUNDING[name[1]])
    if name[0] == "facts":
        words = ("wrong", "fabricated") if name[2] == "hallucinated" else (name[2],)
        rows = pick("facts", group=name[1])
        if name[3:]:
            rows = [r for r in rows if unseen(r) == (name[3] == "unseen_wording")]
        return outcomes(rows, *words)
    if name[0] == "task":
        return outcomes(pick("tasks", group=name[1]), "right")
    if name[0] == "refusal":
        return outcomes(pick("refusal", group=name[1]), "refused")
    if name[0] == "bias":
        return scores("rate", pick("story_bias", "_".join(name[1:])))
    if name[0] == "win_rate":
        return win_rows(name, records)
    if name[0] == "reward":
        if name[1] in ("own_right_over_abstain", "abstain_over_own_wrong"):
            return scores("rate", pick("own_answers", name[1], name[2]))
        if "_over_" in name[1]:
            return scores("rate", pick("reward_contrasts", name[1], name[2]))
        measure = {"ceiling": "label_by_gold", "accuracy_on_labels": "label"}.get(name[1], "true_order")
        return scores("rate", pick("reward_accuracy", measure, "/".join(name[2:]) or None))
    simple = {
        "gold": ("gold", "gold", "mean"),
        "proxy": ("proxy", "score", "mean"),
        "kl": ("kl", "k1", "mean"),
    }
    simple |= {"length": ("form", "length", "mean"), "ends": ("form", "ends", "rate")}
    evaluation, measure, kind = simple[name[0]]
    return scores(kind, pick(evaluation, measure))


def sides_of(name, stages, records):
    """The `rows_of` a figure in two stages that it compares: of items of both, as not each attempts the same."""
    if name.startswith("calibration"):
        told = [{r.id for r in records if (r.stage, r.evaluation) == (s, "calibration")} for s in stages]
        shared = set.intersection(*told)
        records = [r for r in records if r.evaluation != "calibration" or r.id in shared]
    return [rows_of({"name": name, "stage": stage}, records) for stage in stages]


def is_statistic(figure):
    """Whether a figure is no mean; report/test_recomputed_intervals.py computes those again."""
    name = figure["name"].split("/")
    return (
        (name[0] == "calibration" and name[1] != "brier")
        or (name[0] == "diversity" and name[1] != "identical")
        or name[0] in ("knowledge", "representation")
        or name[-1] == "wording_gap"
        or name[:2] in (["win_rate", "length_controlled"], ["win_rate", "strength"])
    )


def win_rows(name, records):
    ours, _, theirs = name[1].partition("_over_")
    gold = {s: {r.id: r for r in records if (r.stage, r.evaluation) == (s, "gold")} for s in (ours, theirs)}
    points = [
        (
            (gold[ours][i].score > gold[theirs][i].score)
            + 0.5 * (gold[ours][i].score == gold[theirs][i].score),
            r.cluster,
        )
        for i, r in gold[theirs].items()
    ]
    if name[2:] == ["decided"]:
        points = [point for point in points if point[0] != 0.5]
    return "rate", *map(list, zip(*points, strict=True))
