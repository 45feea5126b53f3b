import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chat.sanitise import encodable, inert, inert_line

hostile = st.text(st.one_of(st.characters(), st.sampled_from("\x1b[]\x9b\x07\r\n\u202e\u2066\u2029\ud800a")))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x9b31mred", "31mred"),  # one byte for ESC [ on some terminals
        ("\x1b]0;owned\x07title", "]0;ownedtitle"),
        ("\x1b]8;;http://evil\x1b\\link", "]8;;http://evil\\link"),
        ("real\rfake", "realfake"),
        ("ab\b\bcd\x7f", "abcd"),
        ("user\u202etxt.exe\u202c", "usertxt.exe"),
        ("a\u2066b\u2069\u200f\u061cc", "abc"),
        ("pass\u200bword\ufeff", "password"),
        ("one\u2028two\x0bthree\x85four", "one\ntwo\nthree\nfour"),
        ("half \ud83d", "half \ufffd"),
        ("line\r\n\tnext", "line\n\tnext"),
        ("👩‍👩‍👧 🏳️‍🌈 שלום می‌خواهم é", "👩‍👩‍👧 🏳️‍🌈 שלום می‌خواهم é"),
    ],
)
def test_text_cannot_act_on_the_terminal(text, shown):
    assert inert(text) == shown


def test_every_control_and_bidi_character_is_gone():
    for code in range(sys.maxunicode + 1):
        kept = inert(chr(code))
        assert kept in ("\n", "\t") or not kept or unicodedata.category(kept) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(kept or "a") not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        )  # fmt: skip


@given(hostile, hostile)
def test_sanitising_piece_by_piece_equals_the_whole(first, second):
    assert inert(first + second) == inert(first) + inert(second)
    assert inert(inert(first)) == inert(first)


@given(hostile)
def test_what_is_printed_is_always_encodable(text):
    inert(text).encode()
    encodable(inert(text), "ascii").encode("ascii")


def test_a_line_stays_one_line():
    assert inert_line("a\n\n\tb\u2028c\x1b") == "a b c"
