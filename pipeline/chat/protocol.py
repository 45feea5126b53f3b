"""HTTP as uvicorn speaks it over httptools, with bounds on what comes before a body.

httptools keeps all headers of a request until they are whole, however many bytes and hours that takes; here a
head that is too long or too slow ends its connection. The body is bounded where it is read (`requests`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536  # of request line and headers, beyond the chunk in which they begin
HEAD_SECONDS = 20.0  # for a head to come, from the connection or its first byte on
TOO_LONG = b"431 Request Header Fields Too Large"
TOO_SLOW = b"408 Request Timeout"


class BoundedHttp(HttpToolsProtocol):
    """A connection of a client; between requests uvicorn's own time to keep it alive counts."""

    _timer: asyncio.TimerHandle | None = None
    _num_bytes = 0  # of the head that is under way
    _chunk = 0

    def connection_made(self, transport: Any) -> None:
        """A client has come, who is to say something."""
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._chunk = len(data)
        super().data_received(data)
        if self._timer is not None:
            self._num_bytes += len(data)
            if self._num_bytes > MAX_HEAD_BYTES:
                self._refuse(TOO_LONG)

    def on_message_begin(self) -> None:
        """The first byte of a request; what came before it in the same chunk is not of its head."""
        super().on_message_begin()
        self._begin_head(-self._chunk)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self, num_bytes: int = 0) -> None:
        self._end_head()
        self._num_bytes = num_bytes
        self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, TOO_SLOW)

    def _end_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes) -> None:
        self._end_head()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
