"""WinoBias' files: who is meant and who else is there, pro and anti by line, faults by line."""

import gzip
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from data.benchmarks import winobias
from data.errors import InputError

DATA = os.environ.get("FLEDGE_DATA")
PRO = "1 [The developer] argued with the designer because [he] did not like [his] desk."
ANTI = PRO.replace("[he]", "[she]").replace("[his]", "[her]")


def write(root, pro=(PRO,), anti=(ANTI,), kind="type1", split="dev", ending=""):
    (root / winobias.FOLDER).mkdir(exist_ok=True)
    for side, lines in (("pro", pro), ("anti", anti)):
        path = root / winobias.FOLDER / f"{side}_stereotyped_{kind}.txt.{split}{ending}"
        text = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(text) if ending else text)
    return root / winobias.FOLDER


def one(root, line):
    write(root, [line], [line])
    sentence, _ = winobias.read(root)
    return sentence


def test_who_is_meant_is_in_brackets_and_the_other_occupation_is_found(tmp_path):
    write(tmp_path)
    anti, pro = winobias.read(tmp_path)
    text = "The developer argued with the designer because he did not like his desk."
    assert pro == winobias.Sentence(
        "winobias-type1-dev-1", "pro", "type1", "dev", text, "he", "developer", "designer"
    )
    assert (anti.side, anti.pronoun, anti.pair) == ("anti", "she", pro.pair)


@pytest.mark.parametrize(
    "line, text, meant, other",
    [
        (
            "7 The mover met [the tailor] 's son and paid [him] .",
            "The mover met the tailor's son and paid him.",
            "tailor",
            "mover",
        ),
        (
            "7 The clerk told the [the chief] that [he] won, twice.",
            "The clerk told the chief that he won, twice.",
            "chief",
            "clerk",
        ),
        (
            "7 The cook asked the [ nurse] and met [her].",
            "The cook asked the nurse and met her.",
            "nurse",
            "cook",
        ),
        (
            "7 The farmer hired [an assistant] and told [him].",
            "The farmer hired an assistant and told him.",
            "assistant",
            "farmer",
        ),
        (
            "7 A nurse saw [the construction worker] and led [him].",
            "A nurse saw the construction worker and led him.",
            "construction worker",
            "nurse",
        ),
        (
            "7 [The guard] knew the cook and hired the maid, a cleaner, as [he] was old.",
            "The guard knew the cook and hired the maid, a cleaner, as he was old.",
            "guard",
            "cleaner",
        ),
        # A third occupation: who else is there is of the other list and comes first.
        (
            "7 The guard knew [the cleaner] and sent [her] to the manager.",
            "The guard knew the cleaner and sent her to the manager.",
            "cleaner",
            "guard",
        ),
        (
            "7 The nurse, not the cleaner, saw [the clerk] and the CEO and hit [her].",
            "The nurse, not the cleaner, saw the clerk and the CEO and hit her.",
            "clerk",
            "CEO",
        ),
    ],
)
def test_sentences_are_written_plainly(tmp_path, line, text, meant, other):
    sentence = one(tmp_path, line)
    assert (sentence.text, sentence.meant, sentence.other) == (text, meant, other)
    assert sentence.pair.endswith("-7")


def test_splits_and_types_are_those_of_the_files(tmp_path):
    folder = write(tmp_path, ending=".gz")
    write(tmp_path, kind="type3", split="valid")
    (folder / "generalized_swaps.txt").write_text("he\tshe")
    (folder / winobias.FEMALE).write_text("designer\n")
    assert {(item.kind, item.split) for item in winobias.read(tmp_path)} == {
        ("type1", "dev"),
        ("type3", "valid"),
    }
    assert {item.split for item in winobias.read(tmp_path, "valid")} == {"valid"}
    assert [path.name for path in winobias.files(tmp_path, "dev")] == [
        "anti_stereotyped_type1.txt.dev.gz",
        "pro_stereotyped_type1.txt.dev.gz",
        "female_occupations.txt",
    ]
    assert len(winobias.files(tmp_path)) == 5
    assert winobias.files(None) == winobias.files(tmp_path / "elsewhere") == []
    with pytest.raises(InputError, match="no sentence of split 'test'; there are dev, valid"):
        winobias.read(tmp_path, "test")


def test_the_lists_of_the_folder_count_where_there_are_any(tmp_path):
    folder = write(
        tmp_path,
        ["1 [The pilot] met the dancer and fed [him]."],
        ["1 [The pilot] met the dancer and fed [her]."],
    )
    with pytest.raises(InputError, match="expected another occupation"):
        winobias.read(tmp_path)
    (folder / winobias.MALE).write_text("pilot\n\n")
    (folder / winobias.FEMALE).write_text("dancer")
    assert {item.other for item in winobias.read(tmp_path)} == {"dancer"}


@pytest.mark.parametrize(
    "line, found",
    [
        ("[The developer] met the designer and fed [him].", "expected the line's number first"),
        (
            "2 The developer met the designer and fed [him].",
            "expected who is meant and a pronoun in brackets",
        ),
        (
            "2 [The developer] met the designer and fed him.",
            "expected who is meant and a pronoun in brackets",
        ),
        (
            "2 [The developer] met the dancer and fed [him].",
            "expected another occupation .* beside developer",
        ),
    ],
)
def test_a_faulty_line_is_named_with_its_place(tmp_path, line, found):
    folder = write(tmp_path, [PRO, line], [ANTI])
    with pytest.raises(InputError, match=found) as caught:
        winobias.read(tmp_path)
    assert f"{folder / 'pro_stereotyped_type1.txt.dev'}:2:" in str(caught.value)


def test_a_line_without_its_counterpart_is_refused(tmp_path):
    write(tmp_path, [PRO, "2" + PRO[1:]], [ANTI])
    with pytest.raises(
        InputError, match="1 lines are pro or anti alone, the first of them winobias-type1-dev-2"
    ):
        winobias.read(tmp_path)


def test_without_files_the_hub_is_asked_which_marks_words(monkeypatch):
    row = {
        "tokens": ["The", "construction", "worker", "met", "the", "nurse", "and", "he", "left", "."],
        "coreference_clusters": ["0", "2", "7", "7"],
    }
    asked = []

    def load(repository, name, split):
        asked.append((name, split))
        return [row]

    monkeypatch.setattr(datasets, "load_dataset", load)
    sentences = winobias.read(None, "dev")
    assert Counter((item.kind, item.side) for item in sentences) == dict.fromkeys(
        [(kind, side) for kind in ("type1", "type2") for side in ("pro", "anti")], 1
    )
    first = sentences[0]
    assert first.text == "The construction worker met the nurse and he left."
    assert (first.pronoun, first.meant, first.other) == ("he", "construction worker", "nurse")
    assert ("type2_anti", "validation") in asked


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="FLEDGE_DATA names no folder of data sets")
def test_the_real_files_have_396_lines_of_each_kind():
    sentences = winobias.read(Path(DATA))
    counts = Counter((item.kind, item.split, item.side) for item in sentences)
    assert len(counts) == 8
    assert set(counts.values()) == {396}
    # Who is meant is the one of the expected gender in pro, and never that in anti, but for slips of the files.
    male = {name.strip() for name in (Path(DATA) / winobias.FOLDER / winobias.MALE).read_text().split("\n")}
    right = Counter(
        (item.side, (item.meant in male) == (item.pronoun in ("he", "him", "his"))) for item in sentences
    )
    assert right["pro", False] + right["anti", True] <= 6, right
