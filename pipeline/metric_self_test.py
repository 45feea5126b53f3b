"""The metrics tried on answerers whose scores are known: always right, always silent, random, constant.

A report is built with metrics that pass, or says at its top which do not. Expected values are worked out by hand
or by counting, never by the function that is checked; those of random answerers are allowed four standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

EXACT = 1e-9
NUM_RANDOM = 1200  # answers of the random ones
KEY = 0


class Check(NamedTuple):
    """One metric on one answerer: what it should give, within which tolerance, and what it gave.

    `found` is nan where it gave none; `error` says then what went wrong.
    """

    group: str
    name: str
    expected: float
    tolerance: float
    found: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether what was found is what is expected; both may be nan."""
        if math.isnan(self.expected):
            return math.isnan(self.found) and not self.error
        return abs(self.found - self.expected) <= self.tolerance


Case = tuple[str, float, float, Callable[..., Any]]  # name, expected, tolerance, metric


def run() -> list[Check]:
    """Check every metric; one that raises has failed, and the others are still checked."""
    groups: dict[str, Callable[[], Iterator[Case]]] = {
        "statistics": _statistics,
        "clusters": _clusters,
        "rankings": _rankings,
        "abstaining": _abstaining,
        "confidence": _confidence,
        "BBQ": _bbq,
        "TruthfulQA": _truthfulqa,
        "WinoBias": _winobias,
        "CrowS-Pairs": _crows_pairs,
        "Winogender": _winogender,
        "SimpleQA": _simpleqa,
        "choices of HaluEval": _choices,
        "stories": _stories,
    }
    return [checked(group, case) for group, cases in groups.items() for case in cases()]


def checked(group: str, case: Case) -> Check:
    """Try one metric."""
    name, expected, tolerance, metric = case
    try:
        return Check(group, name, expected, tolerance, float(metric()))
    except Exception as error:  # whatever a broken metric raises is what the report has to show
        return Check(group, name, expected, tolerance, math.nan, f"{type(error).__name__}: {error}")


def _statistics() -> Iterator[Case]:
    """Textbook values: Wilson 1927 on 8 of 10 and on 0 of 10, exact coins, Holm 1979 on three p-values."""
    from pipeline import statistics

    yield "Wilson, 8 of 10, lower bound", 0.4902, 5e-5, lambda: statistics.wilson(0.8, 10)[0]
    yield "Wilson, 8 of 10, upper bound", 0.9433, 5e-5, lambda: statistics.wilson(0.8, 10)[1]
    yield "Wilson, 0 of 10, lower bound", 0.0, 0.0, lambda: statistics.wilson(0.0, 10)[0]
    yield "Wilson, 0 of 10, upper bound", 0.2775, 5e-5, lambda: statistics.wilson(0.0, 10)[1]
    yield "McNemar, none gained or lost", 1.0, 0.0, lambda: statistics.mcnemar(0, 0)
    yield "McNemar, 10 gained, none lost", 2 / 2**10, EXACT, lambda: statistics.mcnemar(10, 0)
    yield "McNemar, 5 gained, 5 lost", 1.0, EXACT, lambda: statistics.mcnemar(5, 5)
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03}
    for name, adjusted in {"a": 0.03, "b": 0.06, "c": 0.06}.items():
        yield (
            f"Holm, {p_values[name]:g} of three",
            adjusted,
            EXACT,
            lambda n=name: statistics.holm(p_values)[n],
        )
    same = [0.0, 1.0] * 20
    yield "change against itself", 0.0, 0.0, lambda: _difference(same, same)[0]
    yield "change against itself, p", 1.0, 0.0, lambda: _difference(same, same)[1]
    yield "change from never to always right", 1.0, 0.0, lambda: _difference([0.0] * 40, [1.0] * 40)[0]
    yield "chance where chance is 0", 0.0, EXACT, lambda: statistics.above_chance(0.25, 0.25)


def _clusters() -> Iterator[Case]:
    """Twenty clusters of two items that are alike, half of them right; or of which one is right, always."""
    import numpy as np

    from pipeline import statistics

    clusters = [n // 2 for n in range(40)]
    alike, balanced = [float(n % 4 < 2) for n in range(40)], [0.0, 1.0] * 20

    def average(counts: np.ndarray) -> np.ndarray:
        return counts @ np.array(alike) / counts.sum(axis=1)

    # Residuals 1 and 2 in one cluster, -3 in another: sqrt(2 (9 + 9)) / 3.
    yield "clustered error, by hand", 2.0, EXACT, lambda: statistics.clustered_se([1, 2, -3], [0, 0, 1])
    yield "rate, alike in clusters: lower bound", 0.2836, 5e-5, lambda: statistics.rate(alike, clusters).low
    yield "rate, clusters balance: lower bound", 0.2881, 5e-5, lambda: statistics.rate(balanced, clusters).low
    # sqrt(1/4 / 20), to four standard errors of a spread of 1,000 resamples.
    error = math.sqrt(1 / 80)
    yield (
        "bootstrap, alike in clusters: error",
        error,
        4 * error / math.sqrt(2000),
        lambda: statistics.bootstrap(average, clusters, key=KEY).se,
    )
    yield (
        "smallest effect that five clusters tell, error .1",
        0.3717,
        5e-5,
        lambda: statistics.minimum_detectable_effect(0.1, 5),
    )
    right, tried = [1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]
    yield "ratio, 2 of 3", 2 / 3, EXACT, lambda: statistics.ratio(right, tried).value
    yield (
        "change of a ratio, from 2 of 3 to 2 of 2",
        1 / 3,
        EXACT,
        lambda: statistics.ratio_difference((right, tried), (right, right)).value,
    )


def _difference(before: list[float], after: list[float]) -> tuple[float, float]:
    """A paired change and its p-value."""
    from pipeline.statistics import paired_difference

    found = paired_difference(before, after, key=KEY, num_resamples=100)
    return found.value, found.p_value


def _rankings() -> Iterator[Case]:
    """Who wins 3 of 4 times is log 3 stronger; two sides share it evenly."""
    import numpy as np

    from pipeline import rankings, statistics

    thrice = np.array([[0.0, 3.0], [1.0, 0.0]])
    yield "win rate against itself", 0.5, EXACT, lambda: statistics.win_rate([1, 2, 3], [1, 2, 3]).value
    yield "strength of who wins 3 of 4", math.log(3) / 2, 1e-6, lambda: rankings.bradley_terry(thrice)[0]
    even = [0.0, 1.0, 0.0, 1.0]
    yield (
        "win rate at equal length, even wins",
        0.5,
        1e-6,
        lambda: rankings.length_controlled_win_rate(even, [-1, -1, 1, 1], np.ones((1, 4)))[0],
    )


def _abstaining() -> Iterator[Case]:
    """SimpleQA's rates and confidence targets, of ten questions each."""
    from pipeline.benchmarks.simpleqa import CORRECT, INCORRECT, NOT_ATTEMPTED, rates

    answerers = {
        "always right": [CORRECT] * 10,
        "always silent": [NOT_ATTEMPTED] * 10,
        "always wrong": [INCORRECT] * 10,
        "3 right, 1 wrong, 6 silent": [CORRECT] * 3 + [INCORRECT] + [NOT_ATTEMPTED] * 6,
    }
    # (correct, hallucinated, F)
    known = ((1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.3, 0.1, 2 * 3 / (10 + 4)))
    for (name, grades), (correct, hallucinated, f) in zip(answerers.items(), known, strict=True):
        yield f"{name}: correct", correct, EXACT, lambda g=grades: rates(g).correct
        yield f"{name}: hallucinated", hallucinated, EXACT, lambda g=grades: rates(g).hallucinated
        yield f"{name}: F", f, EXACT, lambda g=grades: rates(g).f
    for name, right, attempted, score in (
        ("always right", 1, 1, 1.0),
        ("always silent", 0, 0, 0.0),
        ("always wrong", 0, 1, -3.0),
    ):
        yield (
            f"{name}: score at confidence target 0.75",
            score,
            EXACT,
            lambda r=right, a=attempted: _target_score([r] * 10, [a] * 10, 0.75),
        )
    yield (
        "half right: score at confidence target 0.5",
        0.0,
        EXACT,
        lambda: _target_score([0, 1] * 5, [1] * 10, 0.5),
    )


def _target_score(right: list[int], attempted: list[int], target: float) -> float:
    from pipeline.calibration import target_scores

    return float(target_scores(right, attempted, target).mean())


def _confidence() -> Iterator[Case]:
    """Confidence that tells all, nothing, and the opposite; half of the answers are right."""
    from pipeline import calibration

    right = [0.0, 1.0] * 50
    turned, constant = [1 - value for value in right], [0.5] * 100
    yield "sure when right: AUROC", 1.0, EXACT, lambda: calibration.auroc(right, right)
    yield "sure when wrong: AUROC", 0.0, EXACT, lambda: calibration.auroc(turned, right)
    yield "constant: AUROC", 0.5, EXACT, lambda: calibration.auroc(constant, right)
    yield "sure when right: calibration error", 0.0, EXACT, lambda: calibration.ece(right, right)
    yield "sure when wrong: calibration error", 1.0, EXACT, lambda: calibration.ece(turned, right)
    yield (
        "constant at the share right: calibration error",
        0.0,
        EXACT,
        lambda: calibration.ece(constant, right),
    )
    yield "constant at the share right: Brier score", 0.25, EXACT, lambda: calibration.brier(constant, right)
    yield "constant: area under risk and coverage", 0.5, EXACT, lambda: calibration.aurc(constant, right)
    yield (
        "sure when right: risk at half coverage",
        0.0,
        EXACT,
        lambda: calibration.risk_at(right, right, [0.5])[0],
    )
    half = NUM_RANDOM // 2
    # Of n right and n wrong answers without order: se^2 = (2n + 1) / (12 n n).
    error = 4 * math.sqrt((NUM_RANDOM + 1) / (12 * half * half))
    labels = [0.0, 1.0] * half
    yield "random: AUROC", 0.5, error, lambda: calibration.auroc(_random(NUM_RANDOM), labels)


def _bbq() -> Iterator[Case]:
    """Twelve made-up questions: answer 0 agrees with the stereotype, 1 does not, 2 is unknown."""
    from pipeline.benchmarks.bbq import metrics

    unknown, biased = [2] * 12, [0] * 12
    ambiguous = [True] * 6 + [False] * 6
    right = [2] * 6 + [0, 1] * 3
    answerers: dict[str, tuple[list[int], tuple[float, float, float, float]]] = {
        "always biased": ([0] * 12, (1.0, 1.0, 0.0, 0.5)),
        "never biased": ([1] * 12, (-1.0, -1.0, 0.0, 0.5)),
        "always unknown": ([2] * 12, (0.0, math.nan, 1.0, 0.0)),
        "always right": (right, (0.0, 0.0, 1.0, 1.0)),
        "each answer as often": ([0, 1, 2] * 4, (0.0, 0.0, 1 / 3, 1 / 3)),
    }
    names = ("s_amb", "s_dis", "accuracy_amb", "accuracy_dis")
    for answerer, (chosen, expected) in answerers.items():
        for name, value in zip(names, expected, strict=True):
            yield (
                f"{answerer}: {name.replace('_', ' ')}",
                value,
                EXACT,
                lambda c=chosen, n=name: metrics(c, right, unknown, biased, ambiguous)[n],
            )


def _truthfulqa() -> Iterator[Case]:
    """One or two true answers among four."""
    from pipeline.benchmarks.truthfulqa import mc1, mc2

    labels = [1, 0, 0, 0]
    yield "always right: MC1", 1.0, EXACT, lambda: mc1([0.0, -99, -99, -99], labels)
    yield "always right: MC2", 1.0, EXACT, lambda: mc2([0.0, -99, -99, -99], labels)
    yield "always wrong: MC1", 0.0, EXACT, lambda: mc1([-99.0, 0, -99, -99], labels)
    yield "always wrong: MC2", 0.0, EXACT, lambda: mc2([-99.0, 0, -99, -99], labels)
    yield "constant, two true of four: MC2", 0.5, EXACT, lambda: mc2([-7.0] * 4, [1, 1, 0, 0])
    num = NUM_RANDOM // 4
    error = 4 * math.sqrt(0.25 * 0.75 / num)
    rows = _random(4 * num).reshape(num, 4).tolist()
    yield "random, one true of four: MC1", 0.25, error, lambda: sum(mc1(row, labels) for row in rows) / num


def _winobias() -> Iterator[Case]:
    """Four pairs of sentences, one with the stereotype and one against it."""
    from pipeline.benchmarks.winobias import ANTI, PRO, metrics

    sides, pairs = [PRO] * 4 + [ANTI] * 4, ["a", "b", "c", "d"] * 2
    answerers = {
        "always right": ([0.0] * 8, [-1.0] * 8, 0.0),
        "always the stereotype": ([0.0] * 4 + [-1.0] * 4, [-1.0] * 4 + [0.0] * 4, 1.0),
        "constant": ([0.0] * 8, [0.0] * 8, 0.0),
    }
    for name, (meant, other, difference) in answerers.items():
        yield (
            f"{name}: pro less anti",
            difference,
            EXACT,
            lambda m=meant, o=other: metrics(m, o, sides, pairs)["difference"],
        )


def _crows_pairs() -> Iterator[Case]:
    from pipeline.benchmarks.crows_pairs import prefers

    yield "always the stereotype", 1.0, EXACT, lambda: prefers([-1.0] * 4, [-2.0] * 4).mean()
    yield "never the stereotype", 0.0, EXACT, lambda: prefers([-2.0] * 4, [-1.0] * 4).mean()
    yield "constant", 0.5, EXACT, lambda: prefers([-2.0] * 4, [-2.0] * 4).mean()


def _winogender() -> Iterator[Case]:
    """The pronoun means the occupation in every other sentence."""
    from pipeline.benchmarks import winogender

    means, first, second = [True, False] * 2, [0.0, -1.0] * 2, [-1.0, 0.0] * 2
    yield "always right", 1.0, EXACT, lambda: winogender.right_scores(first, second, means).mean()
    yield (
        "always the occupation",
        0.5,
        EXACT,
        lambda: winogender.right_scores([0.0] * 4, [-1.0] * 4, means).mean(),
    )
    shares = [0.1, 0.5, 0.6, 0.9]
    yield "pronouns by the census", 1.0, EXACT, lambda: winogender.correlation(shares, shares)
    turned = [-share for share in shares]
    yield "pronouns against it", -1.0, EXACT, lambda: winogender.correlation(turned, shares)


def _simpleqa() -> Iterator[Case]:
    """Answers of which one word decides: 1 correct, -1 incorrect, 0 not attempted."""
    from pipeline.benchmarks.simpleqa import CORRECT, INCORRECT, NOT_ATTEMPTED, grade

    points = {CORRECT: 1, INCORRECT: -1, NOT_ATTEMPTED: 0}
    answers = {
        "It was Paris.": 1,
        "It was not Paris.": -1,
        "It was Rome.": -1,
        "It was an unknown place.": -1,
        "I do not know.": 0,
        "It is unknown.": 0,
    }
    for answer, expected in answers.items():
        yield answer, expected, 0.0, lambda a=answer: points[grade(a, "Paris")]


def _choices() -> Iterator[Case]:
    from pipeline.benchmarks import choices

    yield "always right", 1.0, EXACT, lambda: choices.share_true([0.0, -1.0], [1, 0])
    yield "constant", 0.5, EXACT, lambda: choices.share_true([-1.0, -1.0], [1, 0])
    yield (
        "share of true answers shown first",
        0.5,
        4 * math.sqrt(0.25 / NUM_RANDOM),
        lambda: sum(choices.true_first("self test", n) for n in range(NUM_RANDOM)) / NUM_RANDOM,
    )


def _stories() -> Iterator[Case]:
    """What models say again, whom they tell of, and how much of a skew they show."""
    import numpy as np

    from pipeline import calibration
    from pipeline.evals import diversity, dose_response, representation
    from pipeline.measured import Scored

    once = np.ones((1, 4))
    yield "one story for all: distinct words", 0.25, EXACT, lambda: diversity.distinct(["a b"] * 4, 1)
    yield "all different: distinct words", 1.0, EXACT, lambda: diversity.distinct(["a b", "c d"], 1)
    for name, she, expected in (("she alone", 2, 0.5), ("he alone", 0, 0.5), ("both alike", 1, 0.0)):
        told = [Scored(str(n), str(n), float(she), 2.0) for n in range(4)]
        yield (
            f"{name}: distance from even",
            expected,
            EXACT,
            lambda t=told: representation.distances(t, once)[0],
        )
    # Scores of 1/2 where nothing was injected, of 1 at a dose of 1.
    line = [Scored(str(n), str(n), 0.5 + 0.5 * (n % 2), float(n % 2)) for n in range(4)]
    yield "half of the injected skew: slope", 0.5, EXACT, lambda: dose_response.slope(line, once)[0]
    yield "half of the injected skew: intercept", 0.5, EXACT, lambda: dose_response.intercept(line, once)[0]
    yield (
        "two claims, equally often: semantic entropy",
        math.log(2),
        EXACT,
        lambda: calibration.semantic_entropy(["a", "b"] * 4),
    )
    yield "one claim: semantic entropy", 0.0, EXACT, lambda: calibration.semantic_entropy(["a"] * 8)


def _random(num: int) -> np.ndarray:
    """Seeded uniform numbers in [0, 1)."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=KEY)).random(num)
