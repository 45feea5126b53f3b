"""Gao's forms are recovered with their peaks; best-of-n by enumeration."""

import itertools
import math

import numpy as np
import pytest

from pipeline import overoptimisation as lab

FORMS = ("best_of_n", "rl")


def curve(form, d, *, start=0.2, a=1.0, b=0.3):
    bent = d * d if form == "best_of_n" else d * np.log(d)
    return start + a * d - b * bent


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recovered_from_its_own_points(form):
    d = np.linspace(0.1, 6, 40)
    found = lab.fit(d, curve(form, d), form, seed=1)
    assert (found.start, found.a[0], found.b[0]) == pytest.approx((0.2, 1.0, 0.3), abs=1e-8)
    np.testing.assert_allclose(found.at(d), curve(form, d), atol=1e-8)


def test_the_peaks_by_hand():
    d = np.linspace(0.1, 6, 40)
    # R' = a - 2 b d, and R' = a - b (log d + 1)
    best = lab.fit(d, curve("best_of_n", d), "best_of_n", seed=1).peak_kl
    assert best[0] == pytest.approx((1 / 0.6) ** 2)
    rl = lab.fit(d, curve("rl", d, b=0.5), "rl", seed=1).peak_kl
    assert rl[0] == pytest.approx(math.exp(2 * (1 / 0.5 - 1)))
    rising = lab.fit(d, curve("rl", d, b=-0.1), "rl", seed=1)
    assert rising.peak_kl is None


@pytest.mark.parametrize("form", FORMS)
def test_intervals_hold_the_truth_under_noise(form):
    held = {"a": 0, "b": 0, "peak": 0}
    truth = (1 / 0.6) ** 2 if form == "best_of_n" else math.exp(2 * (1 / 0.5 - 1))
    b = 0.3 if form == "best_of_n" else 0.5
    for seed in range(60):
        generator = np.random.default_rng(seed)
        d = np.sort(generator.uniform(0.1, 5, 80))
        found = lab.fit(d, curve(form, d, b=b) + generator.normal(0, 0.05, 80), form, seed=seed)
        held["a"] += found.a[1] <= 1.0 <= found.a[2]
        held["b"] += found.b[1] <= b <= found.b[2]
        held["peak"] += found.peak_kl[1] <= truth <= found.peak_kl[2]
    # 95 % of 60, less three standard errors; blocks make the intervals a little narrow.
    assert min(held.values()) >= 60 * (0.95 - 3 * math.sqrt(0.95 * 0.05 / 60))


def test_what_cannot_be_fitted_is_not():
    assert lab.fit([0.1] * 5, [1.0] * 5, "rl", seed=0) is None
    assert lab.fit([1.0] * 20, [1.0] * 20, "rl", seed=0) is None
    points = [math.nan, *np.linspace(0, 3, 20)]
    assert lab.fit(points, [math.nan, *range(20)], "rl", seed=0) is not None


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_draws(n):
    proxy, value = [0.3, 0.1, 0.9, 0.4, 0.2], [1.0, 2.0, -1.0, 4.0, 8.0]
    draws = [value[max(rows, key=lambda row: proxy[row])] for rows in itertools.combinations(range(5), n)]
    assert lab.best_of_n(proxy, value, n) == pytest.approx(np.mean(draws))


def test_best_of_n_breaks_ties_by_a_coin():
    assert lab.best_of_n([1.0, 1.0], [0.0, 1.0], 2) == pytest.approx(0.5)
    assert lab.best_of_n([0.0, 1.0, 1.0], [9.0, 0.0, 1.0], 2) == pytest.approx(
        (0 + 1 + 0.5) / 3
    )  # {0, 1}: 0, {0, 2}: 1, {1, 2}: a coin


def prompts_of(num, sizes=16, *, noise=0.0, seed=0, b=0.8):
    """The expected value of the best of 1 to `sizes` for each of so many prompts, which differ among them."""
    generator = np.random.default_rng(seed)
    d = np.array([math.sqrt(lab.best_of_n_kl(n)) for n in range(1, sizes + 1)])
    own = generator.normal(0, noise, (num, 3)) if noise else np.zeros((num, 3))
    return (0.2 + own[:, :1]) + (1.0 + own[:, 1:2]) * d - (b + own[:, 2:]) * d * d


def test_the_form_of_best_of_n_is_recovered_over_prompts_at_the_bound_of_its_kl():
    found = lab.fit_best_of_n(prompts_of(40), seed=1)
    assert found.form == "best_of_n"
    assert (found.start, found.a[0], found.b[0]) == pytest.approx((0.2, 1.0, 0.8), abs=1e-8)
    assert found.peak_kl[0] == pytest.approx((1 / 1.6) ** 2)
    # What the draws differ in are the prompts: where all are alike nothing varies.
    assert found.a[1:] == pytest.approx((1.0, 1.0), abs=1e-8)


def test_the_intervals_of_best_of_n_hold_the_truth_of_other_prompts():
    held = {"a": 0, "b": 0, "peak": 0}
    for seed in range(60):
        found = lab.fit_best_of_n(prompts_of(50, noise=0.3, seed=seed), seed=seed)
        held["a"] += found.a[1] <= 1.0 <= found.a[2]
        held["b"] += found.b[1] <= 0.8 <= found.b[2]
        held["peak"] += found.peak_kl[1] <= (1 / 1.6) ** 2 <= found.peak_kl[2]
    # 95 % of 60, less three standard errors.
    assert min(held.values()) >= 60 * (0.95 - 3 * math.sqrt(0.95 * 0.05 / 60))


def test_best_of_few_sizes_or_prompts_is_not_fitted():
    assert lab.fit_best_of_n(prompts_of(40, sizes=8), seed=0) is None
    assert lab.fit_best_of_n(prompts_of(4), seed=0) is None


def test_the_bound_of_best_of_n():
    assert lab.best_of_n_kl(1) == 0
    assert lab.best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_windows_leave_a_remainder_out():
    assert lab.windows([1, 3, 5, 7, 100], 2).tolist() == [2, 6]
