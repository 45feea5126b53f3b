"""How a proxy reward and gold grow and fall with the distance from the start (Gao et al. 2022, arXiv 2210.10760).

Distance is d = sqrt(KL), KL in nats per completion. Section 3.2 there gives two forms, here with the level at the
start as a free constant: best-of-n follows R(d) = d (a - b d), reinforcement learning R(d) = d (a - b log d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Form = Literal["best_of_n", "rl"]
Array = NDArray[np.float64]

DRAWS = 1000  # of the bootstrap
BLOCK = 8  # neighbouring points that are drawn together, as steps of one run resemble each other
FEWEST = 12  # points of a fit


@dataclass(frozen=True)
class Fit:
    """A fitted form; each interval is (value, low, high) at 95 %.

    `peak_kl` is the KL at which the curve turns, in nats; None where it does not turn down within twice the
    distance that was seen. A bound beyond that distance is infinite.
    """

    form: Form
    start: float
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    peak_kl: tuple[float, float, float] | None

    def at(self, distance: Array) -> Array:
        """The curve's reward at distances d > 0."""
        return self.start + self.a[0] * distance - self.b[0] * _bent(self.form, distance)


def fit(distance: ArrayLike, reward: ArrayLike, form: Form, *, seed: int) -> Fit | None:
    """Fit a form by least squares, with intervals from a bootstrap over blocks of neighbouring points.

    Points at distance 0 tell the level at the start. None with fewer than `FEWEST` points, or where they do not
    tell the two terms apart.
    """
    d, r = np.asarray(distance, dtype=float), np.asarray(reward, dtype=float)
    kept = np.isfinite(d) & np.isfinite(r)
    d, r = d[kept], r[kept]
    if len(d) < FEWEST or np.linalg.matrix_rank(_design(form, d)) < 3:
        return None
    start, a, b = _solve(form, d, r)
    farthest = float(d.max())
    draws = [_solve(form, d[rows], r[rows]) for rows in _blocks(len(d), seed)]
    peaks = [_peak(form, *pair) for _, *pair in draws]
    return Fit(
        form,
        start,
        _interval(a, [draw[1] for draw in draws]),
        _interval(b, [draw[2] for draw in draws]),
        _peak_interval(_peak(form, a, b), peaks, farthest),
    )


def fit_best_of_n(values: ArrayLike, *, seed: int) -> Fit | None:
    """Fit the form of best-of-n over its sizes, with intervals from a bootstrap over prompts.

    `values` is (prompts, sizes): the expected value of the best of n = 1, 2, ... of each prompt's samples. The
    distance is that of the bound of the KL. The points of a curve come from the same samples, so that only the
    prompts tell how sure it is. None with fewer than `FEWEST` sizes or prompts.
    """
    rows = np.asarray(values, dtype=float)
    if min(rows.shape) < FEWEST:
        return None
    d = np.sqrt([best_of_n_kl(n) for n in range(1, rows.shape[1] + 1)])
    # Least squares are linear in the values: the curve of a mean is the mean of the prompts' curves.
    curves = np.linalg.lstsq(_design("best_of_n", d), rows.T, rcond=None)[0].T
    generator = np.random.Generator(np.random.Philox(key=seed))
    draws = [curves[generator.integers(0, len(rows), len(rows))].mean(axis=0) for _ in range(DRAWS)]
    start, a, b = (float(value) for value in curves.mean(axis=0))
    peaks = [_peak("best_of_n", float(draw[1]), float(draw[2])) for draw in draws]
    return Fit(
        "best_of_n",
        start,
        _interval(a, [draw[1] for draw in draws]),
        _interval(b, [draw[2] for draw in draws]),
        _peak_interval(_peak("best_of_n", a, b), peaks, float(d.max())),
    )


def best_of_n_kl(n: int) -> float:
    """Upper bound of the KL of best-of-n from the sampled model, nats: log n - (n - 1)/n.

    Exact where no two completions tie, so loose where few answers are possible (Gao et al. 2022, footnote 4).
    """
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: Sequence[float], value: Sequence[float], n: int) -> float:
    """Expected value of the best by proxy of n, from N >= n samples of one prompt, without bias.

    Each sample counts with the chance that it is the best of n drawn from the N without replacement (Nakano et
    al. 2021, arXiv 2112.09332, appendix I). Samples of equal proxy share their chances.
    """
    num = len(proxy)
    assert 1 <= n <= num, f"best of {n} from {num} samples"
    order = np.argsort(np.asarray(proxy), kind="stable")
    scores = np.asarray(proxy, dtype=float)[order]
    chances = np.array([math.comb(place, n - 1) for place in range(num)], dtype=float) / math.comb(num, n)
    for level in np.unique(scores):
        tied = scores == level
        chances[tied] = chances[tied].mean()
    return float(chances @ np.asarray(value, dtype=float)[order])


def _bent(form: Form, d: Array) -> Array:
    """The term that b multiplies."""
    if form == "best_of_n":
        return d * d
    logs = np.log(d, out=np.zeros_like(d), where=d > 0)
    return d * logs


def _design(form: Form, d: Array) -> Array:
    return np.stack([np.ones_like(d), d, -_bent(form, d)], axis=1)


def _solve(form: Form, d: Array, r: Array) -> tuple[float, float, float]:
    start, a, b = np.linalg.lstsq(_design(form, d), r, rcond=None)[0]
    return float(start), float(a), float(b)


def _peak(form: Form, a: float, b: float) -> float:
    """The KL where the curve is highest; infinite where it only rises, 0 where it only falls."""
    if b <= 0:
        return math.inf if a > 0 or form == "rl" else 0.0
    if form == "best_of_n":
        return max(a / (2 * b), 0.0) ** 2
    exponent = 2 * (a / b - 1)
    return math.exp(exponent) if exponent < 50 else math.inf


def _peak_interval(peak: float, draws: Sequence[float], farthest: float) -> tuple[float, float, float] | None:
    limit = (2 * farthest) ** 2
    if not 0 < peak <= limit:
        return None
    low, high = np.quantile(draws, (0.025, 0.975), method="inverted_cdf")
    return peak, float(low), float(high) if high <= limit else math.inf


def _interval(value: float, draws: Sequence[float]) -> tuple[float, float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return value, float(low), float(high)


def _blocks(num: int, seed: int) -> list[NDArray[np.int64]]:
    """Row numbers of each bootstrap draw: enough circular blocks for `num` rows."""
    size = min(BLOCK, max(1, num // 4))
    count = -(-num // size)
    starts = np.random.Generator(np.random.Philox(key=seed)).integers(0, num, size=(DRAWS, count))
    rows = (starts[:, :, None] + np.arange(size)) % num
    return list(rows.reshape(DRAWS, -1)[:, :num])


def windows(values: ArrayLike, size: int) -> Array:
    """Means of `size` neighbours each, without overlap; a remainder is left out."""
    numbers = np.asarray(values, dtype=float)
    count = len(numbers) // size
    means: Array = numbers[: count * size].reshape(count, size).mean(axis=1)
    return means
