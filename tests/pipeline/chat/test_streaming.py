import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.chat.streaming import TextStream, cut_at_stop


def decode(tokens):
    return bytes(tokens).decode(errors="replace")


def pieces(stream, data):
    return [stream.push(byte) for byte in data] + [stream.finish()]


def run_decode(tokens):
    """Byte fallback: a run of bytes is all replacement characters unless the whole run is valid."""
    try:
        return bytes(tokens).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(tokens)


def stripping(tokens):
    """As tokenizers do that put a space before words: none before the first."""
    return decode(tokens).removeprefix(" ")


def test_half_characters_wait_until_they_are_whole():
    assert pieces(TextStream(decode), "aé🦜".encode()) == ["a", "", "é", "", "", "", "🦜", ""]


def test_bytes_that_never_become_a_character_are_shown_in_the_end():
    stream = TextStream(decode)
    assert pieces(stream, b"a\xf0\x9f") == ["a", "", "", "\ufffd"]
    assert stream.text == "a\ufffd"


def test_a_stop_string_across_tokens_is_never_shown_nor_what_follows():
    stream = TextStream(decode, ["END"])
    assert pieces(stream, b"anENENDx")[:8] == ["a", "n", "", "", "EN", "", "", ""]
    assert (stream.text, stream.stopped) == ("anEN", True)


def test_the_beginning_of_a_stop_string_that_does_not_come_is_shown():
    stream = TextStream(decode, ["END"])
    assert pieces(stream, b"an EN")[-1] == "EN"
    assert (stream.text, stream.stopped) == ("an EN", False)


def test_of_several_stops_the_first_to_be_complete_counts():
    assert cut_at_stop("one two three", ["three", "two"]) == ("one ", True)
    assert cut_at_stop("abcd", ["abcd", "bc"]) == ("a", True)


def test_white_space_before_the_answer_is_left_out_but_an_empty_line_stops():
    stream = TextStream(decode, ["\n"], strip_start=True)
    assert "".join(pieces(stream, b"  Paris is\nQuestion")) == "Paris is"
    empty = TextStream(decode, ["\n"], strip_start=True)
    assert "".join(pieces(empty, b" \nParis")) == ""
    assert empty.stopped


def test_nothing_shown_is_taken_back_where_a_tokenizer_rewrites_its_last_characters():
    stream = TextStream(run_decode)
    assert "".join(pieces(stream, "é🦜".encode())) == "é🦜"


@pytest.mark.parametrize("decode", [decode, run_decode, stripping])
def test_a_long_text_is_that_of_all_tokens_and_each_token_costs_the_same(decode):
    decoded = []

    def counted(tokens):
        decoded.append(len(tokens))
        return decode(tokens)

    text = "é🦜 日本語テキスト and so on; " * 100
    stream = TextStream(counted, ["END"])
    assert "".join(pieces(stream, text.encode())) == stream.text == decode(text.encode())
    assert max(decoded) < 60


@given(st.text(max_size=80), st.lists(st.text(min_size=1, max_size=4), max_size=3))
@example("\x80", ["\ufffd"])  # half of a character reads as that stop
def test_the_pieces_are_the_text_before_the_first_stop(text, stops):
    stream = TextStream(decode, stops)
    assert "".join(pieces(stream, text.encode())) == stream.text == cut_at_stop(text, stops)[0]


def test_an_empty_stop_is_refused():
    with pytest.raises(AssertionError, match="not empty"):
        TextStream(decode, [""])
