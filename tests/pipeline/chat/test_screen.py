import io
import re

import pytest

from pipeline.chat.screen import Screen, note
from pipeline.chat.session import Answer, Piece

ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def answer(name, text, **changes):
    fields = {
        "tokens": (1,),
        "logprobs": (-1.0,),
        "reason": "end",
        "prompt": "",
        "num_dropped": 0,
        "limit": 9,
    }
    return Answer(name=name, text=text, **{**fields, **changes})


@pytest.fixture
def screen(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "12")
    return Screen(terminal, width=80)


def lines(screen):
    return [line.rstrip() for line in ESCAPES.sub("", screen.stream.getvalue()).splitlines()]


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_nothing_is_wider_than_80_columns_and_no_word_is_lost(screen, num):
    text = "one two three four five six seven eight nine ten " + "z" * 100
    screen.show([answer(f"stage{place}", text) for place in range(num)])
    assert max(map(len, lines(screen))) <= 80
    assert " ".join(lines(screen)).count("three") == num
    assert "".join(lines(screen)).count("z") == 100 * num


def test_columns_stand_side_by_side_and_else_below_each_other(terminal):
    Screen(terminal, width=80).show([answer("sft", "left"), answer("ppo", "right")])
    assert [line.split() for line in lines(Screen(terminal))] == [["sft", "ppo"], ["left", "right"]]
    narrow = type(terminal)()
    Screen(narrow, width=30).show([answer("sft", "left"), answer("ppo", "right", reason="length")])
    assert lines(Screen(narrow)) == ["sft", "left", "ppo", "right", "cut off after 9 tokens"]


def test_markup_and_emoji_codes_in_model_text_are_only_text(screen):
    screen.show([answer("sft", "[bold red]x[/] :smile: [link=http://evil]y[/link] <b>")])
    assert lines(screen) == ["[bold red]x[/] :smile: [link=http://evil]y[/link] <b>"]


def test_nothing_of_the_model_reaches_the_terminal_as_control(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    hostile = "\x1b]0;owned\x07\x9b2J\u202e\rhidden"
    screen = Screen(terminal, width=80)
    events = [Piece("sft", hostile), Piece(hostile, "x"), answer("sft", hostile), answer(hostile, hostile)]
    screen.follow(["sft", hostile], events)
    screen.say(hostile)
    own = ESCAPES.sub("", terminal.getvalue()).replace("\r", "")  # what is drawn anew while streaming
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", own)
    assert "\x1b]" not in terminal.getvalue()
    assert "hidden" in own


def test_while_streaming_the_end_of_a_long_answer_stays_in_view(screen, monkeypatch):
    monkeypatch.setattr("pipeline.chat.screen.REDRAW_SECONDS", 0.0)
    words = [f"word{place} " for place in range(400)]
    drawn = []

    def events():
        for word in words:
            before = len(screen.stream.getvalue())
            yield Piece("sft", word)
            drawn.append(screen.stream.getvalue()[before:])
        yield answer("sft", "".join(words))

    screen.follow(["sft"], events())
    assert "word399" in drawn[-1]
    assert "word0 " not in drawn[-1]
    assert drawn[-1].count("\n") < 12
    assert "word0 word1 " in screen.stream.getvalue()[sum(map(len, drawn)) :]  # whole in the end


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    Screen(stream).follow(
        ["sft", "ppo"],
        [Piece("ppo", "b"), answer("ppo", "b", num_dropped=2), Piece("sft", "a"), answer("sft", "a")],
    )
    assert stream.getvalue() == "sft: a\nppo: b [the oldest 2 turns were left out: the context is full]\n"


def test_an_ascii_stream_gets_question_marks_and_no_error():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Screen(stream).say("é 🦜 ok")
    assert raw.getvalue() == b"? ? ok\n"


def test_notes_say_what_is_to_be_known():
    assert note(answer("sft", "x")) == ""
    assert note(answer("sft", "x", num_dropped=1, reason="length")) == (
        "the oldest turn was left out: the context is full; cut off after 9 tokens"
    )
    assert note(answer("sft", "x", reason="cancelled")) == "stopped"
