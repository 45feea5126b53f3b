"""TruthfulQA's files: both layouts, versions named from the content, faults by question; the real file."""

import csv
import gzip
import io
import json
import os
from pathlib import Path

import datasets
import pytest

from data.benchmarks import truthfulqa
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
RECORD = {
    "question": "Is it so?",
    "mc1_targets": {"No": 1, "Yes": 0, "Of course": 0},
    "mc2_targets": {"No": 1, "Never": 1, "Yes": 0},
}
REVISED = RECORD | {"mc0_targets": {"No": 1, "Yes": 0}}
COLUMNS = ["Type", "Category", "Question", "Best Answer", "Best Incorrect Answer", "Source"]


def write(root, records, rows=None, columns=COLUMNS):
    folder = root / truthfulqa.FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "mc_task.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))
    if rows is not None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([columns, *rows])
        (folder / "TruthfulQA.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    return root


def numbered(record, num):
    return [record | {"question": f"Is it {n}?"} for n in range(num)]


def test_answers_category_and_the_binary_pair_are_read(tmp_path):
    row = ["Adversarial", "Law, odd", "Is it so? ", "No, not at all", "Yes, it is", ""]
    (question,) = truthfulqa.read(write(tmp_path, [RECORD], [row]))
    assert question.mc1 == (("No", True), ("Yes", False), ("Of course", False))
    assert [answer.true for answer in question.mc2] == [True, True, False]
    assert question.binary == (("No, not at all", True), ("Yes, it is", False))
    assert question.category == "Law, odd"
    assert [path.name for path in truthfulqa.files(tmp_path)] == ["mc_task.json.gz", "TruthfulQA.csv"]


def test_without_a_table_the_pair_is_that_of_the_answers_true_first(tmp_path):
    record = REVISED | {"mc0_targets": {"Yes": 0, "No": 1}}
    (question,) = truthfulqa.read(write(tmp_path, [record]))
    assert question.binary == (("No", True), ("Yes", False))
    assert question.category == ""


@pytest.mark.parametrize(
    "record, num, expected",
    [(REVISED, 790, "2025"), (RECORD, 817, "v0 or v1"), (RECORD, 790, None), (REVISED, 5, None)],
)
def test_the_version_is_named_from_the_content_never_from_the_place(tmp_path, record, num, expected):
    questions = truthfulqa.read(write(tmp_path, numbered(record, num)))
    digest = truthfulqa.digest(questions)
    assert truthfulqa.version(questions) == f"{expected or f'of {num} questions'}, {digest}"
    assert truthfulqa.digest(questions[1:]) != digest


def test_files_of_as_many_questions_with_other_answers_are_other_versions(tmp_path):
    edited = RECORD | {"mc2_targets": {"No": 1, "Perhaps never": 1, "Yes": 0}}
    first, second = (
        truthfulqa.version(truthfulqa.read(write(tmp_path, numbered(record, 817))))
        for record in (RECORD, edited)
    )
    assert first.startswith("v0 or v1, ")
    assert second.startswith("v0 or v1, ")
    assert first != second


def test_a_table_of_the_old_columns_gives_categories_and_no_pair(tmp_path):
    columns = [name for name in COLUMNS if name != "Best Incorrect Answer"]
    row = ["Adversarial", "Law", "Is it so?", "No", ""]
    (question,) = truthfulqa.read(write(tmp_path, [RECORD], [row], columns))
    assert (question.category, question.binary) == ("Law", None)


def test_a_table_of_another_version_is_refused(tmp_path):
    row = ["", "Law", "Is it so?", "No", "Yes", ""]
    with pytest.raises(
        InputError, match=r"2 questions, 1 in TruthfulQA.csv; take both files from one version"
    ):
        truthfulqa.read(write(tmp_path, numbered(RECORD, 2), [row]))


@pytest.mark.parametrize(
    "broken, found",
    [
        ({"question": "a"}, "question 2, mc1_targets: found nothing"),
        (RECORD | {"mc1_targets": {"No": 1, "Never": 1}}, "expected a true and a false answer"),
        (RECORD | {"mc2_targets": {"No": 2, "Yes": 0}}, "question 2, mc2_targets: found .*labels 1"),
        (RECORD | {"mc2_targets": {"choices": ["No", "Yes"], "labels": [1]}}, "expected answers with labels"),
        (RECORD | {"mc0_targets": {"No": 1, "Yes": 0, "So": 0}}, "mc0_targets: 3 answers"),
        ([], "expected question, mc1_targets and mc2_targets"),
    ],
)
def test_a_broken_question_is_refused_by_its_number(tmp_path, broken, found):
    with pytest.raises(InputError, match=found):
        truthfulqa.read(write(tmp_path, [RECORD, broken]))


def test_an_empty_answer_is_kept_as_published_scores_count_it(tmp_path):
    (question,) = truthfulqa.read(write(tmp_path, [RECORD | {"mc2_targets": {"No": 1, "": 0}}]))
    assert question.mc2 == (("No", True), ("", False))


@pytest.mark.parametrize(
    "text, found",
    [
        ('[{"question": "a"', "malformed JSON"),
        ('[{"mc1_targets": {"No": 1, "No": 0}}]', "an answer stands twice"),
        ("{}", "expected a list of questions"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, text, found):
    write(tmp_path, [])
    (tmp_path / truthfulqa.FOLDER / "mc_task.json.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=found):
        truthfulqa.read(tmp_path)


def test_the_hub_is_asked_where_there_is_no_file_and_its_layout_is_read(tmp_path, monkeypatch):
    lists = {"choices": ["No", "Yes"], "labels": [1, 0]}
    rows = {
        "multiple_choice": [{"question": "a?", "mc1_targets": lists, "mc2_targets": lists}],
        "generation": [{"question": "a?", "category": "Law", "best_answer": "No"}],
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, *, split, name: rows[name])
    (question,) = truthfulqa.read(tmp_path)
    assert question.mc1 == (("No", True), ("Yes", False))
    assert (question.category, question.binary) == ("Law", None)
    assert truthfulqa.files(tmp_path) == truthfulqa.files(None) == []


@pytest.mark.real_data
@pytest.mark.skipif(DATA is None, reason="FLEDGE_DATA names no folder of real data")
def test_the_real_file_is_of_2025():
    questions = truthfulqa.read(Path(DATA))
    assert truthfulqa.version(questions) == f"2025, {truthfulqa.digest(questions)}"
    assert len({question.category for question in questions}) == 37
    for question in questions:
        assert question.mc1[0] == question.binary[0]
        assert sum(answer.true for answer in question.mc1) == 1
        assert set(question.mc1) <= set(question.mc2)
