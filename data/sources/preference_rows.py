"""Your own preference pairs: .jsonl rows in TRL's forms, conversational or plain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from data.row_files import FileSettings, read_rows, require_split, row_files
from data.rows import Collected, PreferenceRow, prompt_items, split_by_hash

KINDS = ("preferences", "items")


class Config(FileSettings):
    """Settings of preference rows; splits are by hash of the prompt."""

    test_path: str | None = Field(None, description="Held-out pairs of their own; null: split by hash.")
    test_share: float = Field(
        0.1, ge=0, le=0.9, description="Share of prompts held out where there is no test_path."
    )
    rl_prompts: bool = Field(False, description="Also give the prompts of the training pairs to RL.")


def files(config: Config, data_root: Path | None) -> list[Path]:
    """Every file that is read."""
    return row_files(
        [config.path] if config.test_path is None else [config.path, config.test_path], data_root
    )


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the pairs and hold out a share of the prompts."""
    train, notes = read_rows(config, config.path, PreferenceRow, data_root)
    test: list[PreferenceRow] = []
    if config.test_path is not None:
        found, notes["test"] = read_rows(config, config.test_path, PreferenceRow, data_root)
        test = [replace(row, id=f"test/{row.id}", cluster=f"test/{row.cluster}") for row in found]
    elif config.test_share:
        total = len(train)
        train, test = split_by_hash(train, config.test_share, seed)
        require_split(test, "test", total)
    items = {"rl": prompt_items(train)} if config.rl_prompts else {}
    return Collected(preferences={"train": train, "test": test}, items=items, notes=notes)
