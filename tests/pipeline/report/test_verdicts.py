"""What the report says in words, and the answers that it shows."""

from dataclasses import replace

import pytest

from pipeline.report import verdicts
from pipeline.report.read import read_chains


@pytest.fixture(scope="module")
def chain(artificial_run):
    return read_chains(artificial_run)[0]


def test_the_words_follow_the_comparisons(chain):
    steps = {(step.before, step.after): step for step in verdicts.stage_verdicts(chain)}
    step = steps["sft", "ppo"]
    groups = {word: [row.name for row in rows] for word, rows in step.groups()}
    assert "facts/never/hallucinated" in groups["improved"]
    assert any(text.startswith("improved: ") for text in step.sentences())
    gold = next(row for row in step.comparisons if row.name == "gold/mean")
    assert step.word == gold.verdict


def test_an_interval_without_0_that_is_no_evidence_says_why(chain):
    step = verdicts.stage_verdicts(chain)[-1]
    gold = next(row for row in step.comparisons if row.name == "gold/mean")
    doubtful = replace(gold, value=0.03, low=0.01, high=0.05, holm_p=0.0543, verdict="no evidence")
    wide, improved = replace(doubtful, low=-0.01), replace(gold, holm_p=0.001, verdict="improved")
    said = replace(step, comparisons=[doubtful]).sentences()
    assert said == ["no evidence of a change: gold reward (+0.030, +0.010 to +0.050; corrected p 0.054)"]
    for other in (wide, improved):
        assert "corrected" not in replace(step, comparisons=[other]).sentences()[0]


def test_transcripts_show_every_group_and_every_model(chain):
    rows = verdicts.transcripts(chain)
    assert len(rows) == 12
    assert len({row["group"] for row in rows}) > 6
    assert all([stage for stage, _, _ in row["answers"]] == ["base", "sft", "ppo"] for row in rows)


def test_answers_that_read_and_were_judged_alike_stand_once(chain):
    record = next(record for record in chain.evaluation.records if record.evaluation == "form")
    said = {name: replace(record, completion=text) for name, text in (("base", " A cow."), ("sft", "A cow."))}
    right, wrong = (
        replace(record, score=score, outcome=word) for score, word in ((1, "right"), (-1, "wrong"))
    )
    one = [("base", said["base"], right), ("sft", said["sft"], right), ("ppo", said["sft"], wrong)]
    assert [names for names, _, _ in verdicts.by_answer(one)] == ["base, sft", "ppo"]
    assert [names for names, _, _ in verdicts.by_answer([(*row[:2], None) for row in one])] == [
        "base, sft, ppo"
    ]
