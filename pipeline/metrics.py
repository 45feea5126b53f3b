"""The metrics file of a stage: one JSON line per logged step, whole lines, none newer than the checkpoint."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint import storage_errors, write_atomic


class MetricsFile:
    """Appends lines such as `{"step": 3, "loss": 2.5, "tokens_per_second": 900.0}`; a torn line is cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        cut_torn_line(path)

    def append(self, step: int, values: Mapping[str, float | int | str | bool | None]) -> None:
        """Write one line; None is left out (not measured), a measured NaN or infinity becomes null."""
        record: dict[str, Any] = {"step": int(step)}
        record.update((name, _plain(value)) for name, value in values.items() if value is not None)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with storage_errors(self.path, len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def cut(self, step: int) -> None:
        """Drop the lines of steps after `step`: their work is done again."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            write_atomic(self.path, "".join(kept))

    def flush(self) -> None:
        """Bring everything written to the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file, also while it is being written; empty where there is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def cut_torn_line(path: Path) -> None:
    """Drop what stands after the last line break of a file, if there is one."""
    if not path.exists():
        return
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        write_atomic(path, whole)


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    number = value.item() if hasattr(value, "item") else value
    return number if math.isfinite(number) else None
