"""Intervals and tests against closed forms, published values and simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pipeline import statistics as st

NAN = math.nan


def clustered_sample(generator, num_clusters, size, rate, correlation=0.2):
    """Scores of 0 and 1 whose clusters share a beta-distributed rate."""
    spread = (1 - correlation) / correlation
    rates = np.repeat(generator.beta(rate * spread, (1 - rate) * spread, num_clusters), size)
    return (generator.random(num_clusters * size) < rates).astype(float), rates


# --- one sample


def test_clustered_se_without_clusters_is_the_textbook_one():
    scores = np.random.default_rng(0).normal(size=37)
    assert st.clustered_se(scores - scores.mean()) == pytest.approx(scores.std(ddof=1) / math.sqrt(37))


def test_clustered_se_by_hand():
    # Residuals by cluster: a holds 1 and 2, b holds -3; the sums are 3 and -3.
    assert st.clustered_se([1, 2, -3], ["a", "a", "b"]) == pytest.approx(math.sqrt(2 / 1 * 18) / 3)


def test_copies_within_clusters_add_nothing():
    scores = [0.1, 0.5, 0.9, 0.3, 0.7]
    copied = st.mean(np.repeat(scores, 11), np.repeat(np.arange(5), 11))
    assert copied[:4] == pytest.approx(st.mean(scores)[:4])
    assert (copied.num, copied.num_clusters) == (55, 5)


def test_mean_is_the_t_interval_of_scipy():
    scores = np.random.default_rng(1).normal(size=13)
    low, high = scipy_stats.t.interval(0.95, 12, scores.mean(), scipy_stats.sem(scores))
    assert st.mean(scores)[:3] == pytest.approx((scores.mean(), low, high))


def test_nan_is_left_out_and_not_counted():
    got = st.mean([1.0, NAN, 3.0], ["a", "b", "c"])
    assert (got.value, got.num, got.num_clusters) == (2, 2, 2)
    assert st.mean([NAN]) is st.NOTHING or st.mean([NAN]).num == 0


def test_wilson_equals_scipy():
    expected = scipy_stats.binomtest(17, 59).proportion_ci(0.95, method="wilson")
    assert st.wilson(17 / 59, 59) == pytest.approx((expected.low, expected.high))
    assert st.wilson(0, 10)[0] == 0
    assert st.wilson(1, 10)[1] == 1


def test_a_rate_of_equal_scores_rests_on_the_number_of_clusters():
    got = st.rate(np.ones(600), np.repeat(np.arange(40), 15))
    assert got.low == pytest.approx(st.wilson(1, 40, quantile=st.t_quantile(0.95, 40))[0])
    assert got.low < st.rate(np.ones(600)).low


def test_clusters_widen_a_rate():
    scores, clusters = np.repeat([1.0, 0, 1, 0, 1, 1, 0], 13), np.repeat(np.arange(7), 13)
    wide, narrow = st.rate(scores, clusters), st.rate(scores)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_a_rate_of_other_scores_is_refused():
    with pytest.raises(AssertionError, match="scores 0, 1/2 and 1"):
        st.rate([0.3, 1])


def test_ties_narrow_a_rate_as_they_vary_less():
    won, tied = st.rate([0, 1] * 50), st.rate([0, 1, *[0.5] * 4] * 17)
    assert won.value == tied.value == 0.5
    # A third of the variance; Wilson's intervals grow a little slower than the square root of it.
    assert tied.high - tied.low == pytest.approx((won.high - won.low) / 3**0.5, rel=0.02)
    only = st.rate([0.5] * 40)
    assert only.high - only.low > 0.2  # nothing varies, so the number of clusters alone tells


def test_clusters_that_balance_do_not_make_a_rate_certain():
    # Every cluster holds one win, one loss and a tie, so the clustered error is 0.
    balanced = st.rate([0, 1, 0.5] * 20, np.repeat(np.arange(20), 3))
    assert balanced.se == 0
    assert balanced[1:3] == pytest.approx(st.wilson(0.5, 90, quantile=st.t_quantile(0.95, 20)))


def test_ratio_weighs_items_by_their_denominators():
    got = st.ratio([2.0, 9.0], [1.0, 3.0])
    assert got.value == 11 / 4
    residuals = np.array([2 - 2.75, 9 - 8.25]) / 2
    assert got.se == pytest.approx(math.sqrt(2 * (residuals**2).sum()) / 2)


def test_above_chance():
    assert st.above_chance(0.25, 0.25) == 0
    assert st.above_chance(1, 0.25) == 1


@pytest.mark.parametrize("true_rate", [0.05, 0.5])
def test_intervals_cover_their_rate_on_clustered_items(true_rate):
    """Of 400 samples; a true .95 falls outside .918 to .982 once in 300 tries."""
    generator = np.random.default_rng(3)
    clusters = np.repeat(np.arange(60), 7)
    covered = plain = 0
    for _ in range(400):
        scores, _ = clustered_sample(generator, 60, 7, true_rate)
        got, flat = st.rate(scores, clusters), st.rate(scores)
        covered += got.low <= true_rate <= got.high
        plain += flat.low <= true_rate <= flat.high
    assert 0.918 <= covered / 400 <= 0.982
    assert plain / 400 < 0.9


# --- pairs


def test_paired_bootstrap_covers_zero_and_the_test_keeps_its_level_where_nothing_changed():
    generator = np.random.default_rng(5)
    clusters = np.repeat(np.arange(40), 5)
    covered = rejected = 0
    for number in range(300):
        before, rates = clustered_sample(generator, 40, 5, 0.3)
        after = (generator.random(200) < rates).astype(float)
        got = st.paired_difference(before, after, clusters, key=number, num_resamples=400)
        covered += got.low <= 0 <= got.high
        rejected += got.p_value < 0.05
    assert 0.91 <= covered / 300 <= 0.985
    assert 0.015 <= rejected / 300 <= 0.09


def test_pairing_removes_what_the_items_share():
    generator = np.random.default_rng(7)
    hardness = generator.normal(size=101)
    before, after = hardness, hardness + 0.2 + 0.1 * generator.normal(size=101)
    got = st.paired_difference(before, after, key=1)
    assert got.low > 0.15
    assert got.high < 0.25
    assert got.se < st.mean(after).se / 5


def test_paired_difference_counts_discordant_items_and_ignores_unscored():
    got = st.paired_difference([0, 0, 1, 1, NAN, 0], [1, 1, 0, 1, 1, NAN], key=1)
    assert (got.gained, got.lost, got.num) == (2, 1, 4)
    assert got.mcnemar_p == 1
    assert st.paired_difference([0.5, 0], [1, 0], key=1).mcnemar_p is None


def test_the_bootstrap_depends_on_its_key_alone():
    scores = np.random.default_rng(0).normal(size=(2, 53))
    first, again, other = (st.paired_difference(*scores, key=key) for key in (1, 1, 2))
    assert first == again
    assert first.low != other.low
    assert first.value == other.value


def test_bootstrap_interval_is_close_to_the_t_interval_for_many_clusters():
    scores = np.random.default_rng(0).normal(size=499)
    got = st.paired_difference(np.zeros(499), scores, key=3, num_resamples=4000)
    assert (got.low, got.high) == pytest.approx(st.mean(scores)[1:3], abs=0.01)


def test_a_drawn_cluster_counts_with_its_size():
    after = np.ones(31)
    after[0] += 1e-6  # else nothing varies and nothing is drawn
    got = st.paired_difference(np.zeros(31), after, np.repeat([0, 1, 2], [2, 5, 24]), key=1)
    assert (got.low, got.high) == pytest.approx((1, 1), abs=1e-5)


def test_no_change_anywhere_still_has_an_interval():
    got = st.paired_difference(np.ones(50), np.ones(50), np.repeat(np.arange(10), 5), key=1)
    assert (got.value, got.p_value, got.mcnemar_p) == (0, 1, 1)
    assert got.low == -got.high < -0.2


def test_different_items_are_refused():
    with pytest.raises(AssertionError, match="same items"):
        st.paired_difference([1], [1, 2], key=1)


def test_mcnemar_is_exact_and_1_without_discordant_items():
    assert st.mcnemar(0, 0) == 1
    assert st.mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert st.mcnemar(3, 11) == pytest.approx(scipy_stats.binomtest(3, 14).pvalue)
    assert st.mcnemar(5, 5) == 1


def test_holm_by_hand():
    # Sorted: .01 x 4, .011 x 3, .03 x 2, .5 x 1; never decreasing.
    got = st.holm({"a": 0.03, "b": 0.01, "c": 0.5, "d": 0.011})
    assert got == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.5, "d": 0.04})
    assert list(got) == ["a", "b", "c", "d"]


def test_minimum_detectable_effect_is_2_8_standard_errors():
    assert st.minimum_detectable_effect(0.1) == pytest.approx(0.28016, abs=1e-5)


def test_win_rate_counts_ties_half():
    ours, theirs = [3, 1, 2, 2, NAN], [1, 3, 2, 1, 0]
    assert st.win_rate(ours, theirs).value == (1 + 0 + 0.5 + 1) / 4
    assert st.decided_win_rate(ours, theirs).value == pytest.approx(2 / 3)
    assert st.win_rate(theirs, ours).value == 1 - st.win_rate(ours, theirs).value
    assert st.win_rate(ours, ours).value == 0.5
