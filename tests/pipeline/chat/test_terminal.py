import io
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from data.errors import InputError
from pipeline.chat import terminal as module
from pipeline.chat.terminal import cancel_on_interrupt, chat
from pipeline.chat.voices import Voices


@pytest.fixture
def opened(make_voices, monkeypatch):
    voices = make_voices(
        base=lambda prompt, key: b" Base says.\nmore",
        sft=lambda prompt, key: prompt[-1]["content"].upper().encode(),
        ppo=lambda prompt, key: b"\x1b[31mppo says",
    )
    monkeypatch.setattr(module, "open_run", lambda run: voices)
    return voices


@pytest.fixture
def talk(opened, monkeypatch, capsys):
    """Pipe a text into `chat`; returns what it printed."""

    def pipe(text, **options):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        chat("quickstart", **options)
        return capsys.readouterr().out

    return pipe


def test_piped_lines_are_messages(talk):
    assert talk("hello\n\nthere\n", stage="sft") == "> hello\nsft: HELLO\n> there\nsft: THERE\n"


def test_the_last_aligned_stage_talks_by_default_and_its_escapes_are_inert(talk):
    assert talk("hello") == "> hello\nppo: [31mppo says\n"


def test_several_stages_answer_in_the_order_asked_for(talk):
    out = talk("hello\n", compare=["sft", "base"])
    assert out == "> hello\nsft: HELLO\nbase: Base says.\n"


def test_a_mistake_is_told_and_the_talk_goes_on(talk):
    out = talk("/stage dpo\n/exit\nnever said\n", stage="sft")
    assert 'no stage "dpo"' in out
    assert "never said" not in out


def test_a_backslash_continues_the_line(talk):
    assert talk("one\\\ntwo\n", stage="sft").endswith("sft: ONE\nTWO\n")
    assert talk("one\\\n", stage="sft").endswith("sft: ONE\n")


def test_bytes_that_are_no_text_are_refused_and_the_talk_goes_on(opened, monkeypatch, capsys):
    raw = io.TextIOWrapper(io.BytesIO(b"\xff\nhello\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", raw)
    chat("quickstart", stage="sft")
    out = capsys.readouterr().out
    assert "not valid UTF-8" in out
    assert out.endswith("sft: HELLO\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "dpo"}, "it has base, sft, ppo"),
        ({"compare": ["sft", "dpo"]}, "it has base, sft, ppo"),
        ({"stage": "sft", "compare": ["sft"]}, "exclude each other"),
        ({"temperature": 50.0}, "temperature is 50"),
    ],
)
def test_bad_options_are_refused_before_a_model_is_loaded(monkeypatch, options, message):
    voices = Voices("quickstart", ("base", "sft", "ppo"), lambda name: pytest.fail(f"{name} was loaded"))
    monkeypatch.setattr(module, "open_run", lambda run: voices)
    with pytest.raises(InputError, match=message):
        chat("quickstart", **options)


# --- at a terminal -----------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(opened, monkeypatch, terminal):
    """Type lines at a terminal of 80 columns; exceptions among them are raised by the keyboard."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")

    def type_lines(*lines, **options):
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setattr("sys.stdin", type(terminal)())
        remaining = iter(lines)

        def typed(prompt):
            line = next(remaining, EOFError)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", typed)
        chat("quickstart", **options)
        return terminal.getvalue()

    return type_lines


def test_a_terminal_shows_who_talks_and_columns(by_hand):
    out = by_hand("hello", compare=["base", "sft", "ppo"])
    lines = [line.split() for line in out.splitlines()]
    assert ["base", "sft", "ppo"] in lines
    assert ["Base", "says.", "HELLO", "[31mppo", "says"] in lines
    assert max(map(len, out.splitlines())) <= 80
    assert "plain question format" in out


def test_ctrl_c_drops_the_line_and_twice_in_a_row_leaves(by_hand):
    out = by_hand("begun\\", KeyboardInterrupt, "hello", KeyboardInterrupt, stage="sft")
    assert "HELLO" in out
    assert "BEGUN" not in out
    with pytest.raises(KeyboardInterrupt):
        by_hand(KeyboardInterrupt, KeyboardInterrupt)


def test_ctrl_c_stops_the_answer_and_not_the_talk(by_hand, make_voices, monkeypatch):
    def policy(prompt, key):
        if prompt[-1]["content"] != "long":
            yield from b"short"
            return
        yield from b"begun"
        os.kill(os.getpid(), signal.SIGINT)
        yield from b"X" * 5000

    voices = make_voices(sft=policy)
    loaded = voices.load("sft")

    def stream(prompt, **options):
        return ((token, -1.0) for token in policy(prompt, 0))

    voice = replace(loaded, stream=stream)
    monkeypatch.setattr(module, "open_run", lambda run: Voices("q", ("sft",), lambda name: voice))
    before = signal.getsignal(signal.SIGINT)
    out = by_hand("long", "more")
    assert "begun" in out
    assert "XX" not in out
    assert "stopped" in out
    assert "short" in out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)
    with cancel_on_interrupt() as cancelled:
        os.kill(os.getpid(), signal.SIGINT)
        assert cancelled()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_importing_the_terminal_loads_no_model_library():
    code = (
        "import sys, pipeline.chat.terminal, pipeline.chat.compare; "
        "print([name for name in ('torch', 'transformers', 'rich', 'yaml', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
