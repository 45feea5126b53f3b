"""Intervals, paired comparisons and corrections for scored items that come in clusters: pure functions.

Items of one cluster (a person, a template, a book) are alike, so uncertainty comes from the clusters.
Sources: Miller 2024 (arXiv 2411.00640, appendix A), Wilson 1927, Kish 1965 (design effect), Hall 1992
(skewness), Hesterberg 2015 (expanded percentile interval), Efron 1982 (jackknife), McNemar 1947, Holm 1979. A
score of nan could not be scored: it is left out and not counted in `num`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Scores = Sequence[float] | Float[np.ndarray, " items"]
Clusters = Any  # one name or number per item; None: every item is its own cluster
# A figure that is no mean: from how often each item counts, in many samples at once, to its value in each.
Statistic = Callable[[Float[np.ndarray, "samples items"]], Float[np.ndarray, " samples"]]

FEW_CLUSTERS = 30  # below this many, intervals are rough and the report says so
STILL = 1e-12  # a standard error below this share of the scores is rounding: nothing varies
MIN_DF = 4  # with fewer, one rare event in many clusters would get an interval twice as long as it needs


class Interval(NamedTuple):
    """An estimate with its interval, standard error, and how many items and clusters it rests on."""

    value: float
    low: float
    high: float
    se: float
    num: int
    num_clusters: int


class Paired(NamedTuple):
    """The mean change from `before` to `after` on the same items, and how sure it is.

    `p_value` is the clustered t-test's. For items that are right (1) or wrong (0), `gained` and `lost` count
    the discordant ones and `mcnemar_p` is exact but takes items for independent; None for other scores.
    `smallest` is the minimum detectable effect at power 0.8.
    """

    value: float
    low: float
    high: float
    se: float
    num: int
    num_clusters: int
    p_value: float
    gained: int | None
    lost: int | None
    mcnemar_p: float | None
    smallest: float


UNBOUNDED, CHANGES = (-np.inf, np.inf), (-1.0, 1.0)  # of scores, and of changes of scores within 0 and 1
NOTHING = Interval(float("nan"), float("nan"), float("nan"), float("nan"), 0, 0)


# --- one sample ------------------------------------------------------------------------------------------


def clustered_se(residuals: Scores, clusters: Clusters = None) -> float:
    """Standard error of a mean from residuals: `sqrt(C/(C-1) sum_c (sum_{i in c} r_i)^2) / n`; nan for C < 2.

    Miller 2024, appendix A, with the small-sample factor C/(C-1). Without clusters every item is its own.
    """
    r, codes, num_clusters = _prepare(residuals, clusters)
    if num_clusters < 2:
        return float("nan")
    sums = np.bincount(codes, weights=r, minlength=num_clusters)
    return float(np.sqrt(num_clusters / (num_clusters - 1) * np.sum(sums**2)) / len(r))


def mean(scores: Scores, clusters: Clusters = None, *, level: float = 0.95) -> Interval:
    """Mean with a clustered standard error and a t interval that is corrected for skewness; see `ratio`."""
    return ratio(scores, np.ones(len(scores)), clusters, level=level)


def ratio(
    numerators: Scores, denominators: Scores, clusters: Clusters = None, *, level: float = 0.95
) -> Interval:
    """Sum of numerators over sum of denominators (nats per token): a linearised, clustered t interval.

    Corrected for the skewness of the clusters' residuals by Hall's (1992) cubic transformation, without which the
    interval of a rare outcome ends too early on its longer side: the bounds are `value - se T(q)` and
    `value - se T(-q)`, `T(y) = 3/g (cbrt(1 + g (y - g/6)) - 1)` with g = skewness / sqrt(C). The quantile q has
    fewer than C - 1 degrees of freedom where the kurtosis is more than the skewness brings along (see
    `variance_df`). It is Student's interval where the residuals are symmetric and light-tailed. Where all
    clusters are alike it is infinite; `unvaried` gives a finite one for scores that have bounds.
    """
    keep = np.isfinite(np.asarray(numerators, dtype=float))
    top, codes, num_clusters = _prepare(numerators, clusters)
    bottom = np.asarray(denominators, dtype=float)[keep]
    if not len(top) or bottom.sum() <= 0:
        return NOTHING
    value = float(top.sum() / bottom.sum())
    residuals = (top - value * bottom) / bottom.mean()
    se = clustered_se(residuals, codes)
    if se <= STILL * np.abs(top).max() / bottom.mean():
        return Interval(value, -np.inf, np.inf, 0.0, len(top), num_clusters)
    skewness, excess = _shape(residuals, codes)
    quantile = _student(level, variance_df(excess - skewness**2, num_clusters))
    bounds = (_unskewed(bound, skewness / np.sqrt(num_clusters)) for bound in (quantile, -quantile))
    low, high = (float(value - se * bound) for bound in bounds)
    return Interval(value, low, high, se, len(top), num_clusters)


def parts_of_ratio(numerators: Scores, denominators: Scores) -> Float[np.ndarray, " items"]:
    """What each item adds to a ratio of sums, linearised: their mean is it; nan without a sum of denominators."""
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if bottom.sum() <= 0:
        return np.full(len(top), np.nan)
    value = top.sum() / bottom.sum()
    return value + (top - value * bottom) / bottom.mean()


def _unskewed(quantile: float, skewness: float) -> float:
    """The quantile of a studentised mean whose transformed value (Hall 1992) has this one."""
    if abs(skewness) < 1e-9:
        return quantile
    return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1))


def rate(scores: Scores, clusters: Clusters = None, *, level: float = 0.95) -> Interval:
    """Share of 1 among scores of 0, 1 and, for ties, 1/2, with a Wilson interval on n / design effect.

    n / design effect is the number of untied items that would have the clustered SE, which counts as no less than
    that of unclustered items; where it is 0, by equal scores or clusters that balance, the number of clusters.
    Differs from Wilson: the quantile is Student's, as the standard error is estimated from C clusters, with the
    degrees of freedom of `variance_df`, or C - 1 where no cluster has two items.
    """
    s, codes, num_clusters = _prepare(scores, clusters)
    if not len(s):
        return NOTHING
    assert np.isin(s, (0, 0.5, 1)).all(), "a rate is of scores 0, 1/2 and 1; use mean"
    value, se = float(s.mean()), clustered_se(s - s.mean(), codes)
    if num_clusters < 2 or se <= STILL:
        effective = float(num_clusters)
    else:
        effective = max(value * (1 - value) / max(se**2, s.var() / len(s)), 1.0)
    excess = _shape(s - s.mean(), codes)[1] if num_clusters < len(s) else 0.0
    df = variance_df(excess, num_clusters)
    low, high = wilson(value, effective, quantile=_student(level, df))
    return Interval(value, low, high, se, len(s), num_clusters)


def wilson(value: float, num: float, *, quantile: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a rate `value` seen on `num` (effective) items."""
    q2 = quantile**2
    centre = (value + q2 / (2 * num)) / (1 + q2 / num)
    half = quantile / (1 + q2 / num) * np.sqrt(value * (1 - value) / num + q2 / (4 * num**2))
    # At 0 and 1 the bound is exact; rounding must not move it past the estimate.
    return float(min(max(centre - half, 0), value)), float(max(min(centre + half, 1), value))


def unvaried(
    value: float, num_clusters: int, bounds: tuple[float, float], *, level: float = 0.95
) -> tuple[float, float]:
    """An interval of a mean or ratio that all C clusters show alike: what C without an exception still allow.

    Of all clusters Wilson's bound on 0 of C (about 4/C) may be others, whose scores lie anywhere within `bounds`.
    """
    share = wilson(0.0, max(num_clusters, 1), quantile=t_quantile(level, num_clusters))[1]
    return value - share * max(value - bounds[0], 0.0), value + share * max(bounds[1] - value, 0.0)


def variance_df(excess: float, num_clusters: int) -> float:
    """Degrees of freedom of the variance that C clusters show: `2 / (2/(C-1) + k/C)`, from 4 to C - 1.

    k is the excess kurtosis of the clusters' sums, at least 0: where a few clusters make most of the variance, it
    is known as badly as from few clusters (Satterthwaite's matching of its own variance).
    """
    largest = max(num_clusters - 1, 1)
    matched = 2 / (2 / largest + max(excess, 0.0) / max(num_clusters, 1))
    return float(min(largest, max(MIN_DF, matched)))


def _shape(residuals: Float[np.ndarray, " items"], codes: Int[np.ndarray, " items"]) -> tuple[float, float]:
    """Skewness and excess kurtosis of the clusters' sums of residuals, which are 0 together."""
    sums = np.bincount(codes, weights=residuals)
    variance = np.mean(sums**2)
    if variance < 1e-24:
        return 0.0, 0.0
    return float(np.mean(sums**3) / variance**1.5), float(np.mean(sums**4) / variance**2 - 3)


def t_quantile(level: float, num_clusters: int) -> float:
    """Two-sided Student quantile with C - 1 degrees of freedom; that of C = 2 where there is one cluster."""
    return _student(level, max(num_clusters - 1, 1))


def _student(level: float, df: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, max(df, 1)))


def above_chance(value: float, chance: float) -> float:
    """Accuracy where chance is 0 and perfect is 1: `(value - chance) / (1 - chance)`."""
    return (value - chance) / (1 - chance)


# --- two answers to the same items -----------------------------------------------------------------------


def paired_difference(
    before: Scores,
    after: Scores,
    clusters: Clusters = None,
    *,
    key: int,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Paired:
    """Mean of `after - before` over items scored in both, with a cluster-bootstrap interval.

    Whole clusters are drawn with replacement; the percentile interval is expanded for C clusters (Hesterberg
    2015), without which it is too narrow. The draws depend on `key` alone. Where all clusters changed alike, the
    interval of scores of 0 and 1 is that of `unvaried`, and of others infinite.
    """
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    assert a.shape == b.shape, f"{a.shape} scores before, {b.shape} after: pairs need the same items"
    d, codes, num_clusters = _prepare(b - a, clusters)
    if not len(d):
        return _paired(NOTHING, 1.0)
    scored = np.isfinite(a) & np.isfinite(b)
    binary = bool(np.isin(np.concatenate([a[scored], b[scored]]), (0, 1)).all())
    value, se = float(d.mean()), clustered_se(d - d.mean(), codes)
    se = 0.0 if se <= STILL * np.abs(d).max() else se
    if se > 0:
        low, high = _bootstrap(d, codes, num_clusters, key=key, level=level, num_resamples=num_resamples)
    else:
        low, high = unvaried(value, num_clusters, CHANGES if binary else UNBOUNDED, level=level)
    gained, lost = (int((d > 0).sum()), int((d < 0).sum())) if binary else (None, None)
    exact = mcnemar(gained, lost) if gained is not None and lost is not None else None
    found = _paired(Interval(value, low, high, se, len(d), num_clusters), t_test(value, se, num_clusters))
    return found._replace(gained=gained, lost=lost, mcnemar_p=exact)


def ratio_difference(
    before: tuple[Scores, Scores],
    after: tuple[Scores, Scores],
    clusters: Clusters = None,
    *,
    level: float = 0.95,
) -> Paired:
    """The change of a ratio of (numerators, denominators) on the same items, of its linearised parts.

    With Student's interval and test, which keep their level where a bootstrap of few clusters does not. nan where
    a side's denominators have no sum; infinite where all clusters changed alike.
    """
    changes = parts_of_ratio(*after) - parts_of_ratio(*before)
    d, codes, num_clusters = _prepare(changes, clusters)
    if not len(d):
        return _paired(NOTHING, 1.0)
    value, se = float(d.mean()), clustered_se(d - d.mean(), codes)
    se = 0.0 if se <= STILL * np.abs(d).max() else se
    half = t_quantile(level, num_clusters) * se if se > 0 else np.inf
    found = Interval(value, value - half, value + half, se, len(d), num_clusters)
    return _paired(found, t_test(value, se, num_clusters))


def t_test(value: float, se: float, num_clusters: int) -> float:
    """Two-sided p-value of a mean that is 0 under the null, from C clusters; 1 where all are 0."""
    from scipy.stats import t

    if num_clusters < 2 or (se == 0 and value == 0):
        return 1.0
    if se == 0:  # every cluster moved alike: as many signs of one kind as there are clusters
        return float(2.0 ** (1 - num_clusters))
    return float(2 * t.sf(abs(value) / se, num_clusters - 1))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: P(at least so uneven | gained + lost fair coins); 1 where none."""
    from scipy.stats import binom

    if gained + lost == 0:
        return 1.0
    return float(min(1.0, 2 * binom.cdf(min(gained, lost), gained + lost, 0.5)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of a family of tests (Holm 1979): each is at most its level where below it."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def minimum_detectable_effect(
    se: float, num_clusters: int, *, level: float = 0.95, power: float = 0.8
) -> float:
    """Smallest true change that Student's two-sided test of C clusters finds with this power.

    `(t_level + t_power) * se`, both quantiles with C - 1 degrees of freedom. nan where nothing varies, as this
    says nothing of what would be found.
    """
    if se == 0:
        return float("nan")
    return (t_quantile(level, num_clusters) + t_quantile(2 * power - 1, num_clusters)) * se


def win_scores(ours: Scores, theirs: Scores) -> Float[np.ndarray, " items"]:
    """1 where ours scores higher, 0 where theirs does, 1/2 for ties; nan where either could not be scored."""
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return np.where(np.isfinite(a) & np.isfinite(b), (np.sign(a - b) + 1) / 2, np.nan)


def win_rate(ours: Scores, theirs: Scores, clusters: Clusters = None, *, level: float = 0.95) -> Interval:
    """Share of items that ours wins, ties half."""
    return rate(win_scores(ours, theirs), clusters, level=level)


def decided_win_rate(
    ours: Scores, theirs: Scores, clusters: Clusters = None, *, level: float = 0.95
) -> Interval:
    """Wins over wins and losses: ties left out."""
    wins = win_scores(ours, theirs)
    return rate(np.where(wins == 0.5, np.nan, wins), clusters, level=level)


# --- figures that are no means ---------------------------------------------------------------------------


def bootstrap(
    statistic: Statistic, clusters: Sequence[Any], *, key: int, level: float = 0.95, num_resamples: int = 1000
) -> Interval:
    """A statistic of all items with a percentile interval from whole clusters drawn with replacement.

    Expanded for C clusters as in `paired_difference`, and widened to hold the value, which a statistic that
    resampling biases (a calibration error near 0) may otherwise leave. `se` is the spread of the resamples; those
    in which the statistic is nan are left out. The draws depend on `key` alone. nan for fewer than two clusters,
    infinite where no resample differs from the others.
    """
    value, draws, codes, num_clusters = _replicate(statistic, clusters, key=key, num_resamples=num_resamples)
    return _percentile_interval(value, draws, len(codes), num_clusters, level=level)


def bootstrap_difference(
    before: Statistic,
    after: Statistic,
    clusters: Sequence[Any],
    *,
    key: int,
    level: float = 0.95,
    num_resamples: int = 1000,
) -> Paired:
    """The change of a statistic on the same items, of which both sides see the same drawn clusters.

    The p-value inverts the interval of `bootstrap`: it is 1 - level of the widest one that leaves 0 out, where
    the resamples on the lesser side of 0 count one more than were seen, so that it is never 0.
    """
    value, draws, codes, num_clusters = _replicate(
        lambda counts: after(counts) - before(counts), clusters, key=key, num_resamples=num_resamples
    )
    found = _percentile_interval(value, draws, len(codes), num_clusters, level=level)
    return _paired(found, _inverted_percentile(draws, num_clusters))


def jackknife(statistic: Statistic, clusters: Sequence[Any], *, level: float = 0.95) -> Interval:
    """A statistic of all items with a Student-t interval from leaving out one cluster at a time.

    For statistics that count what differs (different words), which drawing an item twice would change by itself:
    `se = sqrt((C-1)/C sum_c (s_(-c) - mean)^2)` (Efron 1982, chapter 3). nan for fewer than two clusters,
    infinite where leaving one out changes nothing.
    """
    _, codes, num_clusters = _prepare(np.zeros(len(clusters)), clusters)
    value, se = _of_all(statistic, len(codes)), float("nan")
    if num_clusters >= 2 and np.isfinite(value):
        parts = [
            statistic((codes != left_out[:, None]).astype(float))
            for left_out in _batches(np.arange(num_clusters), len(codes))
        ]
        rest = np.concatenate(parts)
        se = float(np.sqrt((num_clusters - 1) / num_clusters * np.sum((rest - rest.mean()) ** 2)))
        se = 0.0 if se <= STILL * np.abs(rest).max() else se
    half = np.inf if se == 0 else t_quantile(level, num_clusters) * se
    return Interval(value, value - half, value + half, se, len(codes), num_clusters)


def jackknife_difference(
    before: Statistic, after: Statistic, clusters: Sequence[Any], *, level: float = 0.95
) -> Paired:
    """The change of a statistic on the same items with the interval of `jackknife` and its t-test."""
    found = jackknife(lambda counts: after(counts) - before(counts), clusters, level=level)
    return _paired(found, t_test(found.value, found.se, found.num_clusters) if np.isfinite(found.se) else 1.0)


# --- inside ----------------------------------------------------------------------------------------------


def _replicate(
    statistic: Statistic, clusters: Sequence[Any], *, key: int, num_resamples: int
) -> tuple[float, Float[np.ndarray, " resamples"], Int[np.ndarray, " items"], int]:
    """The statistic of all items and of resamples of whole clusters; the codes and the number of these."""
    _, codes, num_clusters = _prepare(np.zeros(len(clusters)), clusters)
    value, found = _of_all(statistic, len(codes)), np.empty(0)
    if num_clusters >= 2 and np.isfinite(value):
        generator = np.random.Generator(np.random.Philox(key=key))
        parts = []
        for numbers in _batches(np.arange(num_resamples), len(codes)):
            drawn = generator.integers(0, num_clusters, (len(numbers), num_clusters))
            drawn += num_clusters * np.arange(len(numbers))[:, None]
            counts = np.bincount(drawn.ravel(), minlength=len(numbers) * num_clusters).astype(float)
            parts.append(statistic(counts.reshape(-1, num_clusters)[:, codes]))
        found = np.concatenate(parts)
    return value, found[np.isfinite(found)], codes, num_clusters


def _of_all(statistic: Statistic, num: int) -> float:
    return float(statistic(np.ones((1, num)))[0]) if num else float("nan")


def _batches(numbers: Int[np.ndarray, " all"], num_items: int) -> Iterator[Int[np.ndarray, " some"]]:
    """So many at once that their counts of items stay in the cache, which is twice as fast as all at once."""
    size = max(1, 200_000 // max(num_items, 1))
    return (numbers[first : first + size] for first in range(0, len(numbers), size))


def _percentile_interval(
    value: float, draws: Float[np.ndarray, " resamples"], num: int, num_clusters: int, *, level: float
) -> Interval:
    if len(draws) < 2:
        return Interval(value, float("nan"), float("nan"), float("nan"), num, num_clusters)
    if np.ptp(draws) <= STILL * np.abs(draws).max():
        return Interval(value, -np.inf, np.inf, 0.0, num, num_clusters)
    low, high = _percentiles(draws, value, num_clusters, level)
    return Interval(value, min(low, value), max(high, value), float(draws.std(ddof=1)), num, num_clusters)


def _inverted_percentile(draws: Float[np.ndarray, " resamples"], num_clusters: int) -> float:
    from scipy.stats import norm, t

    if len(draws) < 2:
        return 1.0
    share = (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / (len(draws) + 1)
    if share >= 0.5:
        return 1.0
    quantile = -norm.ppf(share) / np.sqrt(num_clusters / (num_clusters - 1))
    return float(2 * t.sf(quantile, num_clusters - 1))


def _percentiles(
    draws: Float[np.ndarray, " resamples"], value: float, num_clusters: int, level: float
) -> tuple[float, float]:
    """The bounds, between resamples where Student's quantile would lie; Student's where none lies so far."""
    from scipy.stats import norm

    quantile, widened = t_quantile(level, num_clusters), np.sqrt(num_clusters / (num_clusters - 1))
    tail = norm.cdf(-widened * quantile)
    if tail < float(num_clusters) ** -num_clusters:  # the rarest of C^C resamples
        half = float(quantile * widened * draws.std())
        return value - half, value + half
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def _paired(found: Interval, p_value: float) -> Paired:
    return Paired(*found, p_value, None, None, None, minimum_detectable_effect(found.se, found.num_clusters))


def _prepare(
    scores: Any, clusters: Any
) -> tuple[Float[np.ndarray, " items"], Int[np.ndarray, " items"], int]:
    """The scored items, the code of each one's cluster, and how many clusters there are."""
    s = np.asarray(scores, dtype=float)
    keep = np.isfinite(s)
    names = np.arange(len(s)) if clusters is None else np.asarray(clusters)
    if len(names) == len(s):
        names = names[keep]
    _, codes = np.unique(names, return_inverse=True)
    return s[keep], codes, int(codes.max()) + 1 if len(codes) else 0


def _bootstrap(
    d: Float[np.ndarray, " items"],
    codes: Int[np.ndarray, " items"],
    num_clusters: int,
    *,
    key: int,
    level: float,
    num_resamples: int,
) -> tuple[float, float]:
    sums = np.bincount(codes, weights=d, minlength=num_clusters)
    sizes = np.bincount(codes, minlength=num_clusters)
    generator = np.random.Generator(np.random.Philox(key=key))
    means = []
    rows_at_once = max(1, 4_000_000 // num_clusters)  # bounds memory; the stream of draws is the same
    for first in range(0, num_resamples, rows_at_once):
        shape = (min(rows_at_once, num_resamples - first), num_clusters)
        drawn = generator.integers(0, num_clusters, shape)
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return _percentiles(np.concatenate(means), float(d.mean()), num_clusters, level)
