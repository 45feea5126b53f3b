"""CrowS-Pairs' file: pairs in both directions, one version at a time, faults by line."""

import csv
import io
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from data.benchmarks import crows_pairs
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
COLUMNS = ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations", "anon_writer"]
ROW = ["0", 'The poor, "they" say, lie.', "The rich lie.", "stereo", "socioeconomic", "[]", "a1"]


def write(root, *rows, columns=COLUMNS, name="crows_pairs_anonymized.csv"):
    (root / crows_pairs.FOLDER).mkdir(exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    path = root / crows_pairs.FOLDER / name
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def test_a_pair_keeps_its_direction_type_and_writer(tmp_path):
    path = write(tmp_path, ROW, ["1", "He cooks. ", "She cooks.", "antistereo", "gender", "[]", "a2"])
    first, second = crows_pairs.read(tmp_path)
    assert first == crows_pairs.Pair(
        "crows_pairs-0", 'The poor, "they" say, lie.', "The rich lie.", "stereo", "socioeconomic", "a1"
    )
    assert (second.more, second.direction, second.writer) == ("He cooks.", "antistereo", "a2")
    assert crows_pairs.files(tmp_path) == [path]
    assert crows_pairs.files(None) == []


def test_a_revision_without_writers_is_read(tmp_path):
    write(tmp_path, ROW[1:5], columns=COLUMNS[1:5], name="crows_pairs_revised.csv")
    assert [pair.writer for pair in crows_pairs.read(tmp_path)] == [""]


def test_two_versions_are_never_mixed(tmp_path):
    write(tmp_path, ROW)
    write(tmp_path, ROW, name="crows_pairs_revised.csv")
    with pytest.raises(InputError, match="different versions cannot be compared"):
        crows_pairs.read(tmp_path)


@pytest.mark.parametrize(
    "place, value, found",
    [
        (1, " ", "expected a sentence in sent_more"),
        (3, "both", 'stereo_antistereo is "both"; expected stereo or antistereo'),
        (4, "", 'bias_type is ""'),
    ],
)
def test_a_faulty_row_is_named_with_its_line(tmp_path, place, value, found):
    path = write(tmp_path, ROW, [*ROW[:place], value, *ROW[place + 1 :]])
    with pytest.raises(InputError, match=found) as caught:
        crows_pairs.read(tmp_path)
    assert f"{path}:3:" in str(caught.value)


def test_a_file_without_pairs_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match="no pair of sentences"):
        crows_pairs.read(tmp_path)


def test_without_a_file_the_hub_is_asked_which_numbers_directions_and_types(monkeypatch):
    row = {
        "sent_more": "a b",
        "sent_less": "a c",
        "stereo_antistereo": 1,
        "bias_type": 2,
        "anon_writer": "a9",
    }
    loaded = {}

    def load(repository, **options):
        loaded[repository] = options
        return [row]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert crows_pairs.read(None) == [
        crows_pairs.Pair("crows_pairs-0", "a b", "a c", "antistereo", "gender", "a9")
    ]
    assert loaded == {crows_pairs.HUB_ID: {"split": "test", "revision": crows_pairs.REVISION}}


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="FLEDGE_DATA names no folder of data sets")
def test_the_real_file_has_its_published_counts():
    pairs = crows_pairs.read(Path(DATA))
    assert len(pairs) == 1508
    assert Counter(pair.direction for pair in pairs) == {"stereo": 1290, "antistereo": 218}
    by_type = Counter(pair.bias_type for pair in pairs)
    assert set(by_type) == set(crows_pairs.BIAS_TYPES)
    assert (by_type["race-color"], by_type["gender"], by_type["disability"]) == (516, 262, 60)
