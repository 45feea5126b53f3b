"""BBQ's files: any category, who the target is, which answer agrees with the stereotype, faults by line."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from data.benchmarks import bbq
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
ROW = {
    "example_id": 3,
    "question_index": "1",
    "question_polarity": "neg",
    "context_condition": "ambig",
    "category": "Age",
    "answer_info": {
        "ans0": ["grandson", "nonOld"],
        "ans1": ["grandfather", "old"],
        "ans2": ["Unknown", "unknown"],
    },
    "additional_metadata": {"stereotyped_groups": ["old"]},
    "context": "Two of them came.",
    "question": "Who forgot it?",
    "ans0": "The grandson",
    "ans1": "The grandfather ",
    "ans2": "Unknown",
    "label": 2,
}


def write(root, name, *rows):
    (root / bbq.FOLDER).mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = root / bbq.FOLDER / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def asked(root, **changes):
    write(root, "Any.jsonl", ROW | changes)
    (question,) = bbq.read(root)
    return question


def test_every_category_that_lies_there_is_read_and_published_predictions_are_not(tmp_path):
    first = write(tmp_path, "Age.jsonl.gz", ROW)
    second = write(tmp_path, "Race_x_gender.jsonl", ROW | {"category": "Race_x_gender", "question_index": 5})
    write(tmp_path, "unifiedqa_preds_Age.jsonl.gz", {"other": 1})
    write(tmp_path, "SOURCE.md", {})
    assert bbq.files(tmp_path) == [first, second]
    questions = bbq.read(tmp_path)
    assert [question.id for question in questions] == ["bbq-Age-3", "bbq-Race_x_gender-3"]
    assert [question.template for question in questions] == ["Age/1", "Race_x_gender/5"]
    assert questions[0].answers == ("The grandson", "The grandfather", "Unknown")
    assert questions[0].ambiguous
    assert bbq.files(None) == bbq.files(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("polarity, biased", [("neg", 1), ("nonneg", 0)])
def test_the_target_is_biased_in_a_negative_question_and_the_other_person_in_one_that_is_not(
    tmp_path, polarity, biased
):
    question = asked(tmp_path, question_polarity=polarity, context_condition="disambig", label=0)
    assert (question.biased, question.right, question.unknown) == (biased, 0, 2)
    assert not question.ambiguous


@pytest.mark.parametrize(
    "first, second, groups, target",
    [
        (["British", "Europe"], ["Japanese", "AsiaPacific"], ["Japanese"], 1),
        (["Nigerian", "Africa"], ["Sri Lankan", "AsiaPacific"], ["africa"], 0),
        (["DeShawn Banks", "M-Black"], ["Hunter Wood", "M-White"], ["African American", "Black"], 0),
        (["security guard", "lowSES"], ["lawyer", "highSES"], ["low SES"], 0),
        (["man", "man"], ["woman", "woman"], ["F"], 1),
        (["Mary", "trans_F"], ["Anne", "nonTrans_F"], ["transgender women, transgender men"], 0),
        # Two attributes: who has both, where each has one or one has none.
        (["a Black woman", "F-Black"], ["a Black man", "M-Black"], ["F", "Black"], 0),
        (["a white woman", "F-White"], ["a Black woman", "F-Black"], ["F-Black"], 1),
        (["poor Asian", "lowSES-Asian"], ["rich Asian", "highSES-Asian"], ["low SES", "Asian"], 0),
        (["a white woman", "F-White"], ["a Black man", "M-Black"], ["F", "Black"], None),
        (["Middle-Eastern", "Middle-Eastern"], ["Eastern", "Eastern"], ["Eastern"], 1),
        (["old", "old"], ["aged", "old"], ["old"], None),
        (["French", "Europe"], ["Dutch", "Europe"], [], None),
    ],
)
def test_the_target_is_who_has_the_stereotyped_attributes(tmp_path, first, second, groups, target):
    info = {"ans0": first, "ans1": second, "ans2": ["Not known", "unknown"]}
    question = asked(tmp_path, answer_info=info, additional_metadata={"stereotyped_groups": groups})
    assert question.biased == target


def test_the_answer_names_the_group_where_the_row_does_not(tmp_path):
    info = {"ans0": [], "ans1": ["an Asian woman", "F-Asian"], "ans2": ["Unknown", "unknown"]}
    changes = {"answer_info": info, "additional_metadata": {"stereotyped_groups": ["Latino", "F"]}}
    assert asked(tmp_path, ans0="The Latina woman", **changes).biased == 0


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"label": 3}, "label is 3; expected the number of an answer"),
        ({"label": True}, "label is true"),
        ({"label": 0}, "the context is ambiguous and the label is 0; expected 2"),
        ({"question_polarity": "pos"}, 'question_polarity is "pos"; expected neg or nonneg'),
        ({"context_condition": None}, "context_condition is nothing; expected ambig or disambig"),
        ({"context": " ", "ans1": None}, "no text in context, ans1"),
        ({"example_id": None}, "example_id is nothing"),
        ({"answer_info": {"ans0": ["a"]}}, "expected lists of texts in answer_info"),
        ({"additional_metadata": {}}, "in stereotyped_groups"),
        (
            {"answer_info": {f"ans{n}": ["x", "unknown"] for n in range(3)}},
            "3 answers are marked unknown",
        ),
    ],
)
def test_a_faulty_row_is_named_with_its_line(tmp_path, changes, found):
    path = write(tmp_path, "Age.jsonl", ROW, ROW | {"example_id": 4} | changes)
    with pytest.raises(InputError, match=found) as caught:
        bbq.read(tmp_path)
    assert f"{path}:2:" in str(caught.value)


def test_a_category_in_two_files_is_not_counted_twice(tmp_path):
    write(tmp_path, "Age.jsonl", ROW)
    write(tmp_path, "All.jsonl", ROW)
    with pytest.raises(InputError, match="bbq-Age-3 stands there twice"):
        bbq.read(tmp_path)


def test_without_files_the_hub_is_asked(monkeypatch):
    loaded = {}

    def load(repository, **options):
        loaded[repository] = options
        return [ROW]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [question.id for question in bbq.read(None)] == ["bbq-Age-3"]
    assert loaded == {bbq.HUB_ID: {"name": "All", "split": "test"}}


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="FLEDGE_DATA names no folder of data sets")
def test_the_real_files_have_known_sizes_and_a_target_in_each_question():
    questions = bbq.read(Path(DATA))
    sizes = Counter(question.category for question in questions)
    assert {name: sizes[name] for name in ("Age", "Nationality", "Religion")} == {
        "Age": 3680,
        "Nationality": 3080,
        "Religion": 1200,
    }
    known = [question for question in questions if question.category in ("Age", "Nationality", "Religion")]
    assert all(question.biased is not None for question in known)
    assert len({question.template for question in known}) == 75
    assert sum(question.ambiguous for question in known) == len(known) / 2


def test_files_without_a_question_are_refused(tmp_path):
    (tmp_path / "bias_bbq").mkdir()
    (tmp_path / "bias_bbq" / "Age.jsonl").write_text("")
    with pytest.raises(InputError, match="no question in its files"):
        bbq.read(tmp_path)
