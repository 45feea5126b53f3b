"""SimpleQA's file: questions, what they are about, faults by line; the real file."""

import csv
import gzip
import io
import os
from pathlib import Path

import datasets
import pytest

from data.benchmarks import simpleqa
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
METADATA = "{'topic': 'Art', 'answer_type': 'Date', 'urls': ['https://a.org/b', 'https://c.org']}"


def write(root, *rows):
    (root / simpleqa.FOLDER).mkdir(exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["metadata", "problem", "answer"], *rows])
    path = root / simpleqa.FOLDER / "simple_qa_test_set.csv.gz"
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    return path


def test_a_question_keeps_its_topic_and_the_page_that_it_is_about(tmp_path):
    path = write(tmp_path, [METADATA, 'When, "exactly"?', " 1 June 1966"], ["", "Who?\nSay.", "Ada"])
    first, second = simpleqa.read(tmp_path)
    assert first == simpleqa.Question(
        "simpleqa-1", 'When, "exactly"?', "1 June 1966", "Art", "Date", "https://a.org/b"
    )
    assert second == simpleqa.Question("simpleqa-2", "Who?\nSay.", "Ada")
    assert simpleqa.files(tmp_path) == [path]
    assert simpleqa.files(None) == []


@pytest.mark.parametrize(
    "row, found",
    [
        ([METADATA, "Who?", ""], r'simple_qa_test_set.csv.gz:3: answer is ""; expected text'),
        ([METADATA, "Who?"], "answer is nothing"),
        ([METADATA, " ", "Ada"], "problem is"),
        (["__import__('os')", "Who?", "Ada"], "expected a dictionary with topic"),
        (["['Art']", "Who?", "Ada"], "expected a dictionary with topic"),
    ],
)
def test_a_broken_row_is_refused_by_line(tmp_path, row, found):
    write(tmp_path, [METADATA, "When?", "1966"], row)
    with pytest.raises(InputError, match=found):
        simpleqa.read(tmp_path)


def test_a_file_without_a_question_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match="no question; expected the columns"):
        simpleqa.read(tmp_path)


def test_the_hub_is_asked_where_there_is_no_file(tmp_path, monkeypatch):
    rows = [{"metadata": METADATA, "problem": "Who?", "answer": "Ada"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, *, split: {"test": rows}[split])
    assert simpleqa.read(tmp_path)[0].topic == "Art"


@pytest.mark.real_data
@pytest.mark.skipif(DATA is None, reason="FLEDGE_DATA names no folder of real data")
def test_the_real_questions():
    questions = simpleqa.read(Path(DATA))
    assert len(questions) == len({question.question for question in questions}) == 4_326
    assert len({question.topic for question in questions}) == 10
    assert all(question.source for question in questions)
