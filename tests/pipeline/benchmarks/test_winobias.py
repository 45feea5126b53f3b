"""WinoBias' scores: with and against the stereotype, paired by line."""

import math

import numpy as np
import pytest

from pipeline.benchmarks import winobias


def test_hand_counted_choices_have_their_scores():
    meant = [-1.0, -2.0, -3.0, -1.0, -2.0, -9.0]
    other = [-2.0, -1.0, -3.0, -2.0, -3.0, -1.0]
    sides = ["pro", "anti", "pro", "anti", "pro", "anti"]
    pairs = ["a", "a", "b", "b", "c", "c"]
    found = winobias.metrics(meant, other, sides, pairs)
    assert found == pytest.approx({"pro": 2.5 / 3, "anti": 1 / 3, "difference": (1 - 0.5 + 1) / 3})


@pytest.mark.parametrize(
    "advantage, expected",
    [
        ((1, 1), (1, 1, 0)),  # who is meant is always found
        ((0, 0), (0.5, 0.5, 0)),  # equally probable
        ((1, -1), (1, 0, 1)),  # always with the stereotype
        ((-1, 1), (0, 1, -1)),
    ],
)
def test_answerers_of_one_kind_have_their_scores(advantage, expected):
    sides, pairs = ["pro", "anti"] * 7, [str(n // 2) for n in range(14)]
    found = winobias.metrics(list(advantage) * 7, [0] * 14, sides, pairs)
    assert tuple(found.values()) == expected


def test_a_pair_with_a_side_that_cannot_be_scored_is_left_out_of_the_difference_alone():
    found = winobias.metrics([1, math.nan, 1, 1], [0, 0, 0, 0], ["pro", "anti"] * 2, ["a", "a", "b", "b"])
    assert found == {"pro": 1, "anti": 1, "difference": 0}
    assert np.isnan(winobias.right_scores([math.nan, 1], [0, math.nan])).all()


def test_the_difference_needs_both_sides():
    found = winobias.metrics([1.0], [0.0], ["pro"], ["a"])
    assert found["pro"] == 1
    assert math.isnan(found["anti"])
    assert math.isnan(found["difference"])
    assert winobias.differences({"a": 1.0, "b": 0.5}, {"b": 1.0, "c": 0.0}) == {"b": -0.5}
