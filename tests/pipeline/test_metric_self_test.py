"""The metrics' self-test: it passes, it is quick, and it finds the mistakes that metrics are known for."""

import time

import numpy as np
import pytest

from pipeline import calibration, metric_self_test, rankings, statistics
from pipeline.benchmarks import bbq, choices, crows_pairs, simpleqa, truthfulqa, winobias, winogender
from pipeline.evals import diversity, dose_response, representation


def failed():
    return {(check.group, check.name) for check in metric_self_test.run() if not check.passed}


def test_every_metric_passes():
    assert failed() == set()


def test_every_kind_of_answerer_is_tried():
    names = " ".join(check.name for check in metric_self_test.run())
    for answerer in (
        "always right",
        "always silent",
        "random",
        "constant",
        "always unknown",
        "always biased",
    ):
        assert answerer in names


def test_all_of_it_takes_less_than_a_fifth_of_a_second():
    metric_self_test.run()  # what is imported once is not the self-test's own time
    started = time.perf_counter()
    metric_self_test.run()
    assert time.perf_counter() - started < 0.2


MISTAKES = {
    "McNemar divides by b + c = 0": (statistics, "mcnemar", lambda b, c: (b - c) ** 2 / (b + c)),
    "no interval reaches 0": (statistics, "wilson", lambda value, num: (value - 0.1, value + 0.1)),
    "Holm is Bonferroni": (statistics, "holm", lambda p: {n: min(1, len(p) * v) for n, v in p.items()}),
    "strengths have no mean of 0": (rankings, "bradley_terry", lambda wins: np.array([1.0986, 0.0])),
    "F is accuracy": (calibration, "simpleqa_f", lambda right, attempted, num: right / num),
    "wrong answers cost nothing": (
        calibration,
        "target_scores",
        lambda right, attempted, target: np.array(right, dtype=float),
    ),
    "ties are lost in AUROC": (
        calibration,
        "auroc",
        lambda sure, right, counts=None: np.mean(
            [a > b for a, x in zip(sure, right) for b, y in zip(sure, right) if x > y]  # noqa: B905
        ),
    ),
    "no bias reads 0 where it is -1": (bbq, "s_dis", lambda scores: max(0.0, float(np.mean(scores)))),
    "bias is scaled by another accuracy": (bbq, "s_amb", lambda scores: 0.5 * float(np.mean(scores))),
    "MC1 of any true answer": (truthfulqa, "mc1", lambda logprobs, labels: 1.0),
    "MC2 counts logarithms": (truthfulqa, "mc2", lambda logprobs, labels: logprobs[0] / sum(logprobs)),
    "ties are stereotyped": (winobias, "right_scores", lambda meant, other: np.ones(len(meant))),
    "items of a cluster are independent": (
        statistics,
        "clustered_se",
        lambda residuals, clusters=None: float(np.std(residuals, ddof=1) / len(residuals) ** 0.5),
    ),
    "effects of few clusters are those of many": (
        statistics,
        "minimum_detectable_effect",
        lambda se, num_clusters: 2.8 * se,
    ),
    "items are drawn, not clusters": (
        statistics,
        "bootstrap",
        lambda statistic, clusters, key: statistics.mean([0.0, 1.0] * 20),
    ),
    "a denied answer is correct": (simpleqa, "_denied", lambda before: False),
    "an abstention is wrong": (simpleqa, "abstains", lambda answer: False),
    "the first of two equal answers is chosen": (choices, "share_true", lambda values, labels: labels[0]),
    "the pronoun means the occupation": (winogender, "right_scores", lambda o, p, means: np.array(o) > p),
    "different words are not counted once": (diversity, "distinct", lambda texts, order: 1.0),
    "a distance has a sign": (
        representation,
        "distances",
        lambda rows, counts: np.array([sum(r.score for r in rows) / sum(r.weight for r in rows) - 0.5]),
    ),
    "a line through 0": (
        dose_response,
        "slope",
        lambda rows, counts: np.array(
            [sum(r.weight * r.score for r in rows) / sum(r.weight**2 for r in rows)]
        ),
    ),
    "less is more": (crows_pairs, "prefers", lambda more, less: np.array(less) > np.array(more)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_known_mistake_is_found(monkeypatch, mistake):
    monkeypatch.setattr(*MISTAKES[mistake])
    assert failed()


def test_a_metric_that_raises_has_failed_and_the_others_are_still_checked(monkeypatch):
    def broken(gained, lost):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(statistics, "mcnemar", broken)
    checks = metric_self_test.run()
    (first, *_) = [check for check in checks if not check.passed]
    assert first.name.startswith("McNemar")
    assert first.error == "ZeroDivisionError: division by zero"
    assert len(checks) > 60
    assert {check.group for check in checks if not check.passed} == {"statistics"}


def test_what_should_not_be_defined_fails_where_it_is_a_number():
    check = metric_self_test.Check("BBQ", "always unknown: s dis", float("nan"), 0.0, 0.0)
    assert not check.passed
    assert check._replace(found=float("nan")).passed
    assert not check._replace(found=float("nan"), error="ValueError: x").passed
