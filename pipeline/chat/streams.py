"""Answers under way on the server's side: streamed or collected, and stopped when their reader goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pipeline.chat.engine import Engine, Ticket
from pipeline.chat.session import Answer, Piece, Request, Sampling
from pipeline.chat.voices import Voice


class Gone(Exception):
    """The client went away; nobody reads an answer."""


class Stream:
    """An answer that the engine draws; iterating gives its pieces and, at last, the Answer."""

    def __init__(
        self, engine: Engine, voice: Voice, request: Request, sampling: Sampling, stream_key: int
    ) -> None:
        """Queue the request; Busy where too many wait."""
        loop, self._ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(self._ready.set)

        self._ticket = Ticket(voice, request, sampling, stream_key, wake)
        engine.submit(self._ticket)

    def cancel(self) -> None:
        """Stop drawing."""
        self._ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece | Answer]:
        """Yield pieces of text, then the Answer; raises what went wrong in the engine."""
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._ticket.events:
                    event = self._ticket.events.popleft()
                    if isinstance(event, Exception):
                        raise event
                    yield event
                    if isinstance(event, Answer):
                        return
        finally:
            self.cancel()

    async def answer(self) -> Answer:
        """Wait for the whole answer."""
        async for event in self:
            if isinstance(event, Answer):
                return event
        raise AssertionError("a stream ends with its answer")


async def merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Piece | Answer]]:
    """Yield the events of several streams as they come, each with the stream's place."""
    queue: asyncio.Queue[tuple[int, Piece | Answer | Exception | None]] = asyncio.Queue()

    async def forward(place: int, stream: Stream) -> None:
        try:
            async for event in stream:
                queue.put_nowait((place, event))
            queue.put_nowait((place, None))
        except Exception as error:
            queue.put_nowait((place, error))

    tasks = [asyncio.create_task(forward(place, stream)) for place, stream in enumerate(streams)]
    live = len(tasks)
    try:
        while live:
            place, event = await queue.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                live -= 1
            else:
                yield place, event
    finally:
        for task in tasks:
            task.cancel()
        for stream in streams:
            stream.cancel()


async def collect(request: HttpRequest, streams: Sequence[Stream]) -> list[Answer]:
    """Wait for whole answers; where the client goes away first, they are stopped and Gone is raised."""
    answering = [asyncio.create_task(stream.answer()) for stream in streams]
    everything = asyncio.gather(*answering)
    gone = asyncio.create_task(_disconnected(request))
    waiting: list[asyncio.Future[Any]] = [everything, gone]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if everything.done():
            return everything.result()
        raise Gone("the client has gone")
    finally:
        for stream in streams:
            stream.cancel()
        for future in (gone, *answering):
            future.cancel()
        await asyncio.gather(everything, gone, *answering, return_exceptions=True)


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Streamed(StreamingResponse):
    """A response that stops its answers when it ends, however it ends."""

    def __init__(self, content: AsyncIterator[str], streams: Sequence[Stream], **options: Any) -> None:
        """Take the text to send and the answers that it is made of."""
        super().__init__(content, **options)
        self.streams = streams
        self.headers["Cache-Control"] = "no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, and stop the answers whatever happens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for stream in self.streams:
                stream.cancel()
