"""The slash commands of the terminal: what a line means and what each command does to a talk."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from data.errors import InputError
from data.text import read_text
from pipeline.chat import session
from pipeline.chat.insight import Rewards, look, rewards_of, summary
from pipeline.chat.known import Known, known_of
from pipeline.chat.sanitise import inert_line
from pipeline.chat.screen import Screen
from pipeline.chat.session import Answer, Conversation, Sampling
from pipeline.chat.voices import BASE, Voice, Voices
from pipeline.chat.votes import VOTES, Ballot, Verdict, vote_on
from pipeline.checkpoint import write_json

UNDECIDED_VOTES: dict[str, Verdict] = {"tie": "tie", "bad": "both_bad"}


@dataclass
class Talk:
    """A talk under way: who answers, how, what was said, and the latest answers in full.

    `attempt` counts how often the last turn was regenerated; `pending` asks for the last turn to be answered.
    """

    voices: Voices
    shown: list[str]
    sampling: Sampling
    conversation: Conversation = field(default_factory=Conversation)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    attempt: int = 0
    plain_base: bool = True
    pending: bool = False
    done: bool = False
    ballot: Ballot | None = None
    asked_under: tuple[str, Sampling] | None = None

    def asked(self) -> tuple[Conversation, Sampling]:
        """The conversation and the sampling that the latest answers were drawn under, whatever was set since."""
        system, sampling = self.asked_under or (self.conversation.system, self.sampling)
        return replace(self.conversation, system=system), sampling

    @cached_property
    def known(self) -> Known:
        """What the run knows about its prompts."""
        return known_of(self.voices.folder)

    @cached_property
    def rewards(self) -> Rewards:
        """The run's reward model."""
        return rewards_of(self.voices.folder)

    def open_ballot(self) -> Ballot:
        """The run's votes, read when the first is cast."""
        self.ballot = self.ballot or Ballot(self.voices.folder)
        return self.ballot

    def voice(self, name: str) -> Voice:
        """Load a voice, in the format that was chosen for the base model."""
        voice = self.voices.pick(name)
        return replace(voice, plain=voice.plain and self.plain_base)


class Line(NamedTuple):
    """What was typed: a command with its argument, or text to say (`command` empty)."""

    command: str
    argument: str


def parse(line: str) -> Line:
    """Tell commands (`/name argument`) from text; a text that starts with a slash is typed with two."""
    text = line.strip()
    if not text.startswith("/"):
        return Line("", text)
    if text.startswith("//"):
        return Line("", text[1:])
    name, _, argument = text[1:].partition(" ")
    return Line(name.lower() or "help", argument.strip())


def perform(talk: Talk, line: Line, screen: Screen) -> None:
    """Carry out a command.

    Raises:
        InputError: no such command (with the nearest), or an argument it cannot use; the talk is unchanged.
    """
    if line.command not in COMMANDS:
        near = difflib.get_close_matches(line.command, COMMANDS, 1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise InputError(f"there is no command /{inert_line(line.command)}; {hint} (text: start with //)")
    COMMANDS[line.command].perform(talk, line.argument, screen)


def complete(line: str, names: tuple[str, ...]) -> list[str]:
    """All that the last word of a line may become: a command, the stages after it, or a path."""
    command, blank, argument = line.partition(" ")
    if not blank:
        return [f"/{name} " for name in COMMANDS if f"/{name}".startswith(line)] if line[:1] == "/" else []
    known = COMMANDS.get(command.removeprefix("/"))
    if known is None or command[:1] != "/":
        return []
    word = argument.replace(",", " ").split(" ")[-1]
    if known.completes == "stages":
        return [f"{name} " for name in (*names, *known.choices) if name.startswith(word)]
    if known.completes == "path":
        # The line editor replaces the last word alone, so what stands before it in the path is cut off.
        return [path[len(argument) - len(word) :] for path in _paths(argument)]
    return [choice for choice in known.choices if choice.startswith(word)]


def _paths(start: str) -> list[str]:
    folder = start[: start.rfind("/") + 1]
    place = Path(folder or ".").expanduser()
    entries = sorted(place.iterdir()) if place.is_dir() else []
    return [
        f"{folder}{entry.name}{'/' * entry.is_dir()}"
        for entry in entries
        if entry.name.startswith(start[len(folder) :])
    ]


# --- commands ----------------------------------------------------------------------------------------------


def _help(talk: Talk, argument: str, screen: Screen) -> None:
    rows = [f"/{name} {command.usage}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, rows)) + 2
    lines = [f"{row:{width}}{command.help}" for row, command in zip(rows, COMMANDS.values(), strict=True)]
    screen.say("\n".join([*lines, f"stages: {', '.join(talk.voices.names)}"]))


def _stage(talk: Talk, argument: str, screen: Screen) -> None:
    if argument:
        _show(talk, [argument])
    screen.say(_who(talk))


def _compare(talk: Talk, argument: str, screen: Screen) -> None:
    _show(talk, split_names(argument) or list(talk.voices.names))
    screen.say(_who(talk))


def _show(talk: Talk, names: list[str]) -> None:
    checked = talk.voices.check_all(names)
    for name in checked:
        talk.voice(name)  # load now: the first answer need not wait
    talk.shown = checked


def _who(talk: Talk) -> str:
    how = "; base is asked in the plain question format" if BASE in talk.shown and talk.plain_base else ""
    return f"{', '.join(talk.shown)} will answer{how}"


def _format(talk: Talk, argument: str, screen: Screen) -> None:
    if argument not in ("", "plain", "chat"):
        raise InputError(f'/format takes plain or chat, not "{argument}"')
    talk.plain_base = argument == "plain" if argument else talk.plain_base
    screen.say(f"base is asked in the {'plain question' if talk.plain_base else 'chat'} format")


def _system(talk: Talk, argument: str, screen: Screen) -> None:
    if argument:
        text = "" if argument == "-" else session.check_text(argument, "the system text")
        talk.conversation = replace(talk.conversation, system=text)
    screen.say(f"system: {talk.conversation.system or '(none)'}")


def _temperature(talk: Talk, argument: str, screen: Screen) -> None:
    _sample(talk, "temperature", argument, float)
    screen.say(f"temperature {talk.sampling.temperature:g}")


def _seed(talk: Talk, argument: str, screen: Screen) -> None:
    _sample(talk, "seed", argument, int)
    screen.say(f"seed {talk.sampling.seed}")


def _sample(talk: Talk, name: str, argument: str, number: Callable[[str], float]) -> None:
    if not argument:
        return
    try:
        value = number(argument)
    except ValueError:
        raise InputError(f'/{name} takes a number, not "{argument}"') from None
    talk.sampling = session.sampling_of(**{**talk.sampling.model_dump(), name: value})


def _regenerate(talk: Talk, argument: str, screen: Screen) -> None:
    _need_turn(talk)
    talk.attempt += 1
    talk.pending = True


def _undo(talk: Talk, argument: str, screen: Screen) -> None:
    _need_turn(talk)
    last = talk.conversation.turns[-1]
    talk.conversation = talk.conversation.undone()
    talk.answers, talk.attempt = {}, 0
    screen.say(f"taken back: {last.user}")


def _need_turn(talk: Talk) -> None:
    if not talk.conversation.turns:
        raise InputError("nothing was said yet; type a message first")


def _save(talk: Talk, argument: str, screen: Screen) -> None:
    path = _path(argument, "save")
    if path.exists():
        _read(path)  # only a saved conversation is ever replaced
    try:
        write_json(path, session.to_dict(talk.conversation))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another path") from error
    screen.say(f"saved to {path}: {_count(talk.conversation)}")


def _load(talk: Talk, argument: str, screen: Screen) -> None:
    talk.conversation = _read(_path(argument, "load"))
    talk.answers, talk.attempt = {}, 0
    for turn in talk.conversation.turns:
        screen.say(f"\n> {turn.user}", "bold")
        for name, text in turn.answers.items():
            screen.say(f"{name}: {text}")
    screen.say(f"\nloaded: {_count(talk.conversation)}")


def _count(conversation: Conversation) -> str:
    return _number(len(conversation.turns), "turn")


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise InputError(f"/{command} needs the path of a file: /{command} talk.json")
    return Path(argument).expanduser()


def _read(path: Path) -> Conversation:
    try:
        return session.from_dict(json.loads(read_text(path)))
    except RecursionError:
        raise InputError(f"{path}: this is no saved conversation (nested too deep)") from None
    except ValueError as error:  # InputError is one as well
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _vote(talk: Talk, argument: str, screen: Screen) -> None:
    names = list(talk.answers)
    if len(names) < 2:
        raise InputError("a vote needs answers of two stages or more; /compare lets several answer")
    if argument in UNDECIDED_VOTES:
        verdict = UNDECIDED_VOTES[argument]
        pairs = [(names[0], other, verdict) for other in names[1:]]
    else:
        best = talk.voices.check(argument) if argument else ""
        if best not in names:
            raise InputError(f"/vote takes one of {', '.join([*names, *UNDECIDED_VOTES])}: which was best?")
        pairs = [_pair(names, best, other) for other in names if other != best]
    ballot = talk.open_ballot()
    conversation, sampling = talk.asked()
    votes = [
        vote_on(
            conversation,
            (left, right),
            verdict,
            run=talk.voices.run,
            sampling=sampling,
            attempt=talk.attempt,
        )
        for left, right, verdict in pairs
    ]
    compared = [vote for vote in votes if vote.differ]
    if not compared:
        raise InputError("the answers are equal or empty, so there is nothing to prefer; ask again")
    for vote in compared:
        ballot.cast(vote)
    counted = ballot.counted
    told = [
        f"saved in {talk.voices.folder / VOTES}: {_number(counted.votes, 'vote')}",
        f"{counted.undecided} undecided",
        _number(counted.duplicates, "duplicate"),
        _number(counted.contradictions, "contradiction"),
    ]
    screen.say(", ".join(told))


def _pair(names: list[str], best: str, other: str) -> tuple[str, str, Verdict]:
    """The two stages from left to right as they stand, and which side is the better one."""
    left, right = sorted((best, other), key=names.index)
    return left, right, "left" if left == best else "right"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _why(talk: Talk, argument: str, screen: Screen) -> None:
    names = split_names(argument)
    if len(names) > 2:
        raise InputError("/why takes a stage and a reference to measure the KL from: /why ppo sft")
    name = talk.voices.check(names[0]) if names else next(iter(talk.answers), "")
    if name not in talk.answers:
        had = f"; the last turn was answered by {', '.join(talk.answers)}" if talk.answers else ""
        raise InputError(
            f"there is no answer {f'of {name} ' if name else ''}to look into{had}; ask, or /regenerate"
        )
    reference = talk.voice(names[1]) if len(names) == 2 else None
    screen.say(
        f"{name} at temperature 1" + (f"; kl from {reference.name} by position" if reference else ""), "dim"
    )
    answer, messages = talk.answers[name], talk.asked()[0].messages(name)
    insight = look(
        talk.voice(name),
        answer,
        messages,
        reference=reference,
        known=talk.known,
        rewards=talk.rewards,
        num_alternatives=3,
    )
    screen.show_why(insight.views)
    for line in summary(insight):
        screen.say(line)


def _exit(talk: Talk, argument: str, screen: Screen) -> None:
    talk.done = True


def split_names(text: str) -> list[str]:
    """Split names at commas or white space."""
    return text.replace(",", " ").split()


class Command(NamedTuple):
    """A slash command; `completes` says what its argument is: "stages", "path", or one of `choices`."""

    perform: Callable[[Talk, str, Screen], None]
    usage: str
    help: str
    completes: str = ""
    choices: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    "help": Command(_help, "", "list the commands and the stages"),
    "stage": Command(_stage, "NAME", "let one stage answer", "stages"),
    "compare": Command(_compare, "[A,B,..]", "let several stages answer side by side", "stages"),
    "system": Command(_system, "[TEXT|-]", "show, set or (-) drop the system text"),
    "temperature": Command(_temperature, "[T]", "show or set it; 0 takes the likeliest token"),
    "seed": Command(_seed, "[N]", "show or set the seed of the answers"),
    "regenerate": Command(_regenerate, "", "draw other answers to the last message"),
    "undo": Command(_undo, "", "take back the last message and its answers"),
    "save": Command(_save, "FILE", "write the conversation as JSON", "path"),
    "load": Command(_load, "FILE", "read a saved conversation", "path"),
    "why": Command(_why, "[NAME [REF]]", "an answer's tokens, KL, reward and truth", "stages"),
    "vote": Command(
        _vote, "NAME|tie|bad", "keep which answer was best, for a reward model", "stages", ("tie", "bad")
    ),
    "format": Command(_format, "[plain|chat]", "how the base model is asked", "", ("plain", "chat")),
    "exit": Command(_exit, "", "leave (or Ctrl-D)"),
}
