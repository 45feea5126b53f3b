"""The stated rule of collapse, on runs written by hand."""

import pytest

from pipeline.records import Comparison, Figure
from pipeline.report.collapse import collapses, reasons
from pipeline.report.read import Evaluation, RunData, StageData

MODELS = [{"name": "sft", "parent": None, "plain": False}, {"name": "ppo", "parent": "sft", "plain": False}]


def figure(name, value):
    return Figure(name, "ppo", value, value, value, 100, 100, "share", {})


def gold(value, half):
    low, high = value - half, value + half
    return Comparison(
        "gold/mean", "sft", "ppo", value, low, high, 100, 100, 1, 0.01, None, 0, 0, None, 0.1, ""
    )


def a_run(label="seed 0", ends=0.99, kl=4.0, change=0.2, half=0.05):
    evaluation = Evaluation(MODELS, [figure("ends", ends), figure("kl", kl)], [gold(change, half)], [])
    stages = [StageData("sft", "sft", {}, []), StageData("ppo", "ppo", {}, [])]
    return RunData(label, {}, {}, stages, evaluation)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"ends": 0.4}, ["0.400 of its answers end"]),
        ({"kl": 60.0}, ["its KL is 60.0 nats per completion"]),
        ({"change": -0.2}, ["gold fell by 0.200 (-0.250 to -0.150)"]),
        ({"change": -0.02}, []),  # within its interval
    ],
)
def test_the_rule(changes, told):
    assert reasons(a_run(**changes), "ppo") == told


def test_collapses_are_counted_over_seeds_with_their_reasons():
    (found,) = collapses([a_run(), a_run("seed 1", ends=0.1), a_run("seed 2")])
    assert (found.model, found.num, found.of) == ("ppo", 1, 3)
    assert found.reasons == {"seed 1": ["0.100 of its answers end"]}
