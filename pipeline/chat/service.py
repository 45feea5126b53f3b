"""What a server of a run holds, and the answers that it draws for whoever asks: no HTTP here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pipeline.chat.engine import MAX_WAITING, Busy, Engine
from pipeline.chat.insight import Rewards, rewards_of
from pipeline.chat.known import Known, known_of
from pipeline.chat.session import Request, Sampling
from pipeline.chat.streams import Stream
from pipeline.chat.voices import Voice, Voices, open_run
from pipeline.chat.votes import Ballot

T = TypeVar("T")
SHOWN = ("base", "sft", "ppo")  # side by side where a run has them
MOST_SHOWN = 4
AT_ONCE = 2  # requests that are prepared at the same time
REFERENCE = "sft"  # what PPO's KL is measured from


@dataclass
class Service:
    """A run that talks: its voices, what it knows, its votes, and the engine that draws."""

    folder: Path
    voices: Voices
    known: Known
    rewards: Rewards
    ballot: Ballot
    engine: Engine = field(default_factory=Engine)
    few: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    preparing: int = 0

    @property
    def shown(self) -> list[str]:
        """The stages that a page shows first."""
        names = [name for name in SHOWN if name in self.voices.names]
        return names if len(names) > 1 else list(self.voices.names[:MOST_SHOWN])

    @property
    def reference(self) -> str:
        """The stage that KL is measured from where nothing else is asked for."""
        return REFERENCE if REFERENCE in self.voices.names else self.voices.names[0]

    @property
    def report(self) -> Path | None:
        """The run's report, if it is there."""
        path = self.folder / "report.html"
        return path if path.is_file() else None

    async def voice(self, name: str, *, plain_base: bool = True) -> Voice:
        """Load a voice, between two tokens of whatever is being drawn.

        Raises:
            InputError: the run has no such stage, or its model cannot be loaded.
            Busy: too much waits.
        """
        name = self.voices.check(name)
        loaded = self.voices.loaded.get(name)
        if loaded is None:
            loaded = await self.compute(lambda: self.voices.pick(name))
        return replace(loaded, plain=loaded.plain and plain_base)

    async def prepare(
        self, how: Callable[[Voice, T, Sampling], Request], voice: Voice, asked: T, sampling: Sampling
    ) -> Request:
        """Fit what is asked into the model's context (`session.prepare`), in a thread, a few at a time.

        Raises:
            InputError: it cannot be answered.
            Busy: too many wait.
        """
        if self.preparing >= MAX_WAITING:
            raise Busy(f"{self.preparing} requests are waiting already; try again in a moment")
        self.preparing += 1
        try:
            async with self.few:
                return await asyncio.to_thread(how, voice, asked, sampling)
        finally:
            self.preparing -= 1

    async def compute(self, work: Callable[[], T]) -> T:
        """Compute something in the engine's thread."""
        return await asyncio.wrap_future(self.engine.run(work))

    def start_all(self, wanted: Sequence[tuple[Voice, Request, Sampling, int]]) -> list[Stream]:
        """Queue several answers, all or none: voice, prepared request, sampling and key of each.

        Raises:
            Busy: too many wait.
        """
        started: list[Stream] = []
        try:
            for one in wanted:
                started.append(Stream(self.engine, *one))
        except BaseException:
            for stream in started:
                stream.cancel()
            raise
        return started

    def close(self) -> None:
        """Stop drawing."""
        self.engine.close()


def open_service(run: str | Path, *, stages: Sequence[str] | None = None) -> Service:
    """Open a run (or a model) for serving, and load the voices that are shown first.

    `stages` limits what is served, to save memory.

    Raises:
        InputError: there is no such run, stage or model, or its votes are malformed.
    """
    voices = open_run(run)
    if stages is not None:
        voices = replace(voices, names=tuple(voices.check_all(list(stages))))
    folder = voices.folder
    ballot = Ballot(folder)
    service = Service(folder, voices, known_of(folder), rewards_of(folder), ballot)
    try:
        for name in service.shown:
            voices.pick(name)
    except BaseException:
        service.close()
        raise
    return service
