"""databricks-dolly-15k: human instructions and answers, split into SFT, RL and test prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data import hub
from data.errors import InputError
from data.rows import (
    ChatRow,
    Collected,
    Item,
    Message,
    deduplicate,
    prompt_hash,
    prompt_items,
    split_by_hash,
    user,
)
from data.settings import Settings
from data.text import read_records

KINDS = ("chat", "items")
FOLDER = "sft_dolly15k"
HUB_ID = "databricks/databricks-dolly-15k"
COLUMNS = {"instruction", "context", "response", "category"}


class Config(Settings):
    """Settings of Dolly."""

    max_prompt_characters: int = Field(
        600, ge=1, description="Drop rows whose instruction with context is longer than this."
    )
    max_response_characters: int = Field(600, ge=1, description="Drop rows whose answer is longer than this.")
    categories: tuple[str, ...] | None = Field(
        None, min_length=1, description="Keep these categories only (open_qa, summarization, ...); null: all."
    )
    valid_share: float = Field(
        0.04, ge=0, le=0.5, description="Share of the prompts held out for the SFT loss."
    )
    rl_share: float = Field(
        0.2, ge=0, le=0.9, description="Share of the prompts that RL uses, unseen by SFT."
    )
    test_share: float = Field(0.04, ge=0, le=0.5, description="Share of the prompts that tests use.")

    @model_validator(mode="after")
    def _shares_leave_some(self) -> Config:
        shares = (self.valid_share, self.rl_share, self.test_share)
        if sum(shares) >= 1:
            raise ValueError(f"valid_share + rl_share + test_share = {sum(shares):g}; it must be below 1")
        return self


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The file of the data root, where it is there."""
    path = hub.local_file(data_root, FOLDER, "dolly15k.jsonl.gz")
    return [] if path is None else [path]


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the rows that fit, and split them by hash of the prompt."""
    records = _records(files(config, data_root))
    rows, notes = _rows(config, records)
    unique = deduplicate(rows)
    notes.update(unique.removed)
    # Each share is one of the whole: what is split off first makes the rest smaller.
    rest, test = split_by_hash(unique.rows, config.test_share, seed)
    left = 1 - config.test_share
    rest, rl = split_by_hash(rest, config.rl_share / left, seed + 1)
    train, valid = split_by_hash(rest, config.valid_share / (left - config.rl_share), seed + 2)
    items = {"rl": _items(rl), "test": _items(test)}
    notes["other answers to an RL or test prompt"] = len(rl) + len(test) - sum(map(len, items.values()))
    return Collected(chat={"train": train, "valid": valid}, items=items, notes=notes)


def _records(found: list[Path]) -> list[dict[str, Any]]:
    if not found:
        return hub.rows(HUB_ID, split="train", folder=FOLDER)
    records = []
    for number, record in read_records(found[0]):
        if set(record) != COLUMNS or not all(isinstance(value, str) for value in record.values()):
            raise InputError(f"{found[0]}:{number}: expected the strings {', '.join(sorted(COLUMNS))}")
        records.append(record)
    return records


def _rows(config: Config, records: list[dict[str, Any]]) -> tuple[list[ChatRow], dict[str, Any]]:
    notes = {"read": len(records), "other category": 0, "prompt too long": 0, "response too long": 0}
    rows = []
    for number, record in enumerate(records, start=1):
        context = record["context"].strip()
        prompt = record["instruction"].strip() + (f"\n\n{context}" if context else "")
        response = record["response"].strip()
        if config.categories is not None and record["category"] not in config.categories:
            notes["other category"] += 1
        elif len(prompt) > config.max_prompt_characters:
            notes["prompt too long"] += 1
        elif len(response) > config.max_response_characters:
            notes["response too long"] += 1
        else:
            messages = (*user(prompt), Message(role="assistant", content=response))
            row = ChatRow(f"dolly-{number}", messages, group=record["category"])
            # Answers to one prompt belong together.
            rows.append(replace(row, cluster=f"dolly-{prompt_hash(row)[:16]}"))
    return rows, dict(notes)


def _items(rows: list[ChatRow]) -> list[Item]:
    """One item for each prompt; a base model is asked in the form of a printed question and answer."""
    return [
        replace(item, plain=f"Question: {item.prompt[0]['content']}\nAnswer:") for item in prompt_items(rows)
    ]
