"""What a run shows while it works: bars with rate and time left on a terminal, few plain lines elsewhere.

Nothing here can stop training: a terminal that goes away is replaced by the null device.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

PLAIN_SECONDS = 30.0  # between two progress lines where there is no terminal


class Bar(Protocol):
    """A running count of work done."""

    def advance(self, num: float = 1, **shown: float) -> None:
        """Add `num` units; `shown` values (a loss, a score) stand beside the bar."""


class Reporter:
    """Plain lines on a stream: one per message, and one per bar every half minute."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream, self.quiet = stream, quiet

    def say(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            _print(text, self.stream or sys.stderr)

    @contextmanager
    def progress(self, description: str, total: float, unit: str, done: int = 0) -> Iterator[Bar]:
        """Count `total` units of work, of which `done` were done by an earlier process."""
        yield _PlainBar(self, description, total, unit, done)


class TerminalReporter(Reporter):
    """Bars by rich, redrawn in place."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console

        super().__init__(stream)
        self.console = Console(file=stream or sys.stderr, highlight=False)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        with suppress(OSError, ValueError):
            self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, description: str, total: float, unit: str, done: int = 0) -> Iterator[Bar]:
        """Show a bar with rate and time left for as long as the work lasts."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(description, total=max(total, 1), completed=done, rate="", shown="")
            start, count = time.monotonic(), 0.0

            class _TerminalBar:
                def advance(self, num: float = 1, **shown: float) -> None:
                    nonlocal count
                    count += num
                    rate = format_rate(count / max(time.monotonic() - start, 1e-9), unit)
                    bars.update(task, advance=num, rate=rate, shown=_shown(shown))

            yield _TerminalBar()


class _PlainBar:
    def __init__(self, reporter: Reporter, description: str, total: float, unit: str, done: int) -> None:
        self.reporter, self.description, self.unit = reporter, description, unit
        self.total, self.done, self.begun = max(total, 1), float(done), done
        self.start = self.shown = time.monotonic()

    def advance(self, num: float = 1, **shown: float) -> None:
        self.done += num
        now = time.monotonic()
        if now - self.shown < PLAIN_SECONDS:
            return
        self.shown = now
        rate = (self.done - self.begun) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        self.reporter.say(
            f"{self.description} {min(self.done / self.total, 1.0):.0%} {format_rate(rate, self.unit)}, "
            f"{format_seconds(left)} left{_shown(shown, ', ')}"
        )


def make_reporter() -> Reporter:
    """Rich on a terminal, plain lines elsewhere; both on standard error: results go to standard output."""
    return TerminalReporter() if sys.stderr.isatty() else Reporter()


def format_rate(rate: float, unit: str) -> str:
    """Format "12,300 tokens/s"."""
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2f} {unit}/s"


def format_seconds(seconds: float) -> str:
    """Format "45 s", "3 min 20 s" or "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s" if seconds >= 9.95 or seconds <= 0 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_bytes(num: float) -> str:
    """Format "12.3 MB" in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num < 1000:
            return f"{num:.0f} B" if unit == "B" else f"{num:.1f} {unit}"
        num /= 1000
    return f"{num:.1f} TB"


class SafeStream:
    """A text stream that outlives its reader: after a failed write its output goes to the null device."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text when nobody can read it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._abandon()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._abandon()

    def _abandon(self) -> None:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_output() -> None:
    """Make standard output and error survive a pipe or terminal that is closed, even from the start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))


def _print(text: str, stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        print(text, file=stream, flush=True)


def _shown(values: dict[str, float], before: str = "") -> str:
    text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
    return before + text if text else ""
