import gzip
import json

import pytest

from data.errors import InputError
from pipeline.chat import compare as module
from pipeline.chat.compare import compare, read_prompts
from pipeline.chat.voices import Voices

HOSTILE = b"\x1b]0;owned\x07red \xe2\x80\xaeevil"


@pytest.fixture
def opened(make_voices, monkeypatch):
    voices = make_voices(
        base=lambda prompt, key: b" Base says.\nQuestion: more",
        sft=lambda prompt, key: HOSTILE,
        ppo=lambda prompt, key: str(key).encode(),
    )
    monkeypatch.setattr(module, "open_run", lambda run: voices)
    return voices


def test_each_prompt_is_answered_by_each_stage(opened, capsys):
    compare("quickstart", ["Who?", "Why?"], stages=["base", "sft"])
    assert capsys.readouterr().out.splitlines() == [
        "> Who?",
        "base: Base says.",
        "sft: ]0;ownedred evil",
        "",
        "> Why?",
        "base: Base says.",
        "sft: ]0;ownedred evil",
    ]


def test_json_keeps_the_exact_text_in_plain_ascii(opened, capsys):
    compare("quickstart", ["Wh\x9bo?"], seed=3, temperature=0.0, max_new_tokens=64, as_json=True)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    record = json.loads(out)
    assert record["run"] == "quickstart"
    assert record["stages"] == ["base", "sft", "ppo"]
    assert record["sampling"] == {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 64, "seed": 3, "stop": [],
    }  # fmt: skip
    (row,) = record["prompts"]
    assert row["prompt"] == "Wh\x9bo?"
    assert row["answers"]["sft"] == {
        "text": HOSTILE.decode(),
        "reason": "end",
        "num_tokens": len(HOSTILE) + 1,
        "logprob": -0.5,
    }
    assert row["answers"]["base"]["reason"] == "stop"


def test_an_answer_depends_on_its_prompt_and_the_seed_and_not_on_its_neighbours(opened, capsys):
    def answers(prompts, seed):
        compare("quickstart", prompts, stages=["ppo"], seed=seed, as_json=True)
        rows = json.loads(capsys.readouterr().out)["prompts"]
        return {row["prompt"]: row["answers"]["ppo"]["text"] for row in rows}

    assert answers(["a", "b"], 0)["b"] == answers(["b"], 0)["b"]
    assert answers(["a", "b"], 0)["a"] != answers(["a", "b"], 0)["b"]
    assert answers(["a"], 0) != answers(["a"], 1)


def test_the_base_model_can_be_asked_in_the_chat_format(opened, capsys):
    compare("quickstart", ["Who?"], stages=["base"], plain_base=False)
    assert "Question: more" in capsys.readouterr().out


def test_columns_on_a_terminal_of_80(opened, monkeypatch, terminal):
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    compare("quickstart", ["Who?"])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["base", "sft", "ppo"]
    assert "\u202e" not in terminal.getvalue()
    assert "\x1b]" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "no prompt is given"),
        ({"prompts": ["a", " \n"]}, "prompt 2 is empty"),
        ({"prompts": ["a\udcff"]}, "prompt 1 is not valid UTF-8 at character 1"),
        ({"prompts": ["a"], "stages": ["dpo"]}, "it has base, sft, ppo"),
        ({"prompts": ["a"], "temperature": float("nan")}, "temperature is nan"),
        ({"prompts": ["a"], "max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(monkeypatch, arguments, message):
    voices = Voices("quickstart", ("base", "sft", "ppo"), lambda name: pytest.fail(f"{name} was loaded"))
    monkeypatch.setattr(module, "open_run", lambda run: voices)
    with pytest.raises(InputError, match=message):
        compare("quickstart", **arguments)


def test_prompts_are_read_a_line_each(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffWho?\r\n\n  Why é?  \n".encode())
    assert read_prompts(path) == ["Who?", "Why é?"]


def test_prompts_are_read_from_json_lines(tmp_path):
    rows = [{"prompt": "Who?"}, {"prompt": [{"role": "user", "content": "Why?"}], "task": "facts"}]
    path = tmp_path / "prompts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert read_prompts(path) == ["Who?", "Why?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"ok\n\xff", "invalid UTF-8"),
        ("p.jsonl", b'{"prompt": "a"}\n{"text": "b"}', "p.jsonl:2: no prompt here"),
        ("p.jsonl", b'{"prompt": ["a", "b"]}', "p.jsonl:1: no prompt here"),
    ],
)
def test_a_file_without_prompts_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt"):
        read_prompts(tmp_path / "none.txt")
