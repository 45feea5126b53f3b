"""Chat on the terminal with one stage of a run, or with several side by side."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType

from data.errors import InputError
from pipeline.chat import session
from pipeline.chat.commands import Talk, complete, parse, perform
from pipeline.chat.screen import Screen
from pipeline.chat.voices import BASE, open_run

PROMPT = "> "


def chat(
    run: Path,
    *,
    stage: str | None = None,
    compare: list[str] | None = None,
    seed: int = 0,
    temperature: float = session.TEMPERATURE,
    max_new_tokens: int = session.MAX_NEW_TOKENS,
) -> None:
    """Talk until /exit or the end of the input; where standard input is no terminal, a line is a message.

    Raises:
        InputError: no such run or stage, both `stage` and `compare`, a setting out of range; before any model
            is loaded.
    """
    if stage is not None and compare is not None:
        raise InputError("--stage and --compare exclude each other; --compare names all stages that answer")
    sampling = session.sampling_of(seed=seed, temperature=temperature, max_new_tokens=max_new_tokens)
    voices = open_run(run)
    shown = voices.check_all(compare if compare is not None else [stage or voices.default])
    for name in shown:
        voices.pick(name)
    talk_on(Talk(voices, shown, sampling), Screen())


def talk_on(talk: Talk, screen: Screen) -> None:
    """Read lines and answer them until the talk is done."""
    by_hand = screen.is_terminal and sys.stdin.isatty()
    if by_hand:
        screen.say(
            f"{talk.voices.run}: {', '.join(talk.shown)}. /help lists the commands, Ctrl-D leaves.", "dim"
        )
        if BASE in talk.shown:
            screen.say("base continues text: it is asked in the plain question format.", "dim")
        _prepare_editing(talk)
    for line in typed(by_hand, screen):
        if not by_hand and line.strip():
            screen.say(f"{PROMPT}{line}", "bold")
        try:
            handle(talk, line, screen)
        except InputError as error:
            screen.say(str(error), "red")
        if talk.done:
            break


def handle(talk: Talk, line: str, screen: Screen) -> None:
    """Carry out one line: a command, or a message that is answered.

    Raises:
        InputError: the line cannot be used; the talk is as before.
    """
    parsed = parse(line)
    before = (talk.conversation, talk.attempt)
    if parsed.command:
        perform(talk, parsed, screen)
    elif parsed.argument:
        talk.conversation = talk.conversation.say(session.check_text(parsed.argument, "the message"))
        talk.attempt, talk.pending = 0, True
    if talk.pending:
        talk.pending = False
        try:
            _answer(talk, screen)
        except BaseException:
            talk.conversation, talk.attempt = before
            raise


def _answer(talk: Talk, screen: Screen) -> None:
    by_hand = screen.is_terminal and sys.stdin.isatty()
    with cancel_on_interrupt() if by_hand else nullcontext(lambda: False) as cancelled:
        events = session.reply(
            [talk.voice(name) for name in talk.shown],
            talk.conversation,
            talk.sampling,
            attempt=talk.attempt,
            cancelled=cancelled,
        )
        talk.answers = screen.follow(talk.shown, events)
        talk.asked_under = (talk.conversation.system, talk.sampling)
    talk.conversation = talk.conversation.answered(
        {name: answer.text for name, answer in talk.answers.items()}
    )


@contextmanager
def cancel_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C stop the answers and not the talk; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield event.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def typed(by_hand: bool, screen: Screen) -> Iterator[str]:
    """Yield the lines of standard input; a backslash at the end of a line continues it.

    At a terminal Ctrl-C drops the line, and twice in a row interrupts.
    """
    parts: list[str] = []
    interrupted = False
    while True:
        try:
            line = input(("... " if parts else PROMPT) if by_hand else "")
        except EOFError:
            break
        except UnicodeDecodeError:
            screen.say("the line is not valid UTF-8; give UTF-8 text", "red")
            continue
        except KeyboardInterrupt:
            if not by_hand or interrupted:
                raise
            interrupted, parts = True, []
            screen.say("\n(Ctrl-C once more, Ctrl-D or /exit leaves)", "dim")
            continue
        interrupted = False
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        yield "\n".join([*parts, line])
        parts = []
    if parts:
        yield "\n".join(parts)
    if by_hand:
        screen.say("")


def _prepare_editing(talk: Talk) -> None:
    """Line editing, history of this talk and completion, where the standard library has readline."""
    with suppress(ImportError):
        import readline

        def completer(_: str, state: int) -> str | None:
            line = readline.get_line_buffer()[: readline.get_endidx()]
            with suppress(OSError):
                choices = complete(line, talk.voices.names)
                return choices[state] if state < len(choices) else None
            return None

        readline.set_completer(completer)
        readline.set_completer_delims(" ,")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
