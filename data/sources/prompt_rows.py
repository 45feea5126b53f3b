"""Your own prompts for reinforcement learning and for tests: .jsonl rows with a `prompt`, text or messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from data.row_files import FileSettings, read_rows, require_split, row_files
from data.rows import Collected, Item, split_by_hash

KINDS = ("items",)


class Config(FileSettings):
    """Settings of prompt rows; the split is by hash of the prompt."""

    test_share: float = Field(0.1, ge=0, le=1, description="Share of prompts that tests use, unseen by RL.")


def files(config: Config, data_root: Path | None) -> list[Path]:
    """Every file that is read."""
    return row_files([config.path], data_root)


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the prompts; columns beside `prompt` are those of `data.rows.Item` (truth, task, group, cluster)."""
    rows, notes = read_rows(config, config.path, Item, data_root, adapt=_adapt)
    rl, test = split_by_hash(rows, config.test_share, seed)
    if config.test_share:
        require_split(test, "test", len(rows))
    return Collected(items={"rl": rl, "test": test}, notes=notes)


def _adapt(record: dict[str, Any]) -> dict[str, Any]:
    """Read a text as a user's turn."""
    if isinstance(record.get("prompt"), str):
        return {**record, "prompt": [{"role": "user", "content": record["prompt"]}]}
    return record
