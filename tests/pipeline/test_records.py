"""Records survive the file, whatever the models said."""

import math

import pytest

from data.errors import InputError
from pipeline.records import Figure, Record, from_json, read_records, to_json, write_records

RECORD = Record(
    "a", "c", "sft", "facts", "answer", "Who?", 'He said "no"\u2028\n\u202e', 1.0, "often", "right", "", 3.0
)


def test_records_survive_the_file(tmp_path):
    unscored = Record("b", "c", "sft", "facts", "answer", "", "", math.nan)
    assert write_records(tmp_path / "records.jsonl", [RECORD, unscored]) == 2
    first, second = read_records(tmp_path / "records.jsonl")
    assert first == RECORD
    assert math.isnan(second.score)


def test_an_unscorable_item_is_null_not_zero():
    assert to_json(Record("b", "c", "sft", "f", "m", "", "", math.nan))["score"] is None


def test_figures_survive_json():
    figure = Figure("kl", "ppo", 1.0, 0.5, 1.5, 7, 3, "nats", {"null": 0.0}, 2, "fledge evaluate x")
    assert from_json(Figure, to_json(figure)) == figure
    names = "name, stage, value, low, high, n, clusters, unit, nulls, seed, command"
    assert ", ".join(to_json(figure)) == names


def test_a_line_that_is_no_record_is_named(tmp_path):
    write_records(tmp_path / "records.jsonl", [RECORD])
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"id": "b"}\n')
    with pytest.raises(InputError, match=r"records\.jsonl:2"):
        read_records(tmp_path / "records.jsonl")
