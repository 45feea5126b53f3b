"""Runs against each other: what is paired, and what is kept apart."""

from dataclasses import replace

import pytest

from pipeline.records import Figure, Record
from pipeline.report import paired
from pipeline.report.read import Evaluation, RunData
from pipeline.report.tables import AT_CHANCE

NUM = 40
FACTS = "facts/often/right"


def fact(number, right, stage="ppo", **changes):
    outcome = "right" if right else "wrong"
    record = Record(
        f"fact/{number}",
        f"person {number}",
        stage,
        "facts",
        "answer",
        f"Who is {number}?",
        "x",
        float(right),
        "often",
        outcome,
    )
    return replace(record, **changes)


def figure(name, rows, unit="share", half=0.1, **nulls):
    value = sum(row.score for row in rows) / len(rows)
    return Figure(name, rows[0].stage, value, value - half, value + half, len(rows), len(rows), unit, nulls)


def a_run(label, rows, figures, seed=0):
    models = [{"name": "ppo", "parent": None, "plain": False}]
    return RunData(label, {"seed": seed}, {}, [], Evaluation(models, figures, [], rows))


def facts_run(label, num_right, seed=0, **changes):
    rows = [fact(number, number < num_right, **changes) for number in range(NUM)]
    return a_run(label, rows, [figure(FACTS, rows)], seed)


def only(runs):
    (step,) = paired.steps([[run] for run in runs])
    return step


def test_the_same_items_are_paired_with_interval_and_verdict():
    step = only([facts_run("a", 10), facts_run("b", 30)])
    (change,) = step.changes
    assert (change.before, change.after) == ("a: ppo", "b: ppo")
    assert (change.value, change.gained, change.lost) == (0.5, 20, 0)
    assert 0 < change.low < 0.5 < change.high
    assert change.verdict == "improved"
    assert change.holm_p is not None
    assert step.verdict.word == "improved"
    assert step.unpaired == {}


def test_a_run_against_itself_shows_no_change():
    step = only([facts_run("a", 10), facts_run("b", 10)])
    assert (step.changes[0].value, step.changes[0].verdict) == (0.0, "no evidence")


@pytest.mark.parametrize("changes", [{"prompt": "Who else?"}, {"id": "other"}, {"group": "some"}])
def test_other_items_are_not_paired(changes):
    before, after = facts_run("a", 10), facts_run("b", 30)
    rows = [replace(after.evaluation.records[0], **changes), *after.evaluation.records[1:]]
    step = only([before, replace(after, evaluation=replace(after.evaluation, records=rows))])
    assert step.changes == []
    assert step.unpaired == {paired.OTHER_ITEMS: [FACTS]}


def test_a_figure_that_its_records_do_not_give_is_not_paired():
    before, after = facts_run("a", 10), facts_run("b", 30)
    figures = [replace(after.evaluation.figures[0], value=0.7)]
    step = only([before, replace(after, evaluation=replace(after.evaluation, figures=figures))])
    assert step.unpaired == {paired.OTHER_SCORES: [FACTS]}


def test_chains_of_other_seeds_are_not_paired_where_there_are_several():
    before = [facts_run("a, seed 0", 10), facts_run("a, seed 1", 10, seed=1)]
    after = [facts_run("b, seed 1", 30, seed=1), facts_run("b, seed 2", 30, seed=2)]
    (step,) = paired.steps([before, after])
    assert step.labels == ("a, seed 1: ppo", "b, seed 1: ppo")


def test_last_models_are_compared_whatever_their_names():
    before = facts_run("a", 10)
    after = facts_run("b", 30, stage="dpo")
    models = [{"name": "dpo", "parent": None, "plain": False}]
    step = only([before, replace(after, evaluation=replace(after.evaluation, models=models))])
    assert step.stages == ("ppo", "dpo")
    assert step.changes[0].value == 0.5


# --- benchmarks -------------------------------------------------------------------------------------------


def asked(number, right, version, question="Why {}?"):
    return Record(
        f"q{number}",
        f"c{number}",
        "ppo",
        "truthfulqa",
        "mc1",
        question.format(number),
        "",
        float(right),
        version,
    )


def quiz_run(label, num_right, version="2025", half=0.1, **options):
    rows = [asked(number, number < num_right, version, **options) for number in range(NUM)]
    return a_run(
        label, rows, [figure("truthfulqa/mc1", rows, f"share, version {version}", half, chance=0.25)]
    )


def test_scores_of_one_version_stand_beside_each_other():
    (row,) = paired.benchmarks_beside([quiz_run("a", 10), quiz_run("b", 30)])
    assert [found.value for found in row.figures] == [0.25, 0.75]


@pytest.mark.parametrize("options", [{"version": "v1"}, {"question": "Why not {}?"}])
def test_scores_of_other_versions_never_stand_beside_each_other(options):
    runs = [quiz_run("a", 10), quiz_run("b", 30, **options), quiz_run("c", 20)]
    rows = paired.benchmarks_beside(runs)
    shown = [[found and found.value for found in row.figures] for row in rows]
    assert shown == [[0.25, None, 0.5], [None, 0.75, None]]
    step = only(runs[:2])
    assert (step.changes, step.unpaired) == ([], {paired.OTHER_VERSION: ["truthfulqa/mc1"]})


def test_a_part_of_the_same_version_is_no_other_version():
    whole, part = quiz_run("a", 10), quiz_run("b", 30)
    rows = part.evaluation.records[5:25]
    part = replace(part, evaluation=replace(part.evaluation, records=rows))
    assert len(paired.benchmarks_beside([whole, part])) == 1
    assert only([whole, part]).unpaired == {paired.OTHER_ITEMS: ["truthfulqa/mc1"]}


def test_nothing_is_concluded_of_two_models_at_chance():
    step = only([quiz_run("a", 4, half=0.2), quiz_run("b", 16, half=0.2)])
    (change,) = step.changes
    assert change.low > 0
    assert change.verdict == AT_CHANCE
    assert step.verdict.comparisons == []
