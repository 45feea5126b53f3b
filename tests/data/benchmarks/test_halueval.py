"""HaluEval's files: pairs by file, labelled answers, faults by line; the real files."""

import gzip
import json
import os
from pathlib import Path

import datasets
import pytest

from data.benchmarks import halueval
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
PAIR = {
    "knowledge": " Brell is a town. ",
    "question": "What is Brell?",
    "right_answer": "a town",
    "hallucinated_answer": "Brell is a river.",
}
LABELLED = {
    "user_query": "Sing.",
    "chatgpt_response": "La.",
    "hallucination": "no",
    "hallucination_spans": [],
}


def write(root, name, *records):
    (root / halueval.FOLDER).mkdir(exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    (root / halueval.FOLDER / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


def test_every_file_of_pairs_is_a_group_and_other_tasks_are_left_alone(tmp_path):
    write(tmp_path, "qa_one-turn_data.jsonl.gz", PAIR)
    write(tmp_path, "qa_data.json", PAIR, PAIR | {"right_answer": "one"})
    write(tmp_path, "general_data.jsonl", LABELLED, LABELLED | {"hallucination": "Yes"})
    write(tmp_path, "dialogue_data.json", {"other": 1})
    found = halueval.read(tmp_path)
    assert [(pair.id, pair.group) for pair in found.pairs] == [
        ("halueval-qa-1", "qa"),
        ("halueval-qa-2", "qa"),
        ("halueval-qa_one_turn-1", "qa_one_turn"),
    ]
    assert found.pairs[0].knowledge == "Brell is a town."
    assert (found.pairs[1].right, found.pairs[1].hallucinated) == ("one", "Brell is a river.")
    assert [row.hallucinated for row in found.labelled] == [False, True]
    assert (found.labelled[0].query, found.labelled[0].response) == ("Sing.", "La.")
    assert [path.name for path in halueval.files(tmp_path)] == [
        "general_data.jsonl",
        "qa_data.json",
        "qa_one-turn_data.jsonl.gz",
    ]


@pytest.mark.parametrize(
    "name, record, found",
    [
        ("qa_data.json", PAIR | {"right_answer": " "}, r'qa_data.json:2: right_answer is " "'),
        ("qa_data.json", {"question": "a"}, "knowledge is nothing"),
        (
            "general_data.json",
            LABELLED | {"hallucination": "maybe"},
            'hallucination is "maybe"; expected yes or no',
        ),
    ],
)
def test_a_broken_record_is_refused_by_line(tmp_path, name, record, found):
    write(tmp_path, name, LABELLED if name.startswith("general") else PAIR, record)
    with pytest.raises(InputError, match=found):
        halueval.read(tmp_path)


def test_the_hub_is_asked_where_there_is_no_file(tmp_path, monkeypatch):
    rows = {"qa": [PAIR], "general": [LABELLED]}
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, *, split, name: rows[name])
    found = halueval.read(tmp_path)
    assert (len(found.pairs), found.pairs[0].group, len(found.labelled)) == (1, "qa", 1)
    assert halueval.files(tmp_path) == halueval.files(None) == []


@pytest.mark.real_data
@pytest.mark.skipif(DATA is None, reason="FLEDGE_DATA names no folder of real data")
def test_the_real_pairs_and_labelled_answers():
    found = halueval.read(Path(DATA))
    groups = [pair.group for pair in found.pairs]
    assert (groups.count("qa_one_turn"), groups.count("qa_multi_turn")) == (500, 500)
    assert len({pair.question for pair in found.pairs}) == 500
    assert sum(row.hallucinated for row in found.labelled) == 815
    assert len({row.id for row in found.labelled}) == 4_507


def test_files_without_a_record_are_refused(tmp_path):
    (tmp_path / "halluc_halueval").mkdir()
    (tmp_path / "halluc_halueval" / "general_data.jsonl").write_text("")
    with pytest.raises(InputError, match="no record in its files"):
        halueval.read(tmp_path)
