"""Verdicts, comparisons and figures from scored items."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline import statistics
from pipeline.measured import (
    Measured,
    Scored,
    comparison_of,
    f_of_attempts,
    figures_of,
    mean_of_samples,
    of_records,
    with_outcome,
    with_verdicts,
)
from pipeline.records import Comparison, Record


def scored(values, weight=1.0):
    return [Scored(str(n), f"c{n // 2}", value, weight) for n, value in enumerate(values)]


def compared(before, after, **options):
    measured = Measured("x", "share", "rate", {"a": scored(before), "b": scored(after)}, **options)
    return with_verdicts([comparison_of(measured, "a", "b", seed=0)])[0]


@pytest.mark.parametrize(
    ("better", "before", "after", "verdict"),
    [
        (1, [0.0] * 40, [1.0] * 40, "improved"),
        (-1, [0.0] * 40, [1.0] * 40, "regressed"),
        (0, [0.0] * 40, [1.0] * 40, "changed"),
        (1, [0.0, 1.0] * 20, [1.0, 0.0] * 20, "no evidence"),
        (1, [1.0] * 40, [1.0] * 40, "no evidence"),
    ],
)
def test_verdicts_follow_the_sign_and_the_better_side(better, before, after, verdict):
    assert compared(before, after, better=better).verdict == verdict


def test_without_headline_figures_the_whole_ones_with_a_better_side_are_corrected():
    def change(name, p, better=1):
        middle = (0.1, 0.01, 0.19, 90, 90, better, p, None, None, None, None, 0.1, "")
        return Comparison(name, "a", "b", *middle)

    rows = [
        change("bbq/accuracy_amb", 0.03),
        change("bbq/age/accuracy_amb", 0.03),
        change("bbq/s_amb", 0.03, better=0),
        change("proxy/mean", 0.01),
        change("loss/bits_per_byte", math.nan),
        change("task/towns/right", 0.5),
    ]
    found = with_verdicts(rows)
    assert [row.holm_p for row in found] == [0.06, None, None, 0.03, None, 0.5]
    # Each interval excludes 0, which decides outside the family.
    verdicts = ["no evidence", "improved", "changed", "improved", "improved", "no evidence"]
    assert [row.verdict for row in found] == verdicts


def test_the_headline_family_is_corrected_and_others_are_not():
    generator = np.random.default_rng(0)
    rows = []
    for headline in (True, False):
        for n in range(9):
            before = generator.random(60)
            after = before + 0.1 + 0.3 * generator.normal(size=60)  # about two standard errors
            sides = {"a": scored(before), "b": scored(after)}
            measured = Measured(f"{headline}{n}", "", "mean", sides, better=1, headline=headline)
            rows.append(comparison_of(measured, "a", "b", seed=0))
    found = with_verdicts(rows)
    assert all(row.holm_p >= row.p_value for row in found[:9])
    assert all(row.holm_p is None for row in found[9:])
    sure = [sum(row.verdict == "improved" for row in part) for part in (found[:9], found[9:])]
    assert sure[0] < sure[1]


def test_only_shared_items_are_compared():
    measured = Measured("x", "", "mean", {"a": scored([1.0, 2, 3]), "b": scored([2.0, 3, 4, 99])[1:]})
    assert comparison_of(measured, "a", "b", seed=0).n == 2
    assert comparison_of(measured, "a", "missing", seed=0) is None


def test_the_change_of_a_ratio_is_the_difference_of_the_ratios_where_the_weights_differ_too():
    rng = np.random.default_rng(0)
    nats, tokens = rng.exponential(20, (2, 400)), rng.integers(1, 40, (2, 400))
    sides = {
        name: [Scored(str(n), str(n), float(s), float(w)) for n, (s, w) in enumerate(zip(*side, strict=True))]
        for name, side in zip("ab", zip(nats, tokens, strict=True), strict=True)
    }
    found = comparison_of(Measured("loss", "nats per token", "ratio", sides), "a", "b", seed=0)
    first, second = (s.sum() / w.sum() for s, w in zip(nats, tokens, strict=True))
    assert found.value == pytest.approx(second - first)
    # The standard deviation of the difference over fresh samples of the same kind.
    fresh = []
    for _ in range(400):
        s, w = rng.exponential(20, (2, 400)), rng.integers(1, 40, (2, 400))
        fresh.append(s[1].sum() / w[1].sum() - s[0].sum() / w[0].sum())
    # Of 400 samples it is known to 4 %, and the interval's own width varies by as much.
    assert (found.high - found.low) / 3.92 == pytest.approx(np.std(fresh), rel=0.2)


@pytest.mark.parametrize("rate", [0.05, 0.95])
def test_the_test_of_a_ratio_keeps_its_level_with_thirty_clusters_of_any_size(rate):
    """Right of attempted answers, .7 of all, without a change; of 500 samples.

    A true .05 falls outside .02 to .08 once in 500 tries.
    """
    generator = np.random.default_rng(23)
    rejected = covered = 0
    for _ in range(500):
        clusters = np.repeat(np.arange(30), generator.integers(1, 16, 30))
        chances = generator.beta(4 * rate, 4 * (1 - rate), 30)[clusters]
        tried = generator.random((2, len(clusters))) < 0.7
        right = tried & (generator.random((2, len(clusters))) < chances)
        found = statistics.ratio_difference(*zip(right, tried, strict=True), clusters)
        rejected += found.p_value <= 0.05
        covered += found.low <= 0 <= found.high
    assert 0.02 <= rejected / 500 <= 0.08
    assert covered == 500 - rejected


def test_ratios_of_the_same_weights_are_compared_as_other_means_are():
    rng = np.random.default_rng(2)
    sides = [[Scored(str(n), str(n), float(rng.exponential()), 1 + n % 5) for n in range(40)] for _ in "ab"]
    measured = Measured("loss", "nats per byte", "ratio", dict(zip("ab", sides, strict=True)))
    found = comparison_of(measured, "a", "b", seed=0)
    assert found.high + found.low != pytest.approx(2 * found.value, abs=1e-9)  # a bootstrap's interval
    attempts = {"a": sides[0], "b": [row._replace(weight=row.weight % 3) for row in sides[1]]}
    found = comparison_of(replace(measured, scores=attempts), "a", "b", seed=0)
    assert found.high + found.low == pytest.approx(2 * found.value, abs=1e-9)


def test_a_stage_without_weights_has_no_ratio():
    rows = {"a": scored([1.0, 0.0] * 9), "b": scored([0.0] * 18, weight=0.0)}
    measured = Measured("x", "", "ratio", rows)
    assert [figure.stage for figure in figures_of(measured, seed=0, command="")] == ["a"]
    assert comparison_of(measured, "a", "b", seed=0) is None


def test_the_change_of_a_ratio_is_the_difference_of_the_ratios():
    sides = {
        name: [Scored(str(n), str(n), value, weight) for n, (value, weight) in enumerate(rows)]
        for name, rows in {"a": [(2.0, 1), (9.0, 4)], "b": [(1.0, 1), (5.0, 4)]}.items()
    }
    measured = Measured("loss", "nats per token", "ratio", sides, better=-1)
    values = [figure.value for figure in figures_of(measured, seed=0, command="")]
    assert values == [11 / 5, 6 / 5]
    assert comparison_of(measured, "a", "b", seed=0).value == pytest.approx(values[1] - values[0])


def test_f_is_the_harmonic_mean_of_right_and_right_of_the_attempted():
    scores = [(1.0, 1.0)] * 3 + [(0.0, 1.0)] * 2 + [(0.0, 0.0)] * 6 + [(math.nan, 1.0)]
    rows = [Scored(str(n), str(n // 2), *parts) for n, parts in enumerate(scores)]
    measured = f_of_attempts("quiz/f", {"one": rows}, {"one": {"silent": 0.0}})
    (figure,) = figures_of(measured, seed=0, command="")
    assert figure.value == pytest.approx(2 / (1 / (3 / 5) + 1 / (3 / 11)))
    assert (figure.n, figure.nulls, measured.better) == (11, {"silent": 0.0}, 1)


def test_an_f_of_1_has_an_interval_that_ends_there():
    right, silent = ([Scored(str(n), str(n), score, score) for n in range(20)] for score in (1.0, 0.0))
    best, worst = figures_of(f_of_attempts("f", {"right": right, "silent": silent}, {}), seed=0, command="")
    share = statistics.unvaried(0.0, 20, (0.0, 1.0))[1]
    assert (best.low, best.high) == (pytest.approx(1 - share), 1)
    assert (worst.low, worst.high) == (0, pytest.approx(2 * share))


def test_unscored_items_are_left_out_not_counted_wrong():
    rows = [
        Record(str(n), str(n), "sft", "facts", "answer", "", "", score, "often", word)
        for n, (score, word) in enumerate([(1.0, "right"), (math.nan, ""), (0.0, "wrong")])
    ]
    found = of_records({"sft": rows}, group="often", score=with_outcome("wrong"))
    (figure,) = figures_of(Measured("x", "share", "rate", found), seed=0, command="")
    assert (figure.value, figure.n) == (0.5, 2)


def test_a_rate_with_ties_stays_inside_0_and_1():
    (figure,) = figures_of(
        Measured("x", "share", "rate", {"a": scored([1.0, 1, 1, 0.5])}), seed=0, command=""
    )
    assert figure.value < figure.high <= 1


def test_an_interval_ends_where_the_scores_do():
    # Five distances, one of them far off: skewness moves the lower bound below 0.
    rows = [Scored(str(n), str(n), value) for n, value in enumerate([2.0, 3.0, 3.5, 4.0, 38.9])]
    free, bounded = (
        figures_of(Measured("x", "nats", "mean", {"a": rows}, **options), seed=0, command="")[0]
        for options in ({}, {"bounds": (0.0, math.inf)})
    )
    assert free.low < 0
    assert (bounded.low, bounded.high) == (0.0, free.high)


# --- statistics


def quotient(rows):
    """Sum of scores over sum of weights."""
    weights = sum(row.weight for row in rows)
    return sum(row.score for row in rows) / weights if weights else math.nan


def quotients(rows, counts):
    """The same of many samples at once."""
    scores, weights = counts @ [row.score for row in rows], counts @ [row.weight for row in rows]
    return np.divide(scores, weights, out=np.full(len(counts), np.nan), where=weights > 0)


def sides(num=60):
    generator = np.random.default_rng(1)
    return {
        stage: [
            Scored(str(n), f"c{n // 3}", float(score) + shift, float(weight))
            for n, (score, weight) in enumerate(generator.random((num, 2)))
        ]
        for stage, shift in (("a", 0.0), ("b", 0.7))
    }


def statistic(scores, **options):
    return Measured("x", "", "statistic", scores, 1, **options)


def test_a_statistic_is_the_same_at_once_and_one_by_one():
    slow, fast = statistic(sides(), statistic=quotient), statistic(sides(), resampled=quotients)
    one, many = (figures_of(measured, seed=4, command="") for measured in (slow, fast))
    for left, right in zip(one, many, strict=True):
        assert (left.n, left.clusters, left.stage) == (right.n, right.clusters, right.stage)
        assert (left.value, left.low, left.high) == pytest.approx((right.value, right.low, right.high))
        assert left.low < left.value < left.high
    before, after = one
    change, again = (comparison_of(measured, "a", "b", seed=4) for measured in (slow, fast))
    assert change.value == pytest.approx(after.value - before.value)
    assert (change.low, change.high, change.p_value) == pytest.approx((again.low, again.high, again.p_value))
    assert with_verdicts([change])[0].verdict == "improved"
    assert (change.gained, change.mcnemar_p, change.n, change.clusters) == (None, None, 60, 20)


def test_the_draws_of_a_statistic_depend_on_the_seed():
    measured = statistic(sides(), resampled=quotients)
    first, again, other = (figures_of(measured, seed=seed, command="")[0] for seed in (1, 1, 2))
    assert first == again
    assert (first.value, first.low) != (other.value, other.low)


def test_a_statistic_sees_scored_items_alone():
    rows = sides()
    rows["a"][3] = rows["a"][3]._replace(score=math.nan)
    rows["b"][7] = rows["b"][7]._replace(score=math.nan)
    measured = statistic(rows, resampled=quotients)
    figures = figures_of(measured, seed=0, command="")
    kept = [row for n, row in enumerate(rows["a"]) if n != 3]
    assert figures[0].value == pytest.approx(quotient(kept))
    assert [figure.n for figure in figures] == [59, 59]
    assert comparison_of(measured, "a", "b", seed=0).n == 58


def test_a_stage_where_a_statistic_is_not_defined_has_no_figure():
    rows = sides()
    rows["b"] = [row._replace(weight=0.0) for row in rows["b"]]
    measured = statistic(rows, statistic=quotient)
    assert [figure.stage for figure in figures_of(measured, seed=0, command="")] == ["a"]
    assert comparison_of(measured, "a", "b", seed=0) is None


def test_a_jackknife_is_for_statistics_that_count_what_differs():
    rows = {"a": [Scored(str(n), str(n), 0.0, text=f"w{n // 2} w{n}") for n in range(30)]}

    def different(rows):
        return len({word for row in rows for word in row.text.split()}) / (2 * len(rows))

    (drawn,) = figures_of(statistic(rows, statistic=different), seed=0, command="")
    (left_out,) = figures_of(statistic(rows, statistic=different, interval="jackknife"), seed=0, command="")
    assert drawn.value == left_out.value == 30 / 60
    assert drawn.high == drawn.value  # no resample has as many different ones
    assert left_out.low < left_out.value
    assert left_out.high - left_out.value == pytest.approx(left_out.value - left_out.low)
    rows["b"] = [row._replace(text=f"x{row.id} y{row.id}") for row in rows["a"]]
    change = comparison_of(statistic(rows, statistic=different, interval="jackknife"), "a", "b", seed=0)
    assert change.value == 0.5
    assert change.low < 0.5 < change.high


def test_a_kind_and_a_statistic_belong_together():
    for kind, options in (("statistic", {}), ("mean", {"statistic": quotient})):
        with pytest.raises(AssertionError, match=f"x is a {kind}"):
            Measured("x", "", kind, sides(), **options)


def test_the_text_of_a_record_comes_along():
    row = Record("1", "c", "sft", "diversity", "words", "asked", "said", 1.0)
    assert of_records({"sft": [row]})["sft"] == [Scored("1", "c", 1.0, 1.0, "said")]


def test_two_items_of_hundreds_are_no_evidence_of_a_difference():
    rows = [Scored(str(n), str(n // 2), -1.0 if n in (5, 300) else 0.0) for n in range(792)]
    measured = Measured("x", "share", "statistic", {"sft": rows}, resampled=mean_of_samples)
    (figure,) = figures_of(measured, seed=0, command="")
    assert figure.value == pytest.approx(-2 / 792)
    assert figure.low < figure.value < figure.high
    assert figure.high == 0
