"""Resampled intervals of so few clusters that resamples reach no further than these."""

import numpy as np
import pytest

from pipeline import statistics as st


@pytest.mark.parametrize("num_clusters", [2, 3, 4, 6])
def test_changes_of_few_clusters_lie_within_their_interval(num_clusters):
    generator = np.random.default_rng(num_clusters)
    sides = [generator.normal(size=(2, num_clusters)) for _ in range(400)]
    found = [st.paired_difference(before, after, key=n) for n, (before, after) in enumerate(sides)]
    # .95 less almost three standard errors of 400 draws
    assert np.mean([row.low <= 0 <= row.high for row in found]) > 0.92


def test_a_statistic_of_few_clusters_has_the_interval_of_its_mean():
    scores = np.array([0.1, 0.4, 0.9])
    found = st.bootstrap(lambda counts: counts @ scores / counts.sum(axis=1), range(3), key=0)
    half = 4.303 * scores.std(ddof=1) / np.sqrt(3)
    # The spread of 1,000 resamples, and so the half width of 1.0, has a standard error of 2 %; the key is fixed.
    assert (found.low, found.high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.03)
