"""Replies that cost money, kept on the disk as they come, so that an interrupted stage pays for none twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock

from pipeline.checkpoint import fsync_path, storage_errors
from pipeline.metrics import cut_torn_line


class KeptReplies:
    """Appends lines such as `{"request": "<digest>", "reply": "Verdict: A"}`, each flushed to the disk.

    Several threads may ask and add at a time. A last line that a death tore is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_torn_line(path)
            path.touch()
            fsync_path(path.parent)
        with path.open(encoding="utf-8", newline="\n") as file:
            rows = [json.loads(line) for line in file]
        self._found: dict[str, str] = {row["request"]: row["reply"] for row in rows}

    def get(self, request: str) -> str | None:
        """The reply to a request, by its digest; None where there is none yet."""
        return self._found.get(request)

    def add(self, request: str, reply: str) -> None:
        """Keep a reply; it is on the disk when this returns."""
        line = json.dumps({"request": request, "reply": reply}) + "\n"
        with self._lock, storage_errors(self.path, len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._found[request] = reply
