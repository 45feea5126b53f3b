"""Where nothing varies an interval is never of zero width: what the clusters still allow, or none."""

import math

import numpy as np
import pytest

from pipeline import statistics as st
from pipeline.measured import (
    Measured,
    Scored,
    comparison_of,
    figures_of,
    mean_of_samples,
    rarer_by,
    ratio_of_samples,
    with_verdicts,
)
from pipeline.records import Figure, to_json
from pipeline.report.tables import at_chance
from pipeline.report.verdicts import shown


def average(values):
    return lambda counts: counts @ np.asarray(values) / counts.sum(axis=1)


def rows(values, weights=None):
    weights = weights or [1.0] * len(values)
    pairs = zip(values, weights, strict=True)
    return [Scored(str(n), f"c{n // 2}", value, weight) for n, (value, weight) in enumerate(pairs)]


def figure(kind, values, weights=None, **options):
    measured = Measured("x", "", kind, {"a": rows(values, weights)}, **options)
    (found,) = figures_of(measured, seed=0, command="")
    return found


def change(kind, before, after, **options):
    measured = Measured("x", "", kind, {"a": rows(before), "b": rows(after)}, 1, **options)
    return with_verdicts([comparison_of(measured, "a", "b", seed=0)])[0]


def share(num_clusters):
    """Wilson's bound on 0 of C."""
    return st.wilson(0, num_clusters, quantile=st.t_quantile(0.95, num_clusters))[1]


# --- without bounds nothing is known


@pytest.mark.parametrize("value", [0.0, 0.1, -3e-9, 7e12])
def test_equal_scores_without_bounds_have_no_interval(value):
    scores, clusters = np.full(60, value), np.repeat(np.arange(20), 3)
    zero = np.zeros(60)
    found = [
        st.mean(scores, clusters),
        st.ratio(scores * 3, np.full(60, 3.0), clusters),
        st.bootstrap(average(scores), clusters, key=1),
        st.bootstrap_difference(average(zero), average(scores), clusters, key=1),
        st.jackknife(average(scores), clusters),
        st.jackknife_difference(average(zero), average(scores), clusters),
        st.paired_difference(zero - 3 * value, scores - 3 * value + 0.0, clusters, key=1),
    ]
    for one in found if value else found[:-1]:  # scores of 0 and 1 have bounds
        assert (one.low, one.high) == (-math.inf, math.inf)
        assert one.value == pytest.approx(value)


def test_the_least_variation_is_told_from_rounding():
    scores = np.full(60, 1e6)
    scores[7] += 1e-3
    assert np.isfinite(st.mean(scores)[:3]).all()
    assert np.isfinite(st.paired_difference(np.zeros(60), scores, key=1)[:3]).all()


def test_a_bound_on_one_side_alone_gives_no_interval():
    found = figure("mean", [2.5] * 40, bounds=(0.0, math.inf))
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_clusters_that_balance_have_no_interval_of_zero_width_either():
    scores, clusters = np.tile([0.3, -0.3, 0.0], 20), np.repeat(np.arange(20), 3)
    assert st.mean(scores, clusters).high == math.inf
    assert st.paired_difference(np.zeros(60), scores, clusters, key=1).high == math.inf


def test_no_smallest_detectable_change_is_claimed():
    assert math.isnan(change("rate", [1.0] * 40, [1.0] * 40).smallest)


def test_no_interval_is_null_in_files_and_said_so_in_the_report():
    written = to_json(figure("mean", [64.0] * 40))
    assert (written["value"], written["low"], written["high"]) == (64.0, None, None)
    read = Figure("x", "a", 64.0, math.nan, math.nan, 40, 20, "", {"chance": 3.0})
    assert shown(read) == "64.000 (no interval)"
    assert at_chance(read)  # nothing tells it from chance
    moved = change("statistic", [1.0] * 40, [2.0] * 40, resampled=mean_of_samples)
    assert (moved.high, moved.verdict) == (math.inf, "no evidence")


# --- with bounds


@pytest.mark.parametrize(("value", "below", "above"), [(0.0, 0, 1), (1.0, 1, 0), (0.25, 0.25, 0.75)])
def test_a_mean_within_bounds_has_what_the_clusters_still_allow(value, below, above):
    found = figure("mean", [value] * 40, bounds=(0.0, 1.0))
    assert (found.low, found.high) == pytest.approx((value - below * share(20), value + above * share(20)))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_rate_has_the_interval_of_a_mean_within_0_and_1(value):
    rate, mean = figure("rate", [value] * 40), figure("mean", [value] * 40, bounds=(0.0, 1.0))
    assert (rate.low, rate.high) == pytest.approx((mean.low, mean.high))


def test_what_tells_two_kinds_apart_rests_on_the_rarer_kind():
    # Of 40 items the last eight, in four clusters, are of the rarer kind, and all are told apart.
    weights = [1.0] * 32 + [0.0] * 8
    for kind in (lambda row: row.weight, lambda row: 1 - row.weight):
        options = {"resampled": mean_of_samples, "rests_on": rarer_by(kind), "bounds": (0.0, 1.0)}
        found = figure("statistic", [1.0] * 40, weights, **options)
        assert (found.low, found.high) == pytest.approx((1 - share(4), 1))


def test_clusters_without_weight_say_nothing_of_a_ratio():
    # Of 40 questions the first six, in three clusters, were attempted.
    weights = [1.0] * 6 + [0.0] * 34
    for kind, options in (("ratio", {}), ("statistic", {"resampled": ratio_of_samples})):
        found = figure(kind, [0.0] * 40, weights, bounds=(0.0, 1.0), **options)
        assert (found.low, found.high) == pytest.approx((0, share(3)))


def test_where_no_item_has_any_weight_all_clusters_count():
    found = figure("statistic", [0.0] * 40, [0.0] * 40, resampled=mean_of_samples, bounds=(-1.0, 1.0))
    assert (found.low, found.high) == pytest.approx((-share(20), share(20)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rate", {}),
        ("mean", {"bounds": (0.0, 1.0)}),
        ("ratio", {"bounds": (0.0, 1.0)}),
        ("statistic", {"bounds": (0.0, 1.0), "resampled": mean_of_samples}),
    ],
)
def test_a_change_that_is_alike_everywhere_has_an_interval(kind, options):
    same = change(kind, [0.5] * 40, [0.5] * 40, **options)
    assert (same.low, same.high) == pytest.approx((-share(20), share(20)))
    assert (same.value, same.verdict) == (0, "no evidence")
    # Clusters that were not seen may have changed the other way, by 2 in all.
    gained = change(kind, [0.0] * 40, [1.0] * 40, **options)
    assert (gained.low, gained.high) == pytest.approx((1 - 2 * share(20), 1))
    assert gained.verdict == "improved"


def test_equal_answers_of_two_models_may_still_differ_by_as_much_as_they_vary():
    lengths = [float(3 + n % 11) for n in range(40)]
    same = change("mean", lengths, lengths)
    assert (same.low, same.high) == pytest.approx((-10 * share(20), 10 * share(20)))
    assert same.verdict == "no evidence"
    assert change("mean", [64.0] * 40, [64.0] * 40).high == math.inf  # nothing was seen to vary


def test_one_cluster_alone_changes_nothing():
    assert change("mean", [1.0, 2.0], [1.0, 3.0]).verdict == "no evidence"


def test_two_clusters_that_changed_alike_prove_nothing():
    assert change("rate", [0.0] * 4, [1.0] * 4).verdict == "no evidence"


# --- coverage


@pytest.mark.parametrize("num_clusters", [30, 100])
@pytest.mark.parametrize("expected", [0.5, 1.0, 2.0, 3.0])
def test_intervals_cover_where_often_no_cluster_is_another(num_clusters, expected):
    """Of 600 samples in which about `expected` clusters of 1 to 15 items score 1 and all others 0.

    In .61 to .05 of the samples nothing varies, and an interval of zero width would miss.
    """
    generator = np.random.default_rng([17, num_clusters, round(10 * expected)])
    covered, alike = 0, 0
    for _ in range(600):
        clusters = np.repeat(np.arange(num_clusters), generator.integers(1, 16, num_clusters))
        scores = (generator.random(num_clusters) < expected / num_clusters)[clusters].astype(float)
        found = st.mean(scores, clusters)
        low, high = found.low, found.high
        if low == -math.inf:
            alike += 1
            low, high = st.unvaried(found.value, num_clusters, (0.0, 1.0))
        covered += low <= expected / num_clusters <= high
    assert covered / 600 >= 0.93
    # Four standard errors of a share of 600.
    assert alike / 600 == pytest.approx((1 - expected / num_clusters) ** num_clusters, abs=0.08)


@pytest.mark.parametrize("num_clusters", [30, 100])
@pytest.mark.parametrize("expected", [0.5, 1.0, 2.0])
def test_paired_intervals_cover_where_often_no_pair_differs(num_clusters, expected):
    """Of 400 samples in which about `expected` clusters of 5 items turn right, the others stay as they were."""
    generator = np.random.default_rng([19, num_clusters, round(10 * expected)])
    clusters = np.repeat(np.arange(num_clusters), 5)
    covered = 0
    for number in range(400):
        turned = (generator.random(num_clusters) < expected / num_clusters)[clusters].astype(float)
        found = st.paired_difference(np.zeros_like(turned), turned, clusters, key=number, num_resamples=300)
        covered += found.low <= expected / num_clusters <= found.high
    assert covered / 400 >= 0.93
