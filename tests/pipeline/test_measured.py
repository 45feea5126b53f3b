"""Verdicts, comparisons and figures from scored items."""

import math

import numpy as np
import pytest

from pipeline.measured import (
    Measured,
    Scored,
    comparison_of,
    figures_of,
    of_records,
    with_outcome,
    with_verdicts,
)
from pipeline.records import Record


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


def test_the_change_of_a_ratio_is_the_difference_of_the_ratios():
    sides = {
        name: [Scored(str(n), str(n), value, weight) for n, (value, weight) in enumerate(rows)]
        for name, rows in {"a": [(2.0, 1), (9.0, 4)], "b": [(1.0, 1), (5.0, 4)]}.items()
    }
    measured = Measured("loss", "nats per token", "ratio", sides, better=-1)
    values = [figure.value for figure in figures_of(measured, seed=0, command="")]
    assert values == [11 / 5, 6 / 5]
    assert comparison_of(measured, "a", "b", seed=0).value == pytest.approx(values[1] - values[0])


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
