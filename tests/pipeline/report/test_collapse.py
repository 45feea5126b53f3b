"""The stated rule of collapse, on runs written by hand."""

import pytest

from pipeline.records import Comparison, Figure
from pipeline.report.collapse import collapses, reasons
from pipeline.report.read import Evaluation, Fault, RunData, StageData
from pipeline.report.verdicts import main_stage

MODELS = [{"name": "sft", "parent": None, "plain": False}, {"name": "ppo", "parent": "sft", "plain": False}]


def figure(name, value):
    return Figure(name, "ppo", value, value, value, 100, 100, "share", {})


def gold(value, half):
    low, high = value - half, value + half
    return Comparison(
        "gold/mean", "sft", "ppo", value, low, high, 100, 100, 1, 0.01, None, 0, 0, None, 0.1, ""
    )


RECORD = {
    "stages": [
        {"name": name, "stage": name} for name in ("corpus", "sft", "ppo", "dpo", "evaluate", "report")
    ]
}


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


def model(name, parent, reference, kind):
    return {"name": name, "parent": parent, "plain": False, "reference": reference, "kind": kind}


def of_another_run(own, other):
    """A run whose evaluation also asks `other/ppo`: `own` maps its own stages to (name in figures, kind)."""
    models = [model("sft", None, "quickstart/sft", "sft"), model("ppo", "sft", other, "ppo")]
    models += [model(name, "sft", stage, kind) for stage, (name, kind) in own.items()]
    stages = [StageData(stage, kind, {}, []) for stage, (_, kind) in own.items()]
    figures = [Figure("ends", m["name"], 0.2, 0.2, 0.2, 100, 100, "share", {}) for m in models]
    return RunData("run", {}, {}, stages, Evaluation(models, figures, [], []))


@pytest.mark.parametrize(
    ("own", "judged", "main"),
    [
        ({"ppo": ("ppo_2", "ppo")}, ["ppo", "ppo_2"], "ppo_2"),  # the shape of `votes`
        ({"dpo": ("dpo", "dpo"), "ppo_gold": ("ppo_gold", "ppo")}, ["ppo", "dpo", "ppo_gold"], "ppo_gold"),
        ({"ppo_refreshed": ("ppo_refreshed", "ppo")}, ["ppo", "ppo_refreshed"], "ppo_refreshed"),
        ({"dpo": ("dpo", "dpo")}, ["ppo", "dpo"], "dpo"),
        ({}, ["ppo"], "ppo"),
    ],
)
def test_models_of_another_run_are_judged_and_the_own_one_is_the_main_one(own, judged, main):
    run = of_another_run(own, "quickstart/ppo")
    assert [(row.model, row.num) for row in collapses([run])] == [(name, 1) for name in judged]
    assert main_stage(run) == main


def test_the_stage_of_a_model_is_found_by_its_reference():
    run = of_another_run({"ppo": ("ppo_2", "ppo")}, "quickstart/ppo")
    assert run.stage_that_made("ppo_2") is run.stages[0]
    assert run.stage_that_made("ppo") is None
    assert a_run().stage_that_made("ppo").kind == "ppo"


def stopped(stage, finished):
    """A chain of seed 3 whose training stopped in a stage, so that nothing of it was evaluated."""
    fault = Fault(stage, 12, f"{stage}: KL is 90 nats")
    return RunData("seed 3", RECORD, {}, [StageData(n, n, {}, []) for n in finished], Evaluation(), fault)


def test_a_seed_that_was_stopped_counts_as_collapsed_with_its_cause():
    told = "stopped after step 12: ppo: KL is 90 nats"
    (found,) = collapses([a_run(), a_run("seed 1", ends=0.1), stopped("ppo", ["corpus", "sft"])])
    assert (found.model, found.num, found.of) == ("ppo", 2, 3)
    assert found.reasons == {"seed 1": ["0.100 of its answers end"], "seed 3": [told]}
    # DPO comes after PPO and was never reached: nothing is known of it.
    (alone,) = collapses([stopped("ppo", ["corpus", "sft"])])
    assert (alone.model, alone.num, alone.of) == ("ppo", 1, 1)


def test_where_an_earlier_stage_stopped_every_model_after_it_counts():
    found = collapses([a_run(), stopped("sft", ["corpus"])])
    assert [(row.model, row.num, row.of) for row in found] == [("ppo", 1, 2), ("dpo", 1, 1)]


def test_a_stopped_stage_counts_for_the_model_that_other_seeds_call_otherwise():
    other = of_another_run({"ppo": ("ppo_2", "ppo")}, "quickstart/ppo")
    assert {row.model: (row.num, row.of) for row in collapses([other, stopped("ppo", [])])} == {
        "ppo": (1, 1),
        "ppo_2": (2, 2),
    }
