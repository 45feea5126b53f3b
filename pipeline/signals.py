"""Stopping on request: the first signal asks the stage to save and stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted


class StopFlag:
    """Remembers the first signal that asked to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise Interrupted when a signal was seen; call it when everything is saved."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextmanager
def stop_on_signals(flag: StopFlag, say: Callable[[str], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM set the flag, a second one end the process at once; outlive a lost terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if flag.signum is not None:
            # At once: whatever was being saved is in a staging folder, the previous checkpoint is intact.
            os._exit(128 + signum)
        flag.signum = signum
        say(f"{signal.Signals(signum).name}: saving, then stopping; again to stop at once")

    handlers: dict[int, Any] = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: signal.SIG_IGN}
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
