"""How often the intervals hold the truth and the tests reject it, on clustered scores whose truth is known.

    python tests/benchmarks/statistics_simulation.py [--replications 4000] [--seed 0]

Writes `statistics_simulation.md` beside it. Clusters hold 1 to 15 items, any number equally often; scores of one
cluster correlate by .2. An interval of 95 % is to hold the truth in 93 to 97 % of all samples; a test is to
reject what is true in 5 % at most, give or take the noise of so many replications.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np

from data.randomness import key
from pipeline import statistics as st

CLUSTERS, RATES, LARGEST, CORRELATION = (30, 100, 300), (0.05, 0.5, 0.95), 15, 0.2
RESAMPLES = 1000
LEVEL, LOW, HIGH = 0.05, 0.93, 0.97


def clusters_of(generator, num_clusters):
    """The cluster of each item."""
    return np.repeat(np.arange(num_clusters), generator.integers(1, LARGEST + 1, num_clusters))


def chances(generator, clusters, rate):
    """Each item's chance of 1: one per cluster, from a beta distribution with this mean and correlation."""
    spread = (1 - CORRELATION) / CORRELATION
    return generator.beta(rate * spread, (1 - rate) * spread, clusters.max() + 1)[clusters]


def binary(generator, clusters, rate):
    """Scores of 0 and 1."""
    return (generator.random(len(clusters)) < chances(generator, clusters, rate)).astype(float)


def normal(generator, clusters):
    """Scores around 0."""
    shared, own = generator.normal(size=clusters.max() + 1)[clusters], generator.normal(size=len(clusters))
    return np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own


def exponential(generator, clusters):
    """Skewed scores of mean 1: a part that the cluster shares, and a part that is the item's own."""
    shared = generator.gamma(CORRELATION, size=clusters.max() + 1)[clusters]
    return shared + generator.gamma(1 - CORRELATION, size=len(clusters))


def holds(found, truth):
    """Whether an interval holds the truth."""
    return found.low <= truth <= found.high


def student(found):
    """The interval without a correction for skewness and kurtosis."""
    half = st.t_quantile(0.95, found.num_clusters) * found.se
    return found._replace(low=found.value - half, high=found.value + half)


def within_0_and_1(found):
    """The interval of scores within 0 and 1, which they have also where all are alike."""
    if np.isfinite(found.low):
        return found
    low, high = st.unvaried(found.value, found.num_clusters, (0.0, 1.0))
    return found._replace(low=low, high=high)


def share(judge, case, num_clusters, *, replications, seed):
    """How often each of a judge's findings is true, over samples that share nothing."""
    draws = key("simulation", seed, judge.__name__, str(case), num_clusters)
    generator = np.random.Generator(np.random.Philox(key=draws))
    samples = (clusters_of(generator, num_clusters) for _ in range(replications))
    return np.mean([judge(case, generator, clusters, n) for n, clusters in enumerate(samples)], axis=0)


def of_rate(rate, generator, clusters, number):
    """Coverage of `rate`, of `mean`, of Student's interval, and of a `rate` that ignores the clusters."""
    scores = binary(generator, clusters, rate)
    mean = within_0_and_1(st.mean(scores, clusters))
    intervals = st.rate(scores, clusters), mean, student(mean), st.rate(scores)
    return [holds(found, rate) for found in intervals]


def of_mean(name, generator, clusters, number):
    """Coverage of `mean`, of Student's interval, of `bootstrap` and of `jackknife` of the same mean."""
    scores, truth = {"normal": (normal, 0), "exponential": (exponential, 1)}[name]
    values = scores(generator, clusters)

    def average(counts):
        return counts @ values / counts.sum(axis=1)

    booted = st.bootstrap(average, clusters, key=number, num_resamples=RESAMPLES)
    mean = st.mean(values, clusters)
    return [holds(found, truth) for found in (mean, student(mean), booted, st.jackknife(average, clusters))]


def of_pair(rate, generator, clusters, number):
    """Under no change: coverage of the paired interval, rejections by its p-value, and by McNemar's."""
    chance = chances(generator, clusters, rate)
    before, after = (generator.random((2, len(clusters))) < chance).astype(float)
    found = st.paired_difference(before, after, clusters, key=number, num_resamples=RESAMPLES)
    return [holds(found, 0), found.p_value <= LEVEL, found.mcnemar_p <= LEVEL]


def of_ratio_pair(rate, generator, clusters, number):
    """Under no change of a ratio of sums (right of attempted): coverage and rejections.

    Of its linearised parts, and of the bootstrap of the ratio itself.
    """
    chance = chances(generator, clusters, rate)
    attempted = (generator.random((2, len(clusters))) < 0.7).astype(float)
    right = attempted * (generator.random((2, len(clusters))) < chance)
    before, after = (
        lambda counts, side=side: counts @ right[side] / np.maximum(counts @ attempted[side], 1)
        for side in (0, 1)
    )
    booted = st.bootstrap_difference(before, after, clusters, key=number, num_resamples=RESAMPLES)
    paired = st.ratio_difference(*zip(right, attempted, strict=True), clusters)
    return [test for found in (paired, booted) for test in (holds(found, 0), found.p_value <= LEVEL)]


def marked(value):
    """A coverage, in bold outside of its range."""
    return f"{value:.3f}" if LOW <= value <= HIGH else f"**{value:.3f}**"


def table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def report(replications, seed):
    """The whole text."""
    run = partial(share, replications=replications, seed=seed)
    one, two, three = [], [], []
    for num in CLUSTERS:
        for rate in RATES:
            found = run(of_rate, rate, num)
            one.append([num, rate, *(marked(value) for value in found[:2]), *(f"{v:.3f}" for v in found[2:])])
            paired, ratio = run(of_pair, rate, num), run(of_ratio_pair, rate, num)
            two.append([num, rate, marked(paired[0]), *(f"{value:.3f}" for value in paired[1:])])
            two[-1] += [marked(ratio[0]), f"{ratio[1]:.3f}", marked(ratio[2]), f"{ratio[3]:.3f}"]
        three += [[num, name, *map(marked, run(of_mean, name, num))] for name in ("normal", "exponential")]
    header = ["clusters", "rate", "paired holds 0", "rejects", "McNemar rejects"]
    header += ["ratio holds 0", "rejects", "bootstrap holds 0", "rejects"]
    noise = 1.96 * np.sqrt(0.05 * 0.95 / replications)
    return f"""# Intervals and tests, simulated

`python tests/benchmarks/statistics_simulation.py --replications {replications} --seed {seed}`: {replications:,}
samples a cell, of clusters of 1 to {LARGEST} items that correlate by {CORRELATION}; {RESAMPLES:,} resamples in a
bootstrap. The noise of a share near .05 or .95 is {noise:.3f}. In bold: outside {LOW} to {HIGH}.

Share of samples in which the 95 % interval holds the truth, scores of 0 and 1:

{table(["clusters", "rate", "`rate`", "`mean`", "Student's t", "`rate` that ignores the clusters"], one)}

The same for other scores: `mean`, and their mean as a statistic in `bootstrap` and `jackknife`:

{table(["clusters", "scores", "`mean`", "Student's t", "`bootstrap`", "`jackknife`"], three)}

`rate` is Wilson's interval on n / design effect, `mean` Student's after Hall's correction for skewness; both have
fewer degrees of freedom where a few clusters make most of the variance. Without these, the column of Student's t,
rare outcomes and skewed scores fall short. Still short: means of very skewed scores over 30 clusters.

Two answers to the same items, without a change: how often the interval of `paired_difference` holds 0, how often
its p-value and McNemar's, which takes items for independent, are at most {LEVEL}. The same for the share right of
attempted answers, which are .7 of all: of `ratio_difference`, and of `bootstrap_difference`, which is for figures
that are no ratio:

{table(header, two)}

McNemar's test without an item that differs (b + c = 0): p = {st.mcnemar(0, 0):g}.
"""


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    text = report(options.replications, options.seed)
    print(text)
    print(f"{time.monotonic() - started:.0f} seconds")
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
