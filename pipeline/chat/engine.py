"""One thread that draws all answers: requests wait in a bounded queue and share the batch of their model.

Only this thread computes, so that requests never fight for the cores. A request joins the batch at the next token
(see `pipeline.live_batch`), and whoever goes away leaves it at the next. What is bounded: answers that are drawn
at once, requests that wait, and, by its limit of tokens, what an answer can grow to while nobody reads it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.chat.session import Answer, Draft, Piece, Request, Sampling
from pipeline.chat.voices import Voice

if TYPE_CHECKING:
    from pipeline.live_batch import LiveBatch

T = TypeVar("T")
MAX_ROWS = 32  # answers drawn at once
MAX_WAITING = 64  # requests that wait for their turn
MAX_JOBS = 64  # other computations that wait


class Busy(Exception):
    """The queue is full, or the engine is closing."""


class Ticket:
    """A request on its way: `events` fills with pieces of text and ends with the Answer, or with an exception."""

    def __init__(
        self, voice: Voice, request: Request, sampling: Sampling, stream_key: int, wake: Callable[[], None]
    ) -> None:
        """Take what is asked; `wake` is called from the engine's thread when there are new events."""
        self.voice, self.request, self.sampling, self.key = voice, request, sampling, stream_key
        self.draft = Draft(voice, request, sampling)
        self.events: deque[Piece | Answer | Exception] = deque()
        self.wake = wake
        self.cancelled = False
        self.over = False

    def cancel(self) -> None:
        """Stop drawing at the next token; what was drawn until then is the answer."""
        self.cancelled = True

    def push(self, token: int, logprob: float, *, last: bool) -> None:
        """Add a drawn token."""
        self._say(self.draft.push(token, logprob))
        if last or self.draft.stopped:
            self.finish()

    def finish(self) -> None:
        """End the answer with what there is."""
        self._say(self.draft.finish())
        self._end(self.draft.answer(cancelled=self.cancelled and not self.draft.stopped))

    def fail(self, error: Exception) -> None:
        """End without an answer."""
        self._end(error)

    def _say(self, text: str) -> None:
        if text:
            self.events.append(Piece(self.voice.name, text))

    def _end(self, event: Answer | Exception) -> None:
        self.events.append(event)
        self.over = True


class Engine:
    """Draws the answers of all who ask, in one thread."""

    def __init__(self, *, max_rows: int = MAX_ROWS, max_waiting: int = MAX_WAITING) -> None:
        """Start the thread; `close` ends it."""
        self._max_rows, self._max_waiting = max_rows, max_waiting
        self._waiting: deque[Ticket] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._batches: dict[str, LiveBatch] = {}
        self._live: dict[str, list[Ticket]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, ticket: Ticket) -> Ticket:
        """Queue a request.

        Raises:
            Busy: too many wait already.
        """
        with self._changed:
            gone = [waiting for waiting in self._waiting if waiting.cancelled]
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.cancelled)
            refused = self._closed or len(self._waiting) >= self._max_waiting
            if not refused:
                self._waiting.append(ticket)
                self._changed.notify()
        for waiting in gone:
            self._finish(waiting)
        if refused:
            raise Busy(f"{self._max_waiting} requests are waiting already; try again in a moment")
        return ticket

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Compute something else between two tokens.

        Raises:
            Busy: too much waits already.
        """
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        with self._changed:
            if self._closed or len(self._jobs) >= MAX_JOBS:
                raise Busy(f"{len(self._jobs)} computations are waiting already; try again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Stop drawing; answers under way end as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # --- the thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._admit():
            if self._jobs:
                self._jobs.popleft()()
            for name in list(self._live):
                self._step(name)
        for tickets in self._live.values():
            for ticket in tickets:
                ticket.cancel()
                self._finish(ticket)

    def _admit(self) -> bool:
        """Wait until there is something to do, and let requests join; False when the engine closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._jobs or self._live)
            num_live = sum(map(len, self._live.values()))
            admitted = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_rows - num_live))
            ]
            if self._closed:
                admitted += self._waiting
                self._waiting.clear()
        for ticket in admitted:
            self._join(ticket)
        return not self._closed

    def _join(self, ticket: Ticket) -> None:
        from pipeline.live_batch import Wanted

        if ticket.cancelled:
            return self._finish(ticket)
        voice, sampling = ticket.voice, ticket.sampling
        try:
            if voice.name not in self._batches:
                self._batches[voice.name] = voice.new_batch()
            self._batches[voice.name].join(
                Wanted(
                    ticket,
                    ticket.request.tokens,
                    ticket.key,
                    ticket.request.limit,
                    sampling.temperature,
                    sampling.top_k,
                    sampling.top_p,
                )
            )
        except Exception as error:
            return self._fail([ticket], error)
        self._live.setdefault(voice.name, []).append(ticket)
        return None

    def _step(self, name: str) -> None:
        """A token for every answer of a model; whoever is over or has gone leaves."""
        from pipeline.live_batch import Unread

        batch, tickets = self._batches[name], self._live[name]
        try:
            gone = [ticket for ticket in tickets if ticket.cancelled]
            for ticket in gone:
                ticket.finish()
            if gone:
                batch.leave(gone)
            for event in batch.step():
                whose: Any = event.name
                if isinstance(event, Unread):
                    whose.fail(event.error)
                else:
                    whose.push(event.token, event.logprob, last=event.last)
            batch.leave([ticket for ticket in tickets if ticket.over])
        except Exception as error:  # a fault of the model: its answers end, those of others go on
            del self._batches[name]
            self._fail(tickets, error)
        for ticket in tickets:
            self._tell(ticket)
        self._live[name] = [ticket for ticket in tickets if not ticket.over]
        if not self._live[name]:
            del self._live[name]

    def _fail(self, tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            if not ticket.over:
                ticket.fail(error)
            self._tell(ticket)

    def _finish(self, ticket: Ticket) -> None:
        try:
            if not ticket.over:
                ticket.finish()
        except Exception as error:
            ticket.fail(error)
        self._tell(ticket)

    def _tell(self, ticket: Ticket) -> None:
        if ticket.events:
            with suppress(RuntimeError):  # the loop of whoever asked has gone
                ticket.wake()
