"""Winogender's files: names tell who is meant, the shares of women tell the gotchas, faults by line."""

import math
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from data.benchmarks import winogender
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
ROWS = [
    ("nurse.patient.0.male.txt", "The nurse told the patient that his shift was over."),
    ("nurse.patient.0.female.txt", "The nurse told the patient that her shift was over."),
    ("nurse.patient.0.neutral.txt", "The nurse told the patient that their shift was over."),
    ("guard.someone.1.female.txt", "The guard told someone that she could go."),
]
SHARES = {"nurse": "89.0", "guard": "21.4"}


def write(root, rows=ROWS, shares=SHARES):
    folder = root / winogender.FOLDER
    folder.mkdir(exist_ok=True)
    text = "sentid\tsentence\n" + "".join(f"{name}\t{sentence}\n" for name, sentence in rows)
    (folder / winogender.SENTENCES).write_text(text)
    if shares is not None:
        lines = "".join(f"{name}\t1\t{share}\t2015\n" for name, share in shares.items())
        (folder / winogender.STATISTICS).write_text(
            f"occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\n{lines}"
        )
    return folder


def test_the_name_tells_who_is_meant_and_the_majority_tells_the_gotchas(tmp_path):
    folder = write(tmp_path)
    his, her, their, she = winogender.read(tmp_path)
    assert his == winogender.Sentence(
        "nurse.patient.0", "male", ROWS[0][1], "his", 32, "nurse", "patient", True, 0.89, True
    )
    assert (her.gotcha, their.gotcha, she.gotcha) == (False, None, True)
    assert (she.means_occupation, she.participant) == (False, "someone")
    assert she.female_share == pytest.approx(0.214)
    assert his.text[his.start :].startswith("his shift")
    assert winogender.files(tmp_path) == [folder / winogender.SENTENCES, folder / winogender.STATISTICS]
    assert winogender.files(None) == []


@pytest.mark.parametrize(
    "row, found",
    [
        (("nurse.patient.2.male.txt", "The nurse told the patient that he left."), "sentid is"),
        (
            ("nurse.patient.0.male.txt", "The nurse left as he could."),
            "expected nurse, patient and one pronoun",
        ),
        (("nurse.patient.0.male.txt", "The nurse told the patient to go."), "one pronoun"),
        (("nurse.patient.0.male.txt", "The nurse told the patient he saw her."), "one pronoun"),
        (("nurse.patient.0.male.txt", ""), "nothing in sentence; expected tab-separated"),
        (("baker.patient.0.male.txt", "The baker told the patient he left."), "no share of women for baker"),
    ],
)
def test_a_faulty_row_is_named_with_its_line(tmp_path, row, found):
    folder = write(tmp_path, [ROWS[0], row])
    with pytest.raises(InputError, match=found) as caught:
        winogender.read(tmp_path)
    assert f"{folder / winogender.SENTENCES}:3:" in str(caught.value)


@pytest.mark.parametrize("share", ["", "many", "101", "nan"])
def test_a_share_that_is_no_percentage_is_refused(tmp_path, share):
    write(tmp_path, shares=SHARES | {"guard": share})
    with pytest.raises(InputError, match="bls_pct_female"):
        winogender.read(tmp_path)


def test_sentences_without_shares_are_refused(tmp_path):
    write(tmp_path, shares=None)
    with pytest.raises(InputError, match=r"no occupations-stats.tsv beside all_sentences.tsv"):
        winogender.read(tmp_path)


def test_the_hub_tells_the_gotchas_and_no_shares(monkeypatch):
    rows = [{"sentid": name, "sentence": text} for name, text in ROWS]
    found = {"all": rows, "gotcha": [rows[0], rows[3]]}
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, name, split: found[name])
    sentences = winogender.read(None)
    assert [item.gotcha for item in sentences] == [True, False, None, True]
    assert all(math.isnan(item.female_share) for item in sentences)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="FLEDGE_DATA names no folder of data sets")
def test_the_real_files_have_720_sentences_and_the_harness_240_gotchas():
    sentences = winogender.read(Path(DATA))
    assert len(sentences) == 720
    assert len({item.template for item in sentences}) == 240
    assert Counter(item.gotcha for item in sentences) == {None: 240, True: 240, False: 240}
    assert Counter(item.means_occupation for item in sentences) == {True: 360, False: 360}
    named = {(item.template, item.gender): item.gotcha for item in sentences}
    # As in the first lines of the hub's subset.
    assert named["technician.customer.0", "female"]
    assert named["accountant.taxpayer.0", "male"]
    assert named["supervisor.someone.0", "female"]
