"""Strict reading of text, and cutting it at paragraphs."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.text import chunks, find_files, locate, read_text, unwrap


@given(st.text(st.sampled_from("ab .!\n"), max_size=200) | st.text(max_size=80), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_chunks_lose_nothing_but_white_space(text, size):
    pieces = chunks(text, size)
    assert all(1 <= len(piece) <= size for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_chunks_are_cut_at_paragraphs_then_sentences_then_words():
    assert chunks("one\n\ntwo\n\nthree", 9) == ["one\n\ntwo", "three"]
    assert chunks("It was late. He went home at last.", 20) == ["It was late.", "He went home at", "last."]
    assert chunks("abcdefgh", 3) == ["abc", "def", "gh"]
    assert chunks(" \n\n ", 3) == []


def test_unwrap_joins_prose_and_keeps_verse():
    lines = [
        "It was a dark night, and the wind blew over",
        "the hills, and nobody was out but the old man",
        "of the mill.",
    ]
    prose = "\n".join(lines)
    verse = "Tiger, tiger, burning bright\nIn the forests of the night"
    indented = "A long line that is clearly more than forty characters,\n    and an indented one."
    assert unwrap(f"{prose}\n\n{verse}\n \n{indented}") == "\n\n".join(
        [prose.replace("\n", " "), verse, indented]
    )


def test_text_is_read_strictly(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert read_text(path) == "one\ntwo\nthree"
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress("Brücke".encode()))
    assert read_text(packed) == "Brücke"
    bad = {
        b"ab\xffc": "invalid UTF-8 .*byte 2",
        b"ab\0": "NUL byte at byte 2",
        b"\xef\xbb\xbfab\0": "NUL byte at byte 5",
    }
    for content, found in bad.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.txt: .*{found}"):
            read_text(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


def test_folders_are_searched_in_name_order_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/c.txt", ".git/d.txt", "e.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert find_files(tmp_path, (".txt",)) == [tmp_path / "a/c.txt", tmp_path / "b.txt"]
    assert find_files(tmp_path / "e.md", (".txt",)) == [tmp_path / "e.md"]
    with pytest.raises(InputError, match=r"holds no file that ends in \.jsonl"):
        find_files(tmp_path, (".jsonl",))
    with pytest.raises(InputError, match="no such file or folder"):
        find_files(tmp_path / "none", (".txt",))


def test_a_path_is_looked_for_below_the_data_root_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_text("x")
    assert locate("a.txt", tmp_path / "root") == tmp_path / "root" / "a.txt"
    assert locate("b.txt", tmp_path / "root").name == "b.txt"
    assert not locate("b.txt", tmp_path / "root").is_absolute()
