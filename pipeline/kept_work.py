"""A folder for work outside a run: it outlives an interruption, so that the same command goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.errors import InputError
from pipeline.run_directory import locked

FORMAT = 1  # of what such folders hold
KEPT_DAYS = 30  # of work that was begun and is not gone on with


def root() -> Path:
    """Where the folders lie: the user's cache, as the XDG base directory specification says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fledge" / "work"


@contextmanager
def kept_work(what: dict[str, Any], reads: Iterable[Path]) -> Iterator[Path]:
    """Give the folder of some work, which is removed when the work is done.

    What was begun is kept where it ends in an error, for `KEPT_DAYS`. A cache that cannot be written gives a
    folder that outlives nothing.

    Args:
        what: JSON-able settings of the work; other settings have another folder.
        reads: files and folders that it reads; another folder where any of them has changed.

    Raises:
        InputError: another process does the same work.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, what, _state(reads)], sort_keys=True).encode()).hexdigest()
    folder = root() / digest[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        with TemporaryDirectory(prefix="fledge-") as name:
            yield Path(name)
        return
    with locked(folder):
        _forget_old(folder)
        try:
            yield folder
        except InputError:
            if not any(path.stat().st_size for path in folder.rglob("*.jsonl")):
                shutil.rmtree(folder)  # refused before there was anything to keep
            raise
        shutil.rmtree(folder)


def _forget_old(own: Path) -> None:
    """Remove other work that was begun long ago and that no process is at."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for folder in own.parent.iterdir():
        # Another process may be at it, or done with it and removing it.
        with suppress(InputError, OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if folder != own and newest < oldest:
                with locked(folder):
                    shutil.rmtree(folder)


def _state(reads: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of every file; of what does not exist (a hub id) the name alone."""
    found = []
    for path in reads:
        files = [entry for entry in sorted(path.rglob("*")) if entry.is_file()] if path.is_dir() else [path]
        for file in files:
            known = file.stat() if file.is_file() else None
            found.append(
                (str(file.resolve()), known.st_size, known.st_mtime_ns) if known else (str(path), 0, 0)
            )
    return found
