"""Answers side by side on a terminal, plain lines elsewhere; every text is made inert on its way out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TextIO

from pipeline.chat.sanitise import encodable, inert
from pipeline.chat.session import Answer, Piece
from pipeline.chat.why import TokenView

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

NARROWEST_COLUMN = 18  # characters; where columns would be narrower, answers stand below each other
GAP = 2  # characters between columns
REDRAW_SECONDS = 0.05
_SPARE_LINES = 4  # of the terminal's height: names, the question above, the cursor below


class Screen:
    """Where talk is shown: a terminal of some width, or any stream of text."""

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None) -> None:
        self.stream = stream or sys.stdout
        self.console: Console | None = None
        if self.stream.isatty():
            from rich.console import Console

            self.console = Console(file=self.stream, highlight=False, width=width)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody reads along."""
        return self.console is not None

    def say(self, text: str, style: str = "") -> None:
        """Print a text of one line or more."""
        if self.console is None:
            print(self._safe(text), file=self.stream, flush=True)
        else:
            self.console.print(self._text(text, style))

    def follow(self, names: Sequence[str], events: Iterable[Piece | Answer]) -> dict[str, Answer]:
        """Show answers while they are drawn and once they are finished; returns them by name."""
        texts, answers, redrawn = dict.fromkeys(names, ""), dict[str, Answer](), 0.0
        with self._live() or nullcontext() as live:
            for event in events:
                if isinstance(event, Answer):
                    answers[event.name] = event
                    continue
                texts[event.name] += event.text
                if live is not None and self.console and time.monotonic() - redrawn >= REDRAW_SECONDS:
                    live.update(self._columns(texts, {}, self.console.height - _SPARE_LINES), refresh=True)
                    redrawn = time.monotonic()
        in_order = {name: answers[name] for name in names if name in answers}
        self.show(list(in_order.values()))
        return in_order

    def show(self, answers: Sequence[Answer]) -> None:
        """Show finished answers, each with its `note`."""
        notes = {answer.name: note(answer) for answer in answers}
        if self.console is not None:
            self.console.print(self._columns({answer.name: answer.text for answer in answers}, notes))
            return
        for answer in answers:
            noted = f" [{notes[answer.name]}]" if notes[answer.name] else ""
            self.say(f"{answer.name}: {answer.text}{noted}")

    def show_why(self, views: Sequence[TokenView]) -> None:
        """Show a row for each token: its log-probability, rank, KL, and the likeliest tokens at its place."""
        head, rows = why_rows(views)
        if self.console is None:
            self.say("\n".join("\t".join(row) for row in (head, *rows)))
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in head:
            number = name in ("logprob", "rank", "kl")
            table.add_column(name, justify="right" if number else "left", no_wrap=number)
        for row in rows:
            table.add_row(*(self._text(cell) for cell in row))
        self.console.print(table)

    def _columns(
        self, texts: Mapping[str, str], notes: Mapping[str, str], height: int | None = None
    ) -> RenderableType:
        """Texts under their names, in columns where they fit; `height` keeps the last lines of each alone."""
        from rich.console import Group
        from rich.table import Table

        assert self.console is not None
        num = max(1, len(texts))
        width = self.console.width // num - GAP
        stacked = num == 1 or width < NARROWEST_COLUMN
        if stacked:
            width = self.console.width
            height = height and height // num - 1
        names = [self._text(name, "bold") for name in texts]
        bodies = [self._last_lines(self._text(text), width, height) for text in texts.values()]
        below = [self._text(notes.get(name, ""), "dim") for name in texts]
        if stacked:
            parts = [
                part
                for name, body, small in zip(names, bodies, below, strict=True)
                for part in ((name, body, small) if num > 1 else (body, small))
                if part.plain or part is body
            ]
            return Group(*parts)
        table = Table.grid(expand=True, padding=(0, GAP, 0, 0))
        for _ in texts:
            table.add_column(ratio=1, overflow="fold")
        for row in (names, bodies, below):
            if any(cell.plain for cell in row):
                table.add_row(*row)
        return table

    def _last_lines(self, text: Text, width: int, height: int | None) -> Text:
        if height is None:
            return text
        from rich.text import Text

        assert self.console is not None
        return Text("\n").join(list(text.wrap(self.console, width, overflow="fold"))[-max(1, height) :])

    def _live(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        if self.console is None:
            return None
        from rich.live import Live

        return Live(console=self.console, transient=True, auto_refresh=False, vertical_overflow="crop")

    def _text(self, text: str, style: str = "") -> Text:
        from rich.text import Text

        return Text(self._safe(text), style=style)

    def _safe(self, text: str) -> str:
        return encodable(inert(text), self.stream.encoding)


def note(answer: Answer) -> str:
    """Say what is to be known about an answer: turns left out, or why it is not complete."""
    notes = []
    if answer.num_dropped:
        turns = "turn was" if answer.num_dropped == 1 else f"{answer.num_dropped} turns were"
        notes.append(f"the oldest {turns} left out: the context is full")
    if answer.reason == "length":
        notes.append(f"cut off after {answer.limit} tokens")
    if answer.reason == "cancelled":
        notes.append("stopped")
    return "; ".join(notes)


def why_rows(views: Sequence[TokenView]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Cells of the token table, head and rows; the KL column is there where a KL is."""
    with_kl = any(view.kl is not None for view in views)
    head = ("token", "logprob", "rank", *(["kl"] if with_kl else []), "likeliest")
    rows = [
        (
            repr(view.text),
            f"{view.logprob:.2f}",
            str(view.rank),
            *([f"{view.kl:.3f}"] if view.kl is not None else []),
            ", ".join(f"{other.text!r} {other.logprob:.2f}" for other in view.alternatives),
        )
        for view in views
    ]
    return head, rows
