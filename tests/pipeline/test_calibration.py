"""Calibration and abstention against answerers whose figures are known, and against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from pipeline import calibration as cal

GENERATOR = np.random.default_rng(0)
SURE = GENERATOR.random(330)
RIGHT = (GENERATOR.random(330) < SURE).astype(float)
ROUNDED = SURE.round(1)  # many ties


# --- oracles


def test_a_perfect_answerer():
    """Sure of what is right, and sure of what is wrong that it is."""
    right = np.repeat([1.0, 0.0], [60, 40])
    assert cal.ece(right, right) == 0
    assert cal.brier(right, right) == 0
    assert cal.auroc(right, right) == 1
    assert cal.risk_at(right, right, [0.3, 0.6, 1]) == pytest.approx([0, 0, 0.4])
    # The k most confident have max(0, k - 60) wrong among them.
    assert cal.aurc(right, right) == pytest.approx(np.mean([max(0, k - 60) / k for k in range(1, 101)]))


@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0])
def test_a_constant_confidence_tells_nothing(confidence):
    right = np.repeat([1.0, 0.0], [30, 70])
    np.random.default_rng(1).shuffle(right)
    sure = np.full(100, confidence)
    assert cal.ece(sure, right) == pytest.approx(abs(confidence - 0.3))
    assert cal.brier(sure, right) == pytest.approx(0.3 * (1 - confidence) ** 2 + 0.7 * confidence**2)
    assert cal.auroc(sure, right) == 0.5
    assert cal.aurc(sure, right) == pytest.approx(0.7)
    assert cal.risk_at(sure, right, [0.01, 0.5, 1]) == pytest.approx([0.7, 0.7, 0.7])


def test_confidence_that_is_turned_around_is_worse_than_none():
    assert cal.auroc(1 - SURE, RIGHT) == pytest.approx(1 - cal.auroc(SURE, RIGHT))
    assert cal.aurc(1 - SURE, RIGHT) > 1 - RIGHT.mean() > cal.aurc(SURE, RIGHT)


def test_one_who_always_abstains_neither_hallucinates_nor_is_right():
    assert cal.simpleqa_f(0, 0, 50) == 0
    for target in (0, 0.5, 0.75, 0.9):
        assert cal.target_scores(np.zeros(50), np.zeros(50), target).mean() == 0


def test_one_who_guesses_evenly_is_at_chance():
    """Of four values: .25 right, so that F is .25, and guessing pays below t = .25 alone."""
    right = np.repeat([1.0, 0.0], [25, 75])
    assert cal.simpleqa_f(25, 100, 100) == 0.25
    assert cal.ece(np.full(100, 0.25), right) == pytest.approx(0, abs=1e-12)
    assert cal.target_scores(right, np.ones(100), 0.25).mean() == pytest.approx(0)
    assert cal.target_scores(right, np.ones(100), 0.2).mean() > 0
    assert cal.target_scores(right, np.ones(100), 0.3).mean() < 0


# --- formulas


def test_confidence_targets_by_hand():
    right, attempted = [1, 0, 0, 1], [1, 1, 0, 1]
    assert list(cal.target_scores(right, attempted, 0)) == [1, 0, 0, 1]
    assert list(cal.target_scores(right, attempted, 0.5)) == [1, -1, 0, 1]
    assert list(cal.target_scores(right, attempted, 0.75)) == [1, -3, 0, 1]
    assert cal.target_scores(right, attempted, 0.9) == pytest.approx([1, -9, 0, 1])
    with pytest.raises(AssertionError, match=r"target 1 is outside \[0, 1\)"):
        cal.target_scores(right, attempted, 1)


def test_f_is_the_harmonic_mean_of_right_and_right_given_attempted():
    right, given = 12 / 50, 12 / 20
    assert cal.simpleqa_f(12, 20, 50) == pytest.approx(2 * given * right / (given + right))
    assert cal.simpleqa_f(np.array([12, 0]), np.array([20, 3]), 50) == pytest.approx([24 / 70, 0])
    assert np.isnan(cal.simpleqa_f(0, 0, 0))


@pytest.mark.parametrize("sure", [SURE, ROUNDED])
def test_auroc_and_brier_equal_scikit_learn(sure):
    assert cal.auroc(sure, RIGHT) == pytest.approx(roc_auc_score(RIGHT, sure))
    assert cal.brier(sure, RIGHT) == pytest.approx(brier_score_loss(RIGHT, sure))


def test_bins_hold_equally_many_answers():
    order = np.argsort(SURE)
    gaps = [abs(SURE[part].mean() - RIGHT[part].mean()) for part in np.split(order, 11)]
    assert cal.ece(SURE, RIGHT, num_bins=11) == pytest.approx(np.mean(gaps))


def test_an_answer_between_two_bins_is_divided():
    # Confidence minus right is .2, -.5, -.1; of three answers in two bins the middle one counts half in either.
    found = cal.ece([0.2, 0.5, 0.9], [0, 1, 1], num_bins=2)
    assert found == pytest.approx((abs(0.2 - 0.25) + abs(-0.25 - 0.1)) / 3)


def test_the_risk_coverage_curve_by_its_definition():
    order = np.argsort(-SURE)
    wrong = np.cumsum(1 - RIGHT[order])
    risks = wrong / np.arange(1, 331)
    assert cal.risk_at(SURE, RIGHT, np.array([33, 165, 330]) / 330) == pytest.approx(risks[[32, 164, 329]])
    assert cal.aurc(SURE, RIGHT) == pytest.approx(risks.mean())


def test_ties_have_the_mean_of_all_their_orders():
    sure, right = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1.0, 0, 1, 0, 1])
    generator, areas, risks = np.random.default_rng(2), [], []
    for _ in range(6000):
        order = np.lexsort((generator.random(5), -sure))
        curve = np.cumsum(1 - right[order]) / np.arange(1, 6)
        areas.append(curve.mean())
        risks.append(curve[1])
    # Four standard errors of 6,000 orders.
    assert cal.aurc(sure, right) == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / 6000**0.5)
    assert cal.risk_at(sure, right, [0.4]) == pytest.approx(
        [np.mean(risks)], abs=4 * np.std(risks) / 6000**0.5
    )


FUNCTIONS = {
    "ece": cal.ece,
    "brier": cal.brier,
    "auroc": cal.auroc,
    "aurc": cal.aurc,
    "risk": lambda sure, right, counts=None: cal.risk_at(sure, right, [0.37], counts)[..., 0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("sure", [SURE, ROUNDED])
def test_counts_repeat_answers_and_their_order_does_not_matter(name, sure):
    function = FUNCTIONS[name]
    counts = np.random.default_rng(3).multinomial(330, [1 / 330] * 330, size=3)
    found = function(sure, RIGHT, counts.astype(float))
    assert found.shape == (3,)
    for value, row in zip(found, counts, strict=True):
        drawn = np.random.default_rng(4).permutation(np.repeat(np.arange(330), row))
        assert value == pytest.approx(function(sure[drawn], RIGHT[drawn]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_to_tell_from_is_nan(name):
    assert np.isnan(FUNCTIONS[name]([], []))
    found = FUNCTIONS[name](SURE, RIGHT, np.stack([np.zeros(330), np.ones(330)]))
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(FUNCTIONS[name](SURE, RIGHT))


def test_auroc_needs_right_and_wrong_answers():
    assert np.isnan(cal.auroc([0.3, 0.4], [1, 1]))


def test_the_calibration_error_to_expect_by_chance_shrinks_with_the_answers():
    few, many = (cal.ece_by_chance(np.full(num, 0.5), key=1) for num in (100, 10_000))
    # |mean of 10 and of 1,000 coins - .5| is .5 sqrt(2 / pi / n) on average: .126 and .0126, ties aside.
    assert 0 < many < few / 5
    together = cal.ece_by_chance(SURE, key=1)
    assert together == cal.ece_by_chance(SURE, key=1) != cal.ece_by_chance(SURE, key=2)
    assert 0.02 < together < 0.12
    assert cal.ece_by_chance(np.repeat([0.0, 1.0], 50), key=1) == 0
    assert np.isnan(cal.ece_by_chance([], key=1))


def test_the_evaluate_module_gives_the_same_figures(tmp_path):
    evaluate = pytest.importorskip("evaluate", reason="the evaluate library is not installed")
    path = Path(cal.__file__).parent / "evaluate_modules/calibration.py"
    metric = evaluate.load(str(path), cache_dir=str(tmp_path), experiment_id="test")
    generator = np.random.default_rng(0)
    sure = generator.random(60)
    right = (generator.random(60) < sure).astype(int)
    found = metric.compute(predictions=sure, references=right)
    names = ("ece", "brier", "aurc", "auroc")
    expected = {name: float(getattr(cal, name)(sure, right)) for name in names}
    assert found == pytest.approx(expected, abs=1e-12)
    fewer = metric.compute(predictions=sure, references=right, num_bins=3)
    assert fewer["ece"] == pytest.approx(float(cal.ece(sure, right, num_bins=3)))
