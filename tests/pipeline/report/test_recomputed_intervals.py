"""Figures that are no means, and all bootstrap and jackknife intervals, computed again from a run's records.

The samples are those of the keyed stream that the run names; what is made of them shares nothing with
`pipeline.statistics`: every statistic is written by its definition, for one sample at a time where that is quick.
"""

import hashlib
import math
import re
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from tests.pipeline import recomputation

STAGES = ("base", "sft", "ppo")


class Again(NamedTuple):
    """A figure's items of one stage: names, clusters, the statistic of counts, bounds, clusters that tell it."""

    ids: list
    clusters: list
    of: object
    bounds: tuple = (-math.inf, math.inf)
    telling: int = 0


# --- statistics of counts (samples, items), by definition


def auroc_of(sure, right):
    """The mean over pairs of a right and a wrong answer."""
    wins = (sure[:, None] > sure) + 0.5 * (sure[:, None] == sure)

    def of(counts):
        with np.errstate(invalid="ignore"):
            pairs = (counts * right).sum(1) * (counts * (1 - right)).sum(1)
            return ((counts * right) @ wins * (counts * (1 - right))).sum(1) / pairs

    return of


def one_by_one(statistic):
    """A statistic of drawn places, for every sample."""
    return lambda counts: np.array(
        [statistic(np.repeat(np.arange(len(row)), row.astype(int))) for row in counts]
    )


def mean_of_ties(sure, values):
    """Of equally sure answers their mean, which is that over all their orders."""
    _, level = np.unique(sure, return_inverse=True)
    return (np.bincount(level, values) / np.bincount(level))[level]


def aurc_of(sure, right):
    def statistic(drawn):
        drawn = drawn[np.argsort(-sure[drawn], kind="stable")]
        wrong = mean_of_ties(sure[drawn], 1 - right[drawn])
        return np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))

    return one_by_one(statistic)


def ece_of(sure, right):
    """Ten bins of as many tenths as there are answers."""

    def statistic(drawn):
        drawn = drawn[np.argsort(sure[drawn], kind="stable")]
        gaps = sure[drawn] - mean_of_ties(sure[drawn], right[drawn])
        return np.abs(np.repeat(gaps, 10).reshape(10, -1).mean(axis=1)).mean()

    return one_by_one(statistic)


def gap_of(hits, unseen):
    def of(counts):
        with np.errstate(invalid="ignore"):
            means = [(counts * hits * kind).sum(1) / (counts * kind).sum(1) for kind in (unseen, 1 - unseen)]
        return means[0] - means[1]

    return of


def distance_of(she, words):
    def of(counts):
        with np.errstate(invalid="ignore"):
            return abs((counts * she).sum(1) / (counts * words).sum(1) - 0.5)

    return of


def distinct_of(texts, order):
    grams = []
    for text in texts:
        words = re.findall(r"\w+(?:'\w+)*", text.lower())
        grams.append(list(zip(*(words[first:] for first in range(order)), strict=False)))

    def statistic(drawn):
        told = [gram for place in drawn for gram in grams[place]]
        return len(set(told)) / len(told)

    return one_by_one(statistic)


def wins_at_equal_length_of(won, longer):
    """Newton's method on the logistic likelihood with its penalty of 1e-6 (a^2 + b^2) / 2 an item."""

    def statistic(drawn):
        at = np.tanh(longer[drawn] / longer[drawn].std())
        design, at_zero = np.stack([np.ones(len(at)), at], axis=1), np.zeros(2)
        for _ in range(30):
            chance = 1 / (1 + np.exp(-design @ at_zero))
            gradient = design.T @ (won[drawn] - chance) - 1e-6 * len(at) * at_zero
            curvature = design.T @ (design * (chance * (1 - chance))[:, None]) + 1e-6 * len(at) * np.eye(2)
            step = np.linalg.solve(curvature, gradient)
            at_zero = at_zero + step
            if abs(step).max() < 1e-10:
                break
        return 1 / (1 + math.exp(-at_zero[0]))

    return one_by_one(statistic)


def strength_of(golds, place):
    """Zermelo's iteration, `p_i = wins_i / sum_j (meetings / (p_i + p_j))`; the log of p, of mean 0."""
    better = (golds[:, None] > golds) + 0.5 * (golds[:, None] == golds)

    def of(counts):
        wins = np.einsum("sn,ijn->sij", counts, better) * (1 - np.eye(len(golds)))
        met = wins + wins.swapaxes(1, 2)
        assert (np.minimum(wins, met - wins)[met > 0] >= 0.5).all()  # else half a win is lent
        power = np.ones(wins.shape[:2])
        for _ in range(2000):
            last = power
            power = wins.sum(2) / (met / (power[:, :, None] + power[:, None])).sum(2)
            power /= np.exp(np.log(power).mean(1, keepdims=True))
            if abs(np.log(power / last)).max() < 1e-12:
                break
        return np.log(power)[:, place]

    return of


# --- figures by name


def again(name, stage, records, shared=None):
    """A figure's statistic of one stage, of the shared items alone where these are given."""
    parts = name.split("/")
    evaluation = {"facts": "facts", "win_rate": "gold"}.get(parts[0], parts[0])
    rows = [r for r in records if (r.stage, r.evaluation) == (stage, evaluation)]
    if shared is not None:
        rows = [r for r in rows if r.id in shared]
    bounds, telling, kinds = (-math.inf, math.inf), None, None
    if parts[0] == "calibration":
        rows = [r for r in rows if parts[2:] in ([], [r.group])]
        sure, right = (np.array([getattr(r, part) for r in rows]) for part in ("weight", "score"))
        of = {"auroc": auroc_of, "aurc": aurc_of, "ece": ece_of}[parts[1]](sure, right)
        bounds = (-math.inf, math.inf) if parts[1] == "aurc" else (0.0, 1.0)
        kinds = right if parts[1] == "auroc" else None
    elif parts[0] == "knowledge":
        rows = [r for r in rows if r.measure == parts[1] and r.group in (parts[2], "never")]
        seen = np.array([float(r.group != "never") for r in rows])
        nats = [float(re.search(r"-?[\d.]+$", r.explanation)[0]) for r in rows]
        assert [-r.weight for r in rows] == pytest.approx(nats, abs=1e-3)
        of, bounds, kinds = auroc_of(np.array([r.weight for r in rows]), seen), (0.0, 1.0), seen
    elif parts[-1] == "wording_gap":
        rows = [r for r in rows if r.group == parts[1]]
        words = ("wrong", "fabricated") if parts[2] == "hallucinated" else (parts[2],)
        kinds = np.array([float(recomputation.unseen(r)) for r in rows])
        of, bounds = gap_of(np.array([float(r.outcome in words) for r in rows]), kinds), (-1.0, 1.0)
    elif parts[0] == "representation":
        of = distance_of(*(np.array([getattr(r, part) for r in rows]) for part in ("score", "weight")))
        bounds, kinds = (-0.5, 0.5), None
        telling = len({r.cluster for r in rows if r.weight})
    elif parts[0] == "diversity":
        of, bounds = distinct_of([r.completion for r in rows], int(parts[1][-1])), (0.0, 1.0)
    elif parts[1] == "length_controlled":
        other = {r.id: r for r in records if (r.stage, r.evaluation) == (parts[2].split("_over_")[1], "gold")}
        won = [(r.score > other[r.id].score) + (r.score == other[r.id].score) / 2 for r in rows]
        longer = [float(len(r.completion) - len(other[r.id].completion)) for r in rows]
        of, bounds = wins_at_equal_length_of(np.array(won), np.array(longer)), (0.0, 1.0)
    else:
        assert parts == ["win_rate", "strength"]
        gold = [{r.id: r.score for r in records if (r.stage, r.evaluation) == (s, "gold")} for s in STAGES]
        of = strength_of(np.array([[side[r.id] for r in rows] for side in gold]), STAGES.index(stage))
    clusters = [r.cluster for r in rows]
    if kinds is not None:
        telling = min(len({c for c, k in zip(clusters, kinds, strict=True) if k == side}) for side in (0, 1))
    return Again([r.id for r in rows], clusters, of, bounds, telling or len(set(clusters)))


# --- intervals


def stream(*parts):
    """The random stream of a figure: a hash of its parts and their kinds."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:8], "big") // 2))


def counts_of(clusters, generator, num=1000):
    """How often each item counts where as many clusters as there are, in order of their names, are drawn."""
    names = sorted(set(clusters))
    drawn = generator.integers(0, len(names), (num, len(names)))
    times = np.stack([(drawn == place).sum(axis=1) for place in range(len(names))], axis=1)
    places = {name: place for place, name in enumerate(names)}
    return times[:, [places[name] for name in clusters]].astype(float)


def tail_of(num):
    return stats.norm.cdf(-math.sqrt(num / (num - 1)) * stats.t.ppf(0.975, num - 1))


def percentile_interval(value, draws, clusters):
    """Hesterberg's expanded percentile interval, which holds the value; None where the draws are all equal.

    Of so few clusters that no resample lies as far out it is Student's, of the draws' spread.
    """
    draws, num = draws[np.isfinite(draws)], len(set(clusters))
    if np.ptp(draws) <= 1e-12 * abs(draws).max():
        return None
    tail = tail_of(num)
    if tail < 1 / num**num:
        half = stats.t.ppf(0.975, num - 1) * math.sqrt(num / (num - 1)) * draws.std()
        return value - half, value + half
    low, high = np.quantile(draws, [tail, 1 - tail])
    return min(low, value), max(high, value)


def p_of(draws, clusters):
    """1 - level of the widest such interval that leaves 0 out, with one more draw on the lesser side of it."""
    draws, num = draws[np.isfinite(draws)], len(set(clusters))
    share = (min(sum(draws <= 0), sum(draws >= 0)) + 1) / (len(draws) + 1)
    quantile = -stats.norm.ppf(min(share, 0.5)) * math.sqrt((num - 1) / num)
    return 2 * stats.t.sf(quantile, num - 1)


def unvaried(value, num, bounds):
    """What Wilson's bound on none of so many clusters lets be others, which may lie anywhere."""
    square = stats.t.ppf(0.975, num - 1) ** 2
    share = square / (num + square)
    return value - share * (value - bounds[0]), value + share * (bounds[1] - value)


def leave_one_out(of, clusters):
    """The jackknife's interval of Student."""
    names = sorted(set(clusters))
    without = np.array([[float(name != left_out) for name in clusters] for left_out in names])
    rest, num = of(without), len(names)
    half = stats.t.ppf(0.975, num - 1) * math.sqrt((num - 1) / num * ((rest - rest.mean()) ** 2).sum())
    value = of(np.ones((1, len(clusters))))[0]
    return value - half, value + half


def within(interval, bounds):
    return max(interval[0], bounds[0]), min(interval[1], bounds[1])


def test_every_statistic_and_its_interval_follow_from_the_records(results, records):
    checked = {}
    for figure in results["figures"]:
        if "_minus_" in figure["name"] or not recomputation.is_statistic(figure):
            continue
        name, stage = figure["name"], figure["stage"]
        if name.startswith("calibration/risk"):
            continue  # a rate of the most confident; test_recomputed.py
        found = again(name, stage, records)
        value = found.of(np.ones((1, len(found.ids))))[0]
        if name.startswith("diversity"):
            interval = within(leave_one_out(found.of, found.clusters), found.bounds)
        else:
            draws = found.of(counts_of(found.clusters, stream("bootstrap", 0, name, stage)))
            interval = percentile_interval(value, draws, found.clusters)
            interval = interval or unvaried(value, found.telling, found.bounds)
            interval = within(interval, found.bounds)
        expected = [value, *interval, len(found.ids), len(set(found.clusters))]
        told = [figure[part] for part in ("value", "low", "high", "n", "clusters")]
        assert told == pytest.approx(expected, abs=1e-7), (name, stage)
        checked[name.split("/")[0]] = checked.get(name.split("/")[0], 0) + 1
    assert set(checked) == {"calibration", "diversity", "facts", "knowledge", "representation", "win_rate"}
    assert sum(checked.values()) >= 90


def test_every_change_of_a_statistic_follows_from_the_records(results, records):
    checked = 0
    for row in results["comparisons"]:
        if not recomputation.is_statistic(row):
            continue
        name, *steps = row["name"], row["before"], row["after"]
        shared = set.intersection(*(set(again(name, stage, records).ids) for stage in steps))
        before, after = (again(name, stage, records, shared) for stage in steps)
        assert before.ids == after.ids

        def change(counts, before=before, after=after):
            return after.of(counts) - before.of(counts)

        value = change(np.ones((1, len(before.ids))))[0]
        widest = before.bounds[1] - before.bounds[0]
        if name.startswith("diversity"):
            interval = leave_one_out(change, before.clusters)
        else:
            draws = change(counts_of(before.clusters, stream("bootstrap", 0, name, *steps)))
            interval = percentile_interval(value, draws, before.clusters)
            interval = interval or unvaried(value, min(before.telling, after.telling), (-widest, widest))
            assert row["p_value"] == pytest.approx(p_of(draws, before.clusters), abs=1e-9), name
        assert row["value"] == pytest.approx(value, abs=1e-9), name
        expected = within(interval, (-widest, widest))
        assert [row["low"], row["high"]] == pytest.approx(list(expected), abs=1e-9), name
        checked += 1
    assert checked > 40


def test_every_interval_and_test_of_a_change_of_means_follows_from_the_records(results, records):
    """Bootstrapped, or Student's where the weights of a ratio differ between the sides."""
    checked = {"bootstrap": 0, "student": 0, "unvaried": 0}
    for row in results["comparisons"]:
        if recomputation.is_statistic(row):
            continue
        sides = recomputation.sides_of(row["name"], (row["before"], row["after"]), records)
        (kind, *old), (_, *new) = sides
        changes = np.array(recomputation.parts(*new)) - np.array(recomputation.parts(*old))
        error, num = recomputation.clustered_error(changes - changes.mean(), old[1])
        if error < 1e-12:
            if row["gained"] is not None:
                expected = unvaried(changes.mean(), num, (-1, 1))
                assert [row["low"], row["high"]] == pytest.approx(list(expected)), row["name"]
                checked["unvaried"] += 1
            continue
        t = changes.mean() / error
        assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(t), num - 1), abs=1e-9), row["name"]
        if kind == "ratio" and old[2] != new[2]:
            expected = [changes.mean() + sign * stats.t.ppf(0.975, num - 1) * error for sign in (-1, 1)]
            checked["student"] += 1
        else:
            stream_of = stream("bootstrap", 0, row["name"], row["before"], row["after"])
            counts = counts_of(old[1], stream_of, 2000)
            expected = np.quantile(counts @ changes / counts.sum(axis=1), [tail_of(num), 1 - tail_of(num)])
            checked["bootstrap"] += 1
        if kind != "mean" or row["name"].startswith("abstention/score"):
            low, high = recomputation.bounds_of(row["name"])
            expected = within(expected, (low - high, high - low))
        assert [row["low"], row["high"]] == pytest.approx(list(expected), abs=1e-9), row["name"]
    assert checked["bootstrap"] > 150
    assert checked["student"] > 20
    assert checked["unvaried"] > 0
