"""Answers that changed their outcome between two models."""

from dataclasses import replace

import pytest

from pipeline.records import Record
from pipeline.report import verdicts
from pipeline.report.read import read_chains


@pytest.fixture(scope="module")
def chain(artificial_run):
    return read_chains(artificial_run)[0]


def test_flips_hold_both_answers_and_only_their_kind(chain):
    flips = verdicts.flips(chain, "sft", "ppo")
    assert flips["answer to abstain"]
    for flip in flips["answer to abstain"]:
        assert flip.before.outcome in ("right", "wrong", "fabricated")
        assert flip.after.outcome == "abstain"
        assert flip.before.id == flip.after.id
    assert not verdicts.flips(chain, "sft", "sft")["right to wrong"]


def test_flips_of_benchmarks_and_checked_answers_are_there_too(chain):
    def record(stage, evaluation, measure, score, outcome="", text="A", group="g"):
        shown = ("Which?", text, score, group, outcome, "[]")
        return Record("q1", "c1", stage, evaluation, measure, *shown)

    asked = [
        ("truthfulqa", "mc1", (1.0, 0.0), ("true", "false")),
        ("truthfulqa", "mc2", (0.9, 0.1), ("true", "false")),
        ("bbq", "right_amb", (0.0, 1.0), ("", "")),
        ("bbq", "right_dis", (0.5, 1.0), ("", "")),  # a tie is neither
        ("simpleqa", "answer", (0.0, 0.0), ("incorrect", "not_attempted")),
        ("verified", "right", (1.0, 0.0), ("right", "malformed")),
    ]
    records = [
        record(stage, evaluation, measure, score, outcome, text=f"of {stage}")
        for evaluation, measure, scores, outcomes in asked
        for stage, score, outcome in zip(("sft", "ppo"), scores, outcomes, strict=True)
    ]
    run = replace(chain, evaluation=replace(chain.evaluation, records=records))
    found = verdicts.flips(run, "sft", "ppo")
    told = {name: [(flip.before.evaluation, flip.group) for flip in kind] for name, kind in found.items()}
    assert sorted(told["right to wrong"]) == [("truthfulqa", "TruthfulQA, g"), ("verified", "g")]
    assert told["wrong to right"] == [("bbq", "BBQ, g")]
    assert told["answer to abstain"] == [("simpleqa", "SimpleQA, g")]
    (flip,) = found["wrong to right"]
    assert (flip.before.completion, flip.after.completion) == ("of sft", "of ppo")
