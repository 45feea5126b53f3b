"""Intervals and tests against closed forms, published values and simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pipeline import rankings
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


def test_mean_is_the_t_interval_of_scipy_where_scores_are_symmetric_and_light_tailed():
    half = np.random.default_rng(1).random(6)
    scores = 5 + np.concatenate([half, -half, [0]])
    low, high = scipy_stats.t.interval(0.95, 12, scores.mean(), scipy_stats.sem(scores))
    assert st.mean(scores)[:3] == pytest.approx((scores.mean(), low, high))


def test_the_interval_of_a_mean_reaches_further_to_the_side_of_its_rare_scores():
    scores = np.array([0.0] * 27 + [1.0] * 3)
    up, down = st.mean(scores), st.mean(-scores)
    assert up.high - up.value > 1.5 * (up.value - up.low) > 0
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))


def test_halls_transformation_of_the_bounds_is_the_quantile():
    # Hall 1992: t + g t^2 / 3 + g^2 t^3 / 27 + g / 6 of each bound's t is the quantile that was asked for.
    scores = np.random.default_rng(2).gamma(1.0, size=43)
    got, centred = st.mean(scores), scores - scores.mean()
    skewness = (centred**3).mean() / (centred**2).mean() ** 1.5
    excess = (centred**4).mean() / (centred**2).mean() ** 2 - 3 - skewness**2
    quantile = scipy_stats.t.ppf(0.975, 2 / (2 / 42 + max(excess, 0) / 43))
    g = skewness / math.sqrt(43)
    for bound, expected in ((got.low, quantile), (got.high, -quantile)):
        t = (got.value - bound) / got.se
        assert t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6 == pytest.approx(expected)


def test_heavy_tails_take_degrees_of_freedom():
    assert st.variance_df(0, 30) == st.variance_df(-1.5, 30) == 29
    assert st.variance_df(5, 30) == pytest.approx(2 / (2 / 29 + 5 / 30))
    assert st.variance_df(300, 300) == 4  # no fewer
    assert st.variance_df(3, 3) == 2  # but for so few clusters
    assert st.variance_df(0, 1) == 1


def test_a_rate_of_single_items_has_nothing_of_clusters_to_estimate():
    got = st.rate([1] + [0] * 99)
    quantile = scipy_stats.t.ppf(0.975, 99)
    # n / design effect is 99: the standard error has n - 1 in it.
    assert got[1:3] == pytest.approx(st.wilson(0.01, 99, quantile=quantile))
    clustered = st.rate([1] + [0] * 99, np.repeat(np.arange(50), 2))
    assert clustered.high > 1.5 * got.high


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
    assert balanced[1:3] == pytest.approx(st.wilson(0.5, 20, quantile=st.t_quantile(0.95, 20)))
    halves = st.rate([0, 1] * 20, np.repeat(np.arange(20), 2))
    assert halves[1:3] == pytest.approx(balanced[1:3])
    thirds = st.rate([0, 0, 1] * 20, np.repeat(np.arange(20), 3))  # whose error is 0 but for rounding
    assert thirds.low == pytest.approx(st.wilson(1 / 3, 20, quantile=st.t_quantile(0.95, 20))[0])


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


@pytest.mark.parametrize("true_rate", [0.05, 0.95])
def test_intervals_of_rare_outcomes_cover_with_thirty_clusters_of_any_size(true_rate):
    """Of 500 samples; a true .945 falls outside .912 to .975 once in 300 tries. Student's t interval has .87."""
    generator = np.random.default_rng(13)
    covered = {"rate": 0, "mean": 0, "t": 0}
    for _ in range(500):
        clusters = np.repeat(np.arange(30), generator.integers(1, 16, 30))
        chances = generator.beta(4 * true_rate, 4 * (1 - true_rate), 30)[clusters]
        scores = (generator.random(len(clusters)) < chances).astype(float)
        rate, mean = st.rate(scores, clusters), st.mean(scores, clusters)
        half = st.t_quantile(0.95, 30) * mean.se
        covered["rate"] += rate.low <= true_rate <= rate.high
        covered["mean"] += mean.low <= true_rate <= mean.high
        covered["t"] += mean.value - half <= true_rate <= mean.value + half
    assert 0.912 <= covered["rate"] / 500 <= 0.975
    assert 0.912 <= covered["mean"] / 500 <= 0.975
    assert covered["t"] / 500 < 0.912


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


def test_minimum_detectable_effect_is_2_8_standard_errors_of_many_clusters():
    assert st.minimum_detectable_effect(0.1, 10**6) == pytest.approx(0.28016, abs=1e-5)


def test_an_effect_is_detected_from_few_clusters_as_often_as_is_said():
    """Student's test of five clusters on changes of that size; the approximation is known to be low by 3 %."""
    generator = np.random.default_rng(0)
    effect = st.minimum_detectable_effect(1 / math.sqrt(5), 5)
    changes = effect + generator.normal(size=(20_000, 5))
    t = changes.mean(axis=1) / (changes.std(axis=1, ddof=1) / math.sqrt(5))
    assert (t > st.t_quantile(0.95, 5)).mean() == pytest.approx(0.8, abs=0.04)


def test_each_kind_of_change_names_the_effect_of_its_clusters():
    scores = np.random.default_rng(1).normal(size=12)
    clusters = np.repeat(np.arange(6), 2)
    zero = average(np.zeros(12))
    for found in (
        st.paired_difference(np.zeros(12), scores, clusters, key=1),
        st.bootstrap_difference(zero, average(scores), clusters, key=1),
        st.jackknife_difference(zero, average(scores), clusters),
    ):
        quantiles = scipy_stats.t.ppf([0.975, 0.8], 5)
        assert found.smallest == pytest.approx(quantiles.sum() * found.se)


def test_win_rate_counts_ties_half():
    ours, theirs = [3, 1, 2, 2, NAN], [1, 3, 2, 1, 0]
    assert st.win_rate(ours, theirs).value == (1 + 0 + 0.5 + 1) / 4
    assert st.decided_win_rate(ours, theirs).value == pytest.approx(2 / 3)
    assert st.win_rate(theirs, ours).value == 1 - st.win_rate(ours, theirs).value
    assert st.win_rate(ours, ours).value == 0.5


# --- figures that are no means


def average(values):
    """The mean as a statistic."""
    values = np.asarray(values)
    return lambda counts: counts @ values / counts.sum(axis=1)


def test_a_bootstrap_of_the_mean_is_that_of_the_paired_difference():
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(41), generator.integers(1, 9, 41))
    scores = generator.normal(size=41)[clusters] + generator.normal(size=len(clusters))
    got = st.bootstrap(average(scores), clusters, key=1, num_resamples=4000)
    paired = st.paired_difference(np.zeros(len(scores)), scores, clusters, key=2, num_resamples=4000)
    assert got.value == pytest.approx(scores.mean())
    assert (got.num, got.num_clusters) == (len(scores), 41)
    # Bounds of 4,000 resamples scatter by .05 standard errors.
    assert (got.low, got.high) == pytest.approx((paired.low, paired.high), abs=0.2 * paired.se)
    assert got.se == pytest.approx(paired.se, rel=0.06)


def test_whole_clusters_are_drawn_as_many_as_there_are():
    clusters = np.array(["a", "b", "a", "c", "c", "c", "d"])
    seen = []
    st.bootstrap(lambda counts: seen.append(counts) or counts[:, 0], clusters, key=3, num_resamples=50)
    drawn = np.concatenate(seen[1:])
    assert drawn.shape == (50, 7)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 3] == drawn[:, 5]).all()
    assert (drawn[:, [0, 1, 3, 6]].sum(axis=1) == 4).all()
    assert (seen[0] == 1).all()


def test_the_draws_depend_on_the_key_and_the_clusters_alone():
    scores = np.random.default_rng(4).normal(size=31)
    few = st.bootstrap(average(scores), range(31), key=5)
    many = np.repeat(np.arange(31), 300)  # other batches, as samples of all items are larger
    assert st.bootstrap(average(scores[many]), many, key=5)[:4] == pytest.approx(few[:4])
    assert st.bootstrap(average(scores), range(31), key=6).low != few.low


def test_the_interval_holds_the_value_of_a_statistic_that_resampling_biases():
    scores = np.random.default_rng(4).normal(size=50)
    # The number of different items is largest where each is drawn once.
    got = st.bootstrap(lambda counts: (counts > 0) @ np.ones(50), range(50), key=1)
    assert got.low < got.high == got.value == 50
    assert st.jackknife(average(scores), range(50)).num == 50


def test_resamples_without_a_value_are_left_out():
    def odd(counts):
        values = average(np.arange(20.0))(counts)
        return np.where((counts[:, 0] == 0) | (counts[:, 0] == 1), values, np.nan)

    got = st.bootstrap(odd, range(20), key=1)
    assert np.isfinite(got[:4]).all()
    missing = st.bootstrap(lambda counts: np.full(len(counts), np.nan), range(20), key=1)
    assert np.isnan(missing[:4]).all()
    assert np.isnan(st.bootstrap(average([1.0, 2]), ["a", "a"], key=1)[1:4]).all()
    assert np.isnan(st.bootstrap(average([]), [], key=1).value)


def test_the_p_value_of_a_bootstrap_is_at_most_the_level_where_its_interval_leaves_0_out():
    generator = np.random.default_rng(8)
    disagreements, excluded = 0, 0
    for number in range(60):
        before, after = generator.normal(size=(2, 25)) + np.array([[0], [0.55]])  # two standard errors
        got = st.bootstrap_difference(average(before), average(after), range(25), key=number)
        without_zero = got.low > 0 or got.high < 0
        excluded += without_zero
        disagreements += (got.p_value <= 0.05) != without_zero
    assert 10 < excluded < 50
    assert disagreements <= 1  # the one more that the p-value counts


def test_the_p_value_of_a_bootstrap_is_never_0():
    got = st.bootstrap_difference(average(np.zeros(25)), average(np.full(25, 9.0)), range(25), key=1)
    # No resample of 1,000 lies below 0, and one more is counted.
    quantile = scipy_stats.norm.isf(1 / 1001) / math.sqrt(25 / 24)
    assert got.p_value == pytest.approx(2 * scipy_stats.t.sf(quantile, 24))


def test_a_bootstrap_difference_is_paired_and_keeps_its_level():
    generator = np.random.default_rng(9)
    rejected = 0
    for number in range(300):
        hardness = 3 * generator.normal(size=40)
        before, after = hardness + generator.normal(size=(2, 40))
        got = st.bootstrap_difference(
            average(before), average(after), range(40), key=number, num_resamples=400
        )
        rejected += got.p_value <= 0.05
        assert got.se < 0.4  # of two unpaired means it would be .7
    assert 0.015 <= rejected / 300 <= 0.09
    same = st.bootstrap_difference(average(before), average(before), range(40), key=1)
    assert (same.value, same.p_value, same.mcnemar_p) == (0, 1, None)


def test_a_jackknife_of_the_mean_is_the_clustered_t_interval():
    scores = np.random.default_rng(1).normal(size=39)
    clusters = np.repeat(np.arange(13), 3)
    got = st.jackknife(average(scores), clusters)
    half = st.t_quantile(0.95, 13) * st.mean(scores, clusters).se
    assert got.se == pytest.approx(st.mean(scores, clusters).se)
    assert (got.low, got.high) == pytest.approx((scores.mean() - half, scores.mean() + half))
    change = st.jackknife_difference(average(np.zeros(39)), average(scores), clusters)
    paired = st.paired_difference(np.zeros(39), scores, clusters, key=1)
    assert change.p_value == pytest.approx(paired.p_value)
    assert np.isnan(st.jackknife(average([1.0, 2]), ["a", "a"]).low)


# --- rankings


def test_bradley_terry_of_two_sides_is_their_log_odds():
    strengths = rankings.bradley_terry(np.array([[0, 31.5], [10.5, 0]]))
    assert strengths == pytest.approx([math.log(3) / 2, -math.log(3) / 2])


def test_bradley_terry_equals_logistic_regression_without_a_penalty():
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(3)
    wins = generator.integers(3, 40, (5, 5)).astype(float)
    np.fill_diagonal(wins, 7)  # ties with itself say nothing
    first, second = np.nonzero(~np.eye(5, dtype=bool))
    rows = np.zeros((len(first), 5))
    rows[np.arange(len(first)), first], rows[np.arange(len(first)), second] = 1, -1
    # Every row twice: as won by the first, and, mirrored, as lost by the second.
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(
        np.concatenate([rows, -rows]), [1] * len(rows) + [0] * len(rows), np.tile(wins[first, second], 2)
    )
    expected = model.coef_[0] - model.coef_[0].mean()
    assert rankings.bradley_terry(wins) == pytest.approx(expected, abs=1e-5)
    both = rankings.bradley_terry(np.stack([wins, wins.T]))
    assert both == pytest.approx(np.stack([expected, -expected]), abs=1e-5)


def test_one_who_always_wins_stays_finite():
    strengths = rankings.bradley_terry(np.array([[0, 30.0], [0, 0]]))
    assert strengths[0] == pytest.approx(math.log(29.5 / 0.5) / 2)


def test_win_counts_by_hand():
    scores = np.array([[1.0, 2, NAN], [0.0, 2, 1], [2.0, 1, 1]])
    won = rankings.win_counts(scores, np.array([3.0, 4, 5]))
    assert won[0, 1] == 3 + 4 / 2
    assert won[1, 0] == 4 / 2
    assert won[1, 2] == 4 + 5 / 2
    assert won[2, 0] == 3


def sample_of_wins(generator, num):
    lengths = generator.normal(20, 60, num)
    chance = 1 / (1 + np.exp(-(0.3 + 0.9 * np.tanh(lengths / 60))))
    wins = (generator.random(num) < chance).astype(float)
    wins[:: num // 20] = 0.5
    return wins, lengths


def test_the_length_controlled_win_rate_equals_logistic_regression_without_a_penalty():
    from sklearn.linear_model import LogisticRegression

    wins, lengths = sample_of_wins(np.random.default_rng(0), 400)
    x = np.tanh(lengths / lengths.std())[:, None]
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(np.concatenate([x, x]), [1] * 400 + [0] * 400, np.concatenate([wins, 1 - wins]))
    expected = model.predict_proba([[0.0]])[0, 1]
    got = rankings.length_controlled_win_rate(wins, lengths, np.ones((1, 400)))
    assert got == pytest.approx([expected], abs=1e-5)  # the penalty moves it by less
    assert got[0] < wins.mean() - 0.02  # ours are longer, which wins


def test_length_control_does_nothing_to_answers_of_one_length():
    wins = np.array([1, 1, 0, 0.5, 1, 1, 0.0])
    for lengths in (np.zeros(7), np.full(7, 12.1)):
        got = rankings.length_controlled_win_rate(wins, lengths, np.ones((1, 7)))
        assert got == pytest.approx([4.5 / 7], abs=1e-5)


def test_wins_by_length_alone_are_no_wins():
    lengths = np.array([10, -10, 30, -30, 2, -2.0])
    wins = (lengths > 0).astype(float)
    assert rankings.length_controlled_win_rate(wins, lengths, np.ones((1, 6))) == pytest.approx([0.5])
    always = rankings.length_controlled_win_rate(np.ones(6), lengths, np.ones((1, 6)))
    assert 0.99 < always[0] <= 1


def test_counts_repeat_items():
    generator = np.random.default_rng(5)
    wins, lengths = sample_of_wins(generator, 60)
    counts = generator.multinomial(60, [1 / 60] * 60, size=3)
    got = rankings.length_controlled_win_rate(wins, lengths, counts.astype(float))
    for value, row in zip(got, counts, strict=True):
        drawn = np.repeat(np.arange(60), row)
        alone = rankings.length_controlled_win_rate(wins[drawn], lengths[drawn], np.ones((1, 60)))
        assert value == pytest.approx(alone[0])
