"""Your own conversations: .jsonl rows in TRL's forms {"messages"} or {"prompt", "completion"}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data.row_files import FileSettings, read_rows, require_split, row_files
from data.rows import ChatRow, Collected, prompt_items, split_by_hash

KINDS = ("chat", "items")


class Config(FileSettings):
    """Settings of chat rows; splits are by hash of the prompt."""

    valid_path: str | None = Field(
        None, description="Held-out conversations of their own; null: split by hash."
    )
    valid_share: float = Field(0.05, ge=0, le=0.5, description="Share of prompts held out for the SFT loss.")
    rl_share: float = Field(0.0, ge=0, le=0.9, description="Share of prompts that RL uses, unseen by SFT.")
    test_share: float = Field(0.0, ge=0, le=0.5, description="Share of prompts that tests use.")

    @model_validator(mode="after")
    def _shares_leave_some(self) -> Config:
        total = self.valid_share + self.rl_share + self.test_share
        if total >= 1:
            raise ValueError(f"valid_share + rl_share + test_share = {total:g}; it must be below 1")
        return self


def files(config: Config, data_root: Path | None) -> list[Path]:
    """Every file that is read."""
    return row_files(
        [config.path] if config.valid_path is None else [config.path, config.valid_path], data_root
    )


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the conversations and split them by hash of the prompt."""
    rows, notes = read_rows(config, config.path, ChatRow, data_root, adapt=_adapt)
    rest, test = split_by_hash(rows, config.test_share, seed)
    left = 1 - config.test_share
    rest, rl = split_by_hash(rest, config.rl_share / left, seed + 1)
    valid: list[ChatRow] = []
    if config.valid_path is not None:
        held_out, notes["valid"] = read_rows(config, config.valid_path, ChatRow, data_root, adapt=_adapt)
        valid = [
            ChatRow(f"valid/{row.id}", row.messages, f"valid/{row.cluster}", row.group) for row in held_out
        ]
    elif config.valid_share:
        rest, valid = split_by_hash(rest, config.valid_share / (left - config.rl_share), seed + 2)
        require_split(valid, "valid", len(rows))
    items = {split: prompt_items(found) for split, found in (("rl", rl), ("test", test)) if found}
    return Collected(chat={"train": rest, "valid": valid}, items=items, notes=notes)


def _adapt(record: dict[str, Any]) -> dict[str, Any]:
    """Join TRL's prompt and completion, each a string or a list of messages, to one conversation."""
    given = {"prompt", "completion"} & set(record)
    if "messages" in record or not given:
        return record
    if len(given) == 1:
        other = "completion" if "prompt" in given else "prompt"
        raise ValueError(f"missing column `{other}`; a row has `messages`, or `prompt` and `completion`")
    turns: list[Any] = []
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        value = record[column]
        turns += [{"role": role, "content": value}] if not isinstance(value, list) else value
    rest = {column: value for column, value in record.items() if column not in ("prompt", "completion")}
    return {**rest, "messages": turns}
