import json
from dataclasses import replace

import pytest

from data.errors import InputError
from data.rows import PreferenceRow, read_jsonl, user
from pipeline.chat.commands import COMMANDS, Talk, complete, parse, perform
from pipeline.chat.screen import Screen
from pipeline.chat.session import Sampling
from pipeline.chat.terminal import handle
from pipeline.chat.votes import VOTES


@pytest.fixture
def talk(make_voices):
    voices = make_voices(
        base=lambda prompt, key: b" Base says.\nmore",
        sft=lambda prompt, key: f"sft {key % 1000}".encode(),
        ppo=lambda prompt, key: f"ppo {key % 1000}".encode(),
    )
    return Talk(voices, ["sft"], Sampling())


@pytest.fixture
def do(talk, capsys):
    """Type a line; returns what was shown."""

    def type_line(line):
        handle(talk, line, Screen())
        return capsys.readouterr().out

    return type_line


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("hello", ("", "hello")),
        ("  /stage  ppo ", ("stage", "ppo")),
        ("/System Be  kind.", ("system", "Be  kind.")),
        ("//etc is a folder", ("", "/etc is a folder")),
        ("/", ("help", "")),
        ("", ("", "")),
        ("a /stage", ("", "a /stage")),
    ],
)
def test_commands_are_told_from_text(line, parsed):
    assert parse(line) == parsed


def test_a_message_is_answered_and_kept(talk, do):
    out = do("hello")
    assert out == f"sft: {talk.answers['sft'].text}\n"
    assert talk.conversation.turns[-1].answers == {"sft": talk.answers["sft"].text}
    assert do("   ") == ""
    assert len(talk.conversation.turns) == 1


def test_an_unknown_command_names_the_nearest(talk, do):
    with pytest.raises(InputError, match=r"no command /temprature; did you mean /temperature\?"):
        do("/temprature 1")


def test_help_lists_every_command_within_80_columns(do):
    out = do("/help")
    assert all(f"/{name}" in out for name in COMMANDS)
    assert max(map(len, out.splitlines())) <= 80
    assert "stages: base, sft, ppo" in out


def test_stages_are_switched_in_the_middle_of_a_talk(talk, do):
    do("one")
    assert "ppo will answer" in do("/stage ppo")
    do("two")
    assert [list(turn.answers) for turn in talk.conversation.turns] == [["sft"], ["ppo"]]
    assert "base, ppo will answer; base is asked in the plain" in do("/compare base, ppo")
    assert do("three").splitlines()[0] == "base: Base says."
    do("/compare")
    assert talk.shown == ["base", "sft", "ppo"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/stage dpo", "it has base, sft, ppo"),
        ("/compare sft,sft", "named twice"),
        ("/temperature hot", 'takes a number, not "hot"'),
        ("/temperature nan", "temperature is nan"),
        ("/seed -1", "seed is -1"),
        ("/seed 1.5", 'takes a number, not "1.5"'),
        ("/format latin", "plain or chat"),
        ("/regenerate", "nothing was said"),
        ("/undo", "nothing was said"),
        ("/why", "no answer"),
        ("/why sft ppo base", "a stage and a reference"),
        ("/save", "needs the path"),
        ("/load /nowhere/talk.json", "cannot be read"),
        ("/save /nowhere/talk.json", "cannot be written"),
    ],
)
def test_a_bad_argument_is_refused_and_changes_nothing(talk, do, line, message):
    before = (talk.shown, talk.sampling, talk.conversation, talk.attempt)
    with pytest.raises(InputError, match=message):
        do(line)
    assert (talk.shown, talk.sampling, talk.conversation, talk.attempt) == before


def test_temperature_seed_system_and_format_are_shown_and_set(talk, do):
    assert do("/temperature") == "temperature 0.7\n"
    assert do("/temperature 0") == "temperature 0\n"
    assert do("/seed 7") == "seed 7\n"
    assert talk.sampling == Sampling(temperature=0, seed=7)
    assert do("/system Be kind.") == "system: Be kind.\n"
    assert talk.conversation.system == "Be kind."
    assert do("/system -") == "system: (none)\n"
    assert do("/format chat") == "base is asked in the chat format\n"
    assert not talk.voice("base").plain
    do("/format plain")
    assert talk.voice("base").plain
    assert not talk.voice("sft").plain


def test_regenerating_draws_another_answer_and_a_new_talk_the_first_again(talk, do):
    first, second, third = do("hello"), do("/regenerate"), do("/regenerate")
    assert len({first, second, third}) == 3
    assert len(talk.conversation.turns) == 1
    assert "taken back: hello" in do("/undo")
    assert do("hello") == first


def test_a_message_that_cannot_be_answered_is_taken_back(talk, do, make_voice):
    do("hello")
    talk.voices = type(talk.voices)("q", ("sft",), lambda name: make_voice(name, context=20))
    before = talk.conversation
    with pytest.raises(InputError, match="too long"):
        do("a" * 50)
    assert talk.conversation == before


def test_a_talk_is_saved_and_loaded(talk, do, tmp_path):
    do("/system Be kind.")
    do("hello")
    path = tmp_path / "talk.json"
    assert do(f"/save {path}") == f"saved to {path}: 1 turn\n"
    saved = talk.conversation
    do("more")
    do(f"/save {path}")
    do(f"/save {tmp_path / 'other.json'}")
    do("/undo")
    assert talk.conversation == saved
    out = do(f"/load {path}")
    assert len(talk.conversation.turns) == 2
    assert "> hello\nsft: sft" in out
    with pytest.raises(InputError, match="no answer"):
        do("/why")


def test_only_a_saved_talk_is_ever_replaced(do, tmp_path):
    path = tmp_path / "precious.json"
    path.write_text(json.dumps({"thesis": "text"}))
    with pytest.raises(InputError, match="no saved conversation"):
        do(f"/save {path}")
    assert json.loads(path.read_text()) == {"thesis": "text"}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_refused(do, tmp_path, content):
    (tmp_path / "talk.json").write_bytes(content)
    with pytest.raises(InputError, match=r"talk\.json: "):
        do(f"/load {tmp_path / 'talk.json'}")


def test_why_shows_each_token_with_its_logprob(talk, do):
    do("/compare sft ppo")
    do("hello")
    lines = do("/why ppo sft").splitlines()
    assert lines[0] == "ppo at temperature 1; kl from sft by position"
    assert lines[1].split("\t") == ["token", "logprob", "rank", "kl", "likeliest"]
    assert len(lines) == 3 + len(talk.answers["ppo"].tokens)
    assert lines[-1].startswith("log-probability per token -5.58, KL from the reference 0.00")
    assert lines[2].startswith("'p'\t")
    assert "kl" not in do("/why").splitlines()[1]


def test_a_vote_is_kept_as_rows_and_counted(make_voices, tmp_path, capsys):
    policies = {name: lambda prompt, key, name=name: name.encode() for name in ("base", "sft", "ppo")}
    talk = Talk(replace(make_voices(**policies), folder=tmp_path), ["sft", "ppo"], Sampling())

    def do(line):
        handle(talk, line, Screen())
        return capsys.readouterr().out

    with pytest.raises(InputError, match="answers of two"):
        do("/vote ppo")
    do("hello")
    with pytest.raises(InputError, match="which was best"):
        do("/vote base")
    assert "1 vote, 0 undecided" in do("/vote ppo")
    assert "1 duplicate, 0 contradictions" in do("/vote ppo")
    assert "1 duplicate, 1 contradiction" in do("/vote sft")
    assert "3 votes, 1 undecided" in do("/vote tie")
    do("/compare base,sft,ppo")
    do("/regenerate")
    do("/vote sft")
    rows = read_jsonl(tmp_path / VOTES, PreferenceRow)
    assert [row.kind for row in rows[-2:]] == ["vote/sft_over_base", "vote/sft_over_ppo"]
    assert rows[-1].prompt == user("hello")
    assert rows[-1].provenance["attempt"] == 1


def test_a_vote_is_on_what_was_asked_whatever_was_set_since(make_voices, tmp_path):
    policies = {name: lambda prompt, key, name=name: name.encode() for name in ("sft", "ppo")}
    talk = Talk(replace(make_voices(**policies), folder=tmp_path), ["sft", "ppo"], Sampling())
    for line in ("hello", "/system be rude", "/seed 9", "/vote ppo"):
        handle(talk, line, Screen())
    (row,) = read_jsonl(tmp_path / VOTES, PreferenceRow)
    assert row.prompt == user("hello")
    assert row.provenance["sampling"]["seed"] == 0


def test_of_equal_answers_none_is_voted_better(make_voices, tmp_path):
    says = {"base": b"x", "sft": b"same", "ppo": b"same"}
    policies = {name: lambda prompt, key, text=text: text for name, text in says.items()}
    talk = Talk(replace(make_voices(**policies), folder=tmp_path), ["base", "sft", "ppo"], Sampling())
    for line in ("hello", "/vote sft", "/vote sft"):
        handle(talk, line, Screen())
    rows = read_jsonl(tmp_path / VOTES, PreferenceRow)
    assert [row.kind for row in rows] == ["vote/sft_over_base"] * 2
    handle(talk, "/compare sft ppo", Screen())
    handle(talk, "/regenerate", Screen())
    with pytest.raises(InputError, match="equal or empty"):
        handle(talk, "/vote sft", Screen())


def test_exit_ends_the_talk(talk, do):
    do("/exit")
    assert talk.done


def test_words_are_completed_by_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.json").touch()
    (tmp_path / "talks").mkdir()
    names = ("base", "sft", "ppo")
    assert complete("/te", names) == ["/temperature "]
    assert complete("/s", names) == ["/stage ", "/system ", "/seed ", "/save "]
    assert complete("/stage p", names) == ["ppo "]
    assert complete("/compare base,s", names) == ["sft "]
    assert complete("/format ", names) == ["plain", "chat"]
    assert complete("/load ta", names) == ["talk.json", "talks/"]
    assert complete(f"/load {tmp_path}/talk.", names) == [f"{tmp_path}/talk.json"]
    (tmp_path / "my talk.json").touch()
    assert complete("/load my t", names) == ["talk.json"]
    assert complete("tell me", names) == complete("/undo x", names) == complete("", names) == []


def test_every_command_has_help_and_no_line_end(talk):
    for name, command in COMMANDS.items():
        assert command.help, name
        assert "\n" not in command.help
    with pytest.raises(InputError):
        perform(talk, parse("/\x1b[31m"), Screen())
