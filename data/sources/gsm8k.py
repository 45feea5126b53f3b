"""GSM8K: grade-school word problems with worked solutions, whose final number can be checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data import hub
from data.errors import InputError
from data.rows import ChatRow, Collected, Item, Message, deduplicate, split_by_hash, user
from data.settings import Settings
from data.text import read_records
from data.verify import MARK, final_number

KINDS = ("chat", "items")
FOLDER = "sft_gsm8k"
HUB_ID = "openai/gsm8k"
COLUMNS = {"question", "answer"}
_ANNOTATION = re.compile(r"<<[^<>]*>>")


class Config(Settings):
    """Settings of GSM8K."""

    keep_annotations: bool = Field(
        False, description="Keep the calculator notes of the solutions, such as <<48/2=24>>."
    )
    valid_share: float = Field(
        0.04, ge=0, le=0.5, description="Share of the training problems held out for the SFT loss."
    )
    rl_share: float = Field(
        0.5, ge=0, le=0.9, description="Share of the training problems that RL uses, unseen by SFT."
    )
    max_test_problems: int | None = Field(None, ge=1, description="Test problems taken; null takes all.")

    @model_validator(mode="after")
    def _shares_leave_some(self) -> Config:
        if self.valid_share + self.rl_share >= 1:
            raise ValueError(
                f"valid_share + rl_share = {self.valid_share + self.rl_share:g}; it must be below 1"
            )
        return self


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the data root, where they are there."""
    paths = [hub.local_file(data_root, FOLDER, f"{split}.jsonl.gz") for split in ("train", "test")]
    return [path for path in paths if path is not None]


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read both splits; what RL asks is not in the demonstrations."""
    notes: dict[str, Any] = {}
    rows = {}
    for split in ("train", "test"):
        unique = deduplicate(_rows(config, _records(split, data_root), split))
        rows[split] = unique.rows
        notes[f"{split} problems"] = len(unique.rows)
        notes[f"{split} duplicates"] = sum(unique.removed.values())
    rest, rl = split_by_hash(rows["train"], config.rl_share, seed)
    train, valid = split_by_hash(rest, config.valid_share / (1 - config.rl_share), seed + 1)
    items = {"rl": _items(rl), "test": _items(rows["test"][: config.max_test_problems])}
    return Collected(chat={"train": train, "valid": valid}, items=items, notes=notes)


def _records(split: str, data_root: Path | None) -> list[dict[str, Any]]:
    path = hub.local_file(data_root, FOLDER, f"{split}.jsonl.gz")
    if path is None:
        return hub.rows(HUB_ID, split=split, folder=FOLDER)
    records = []
    for number, record in read_records(path):
        if set(record) != COLUMNS or not all(isinstance(value, str) for value in record.values()):
            raise InputError(f"{path}:{number}: expected the strings {', '.join(sorted(COLUMNS))}")
        if MARK not in record["answer"] or final_number(record["answer"]) is None:
            raise InputError(f"{path}:{number}: the answer does not end with {MARK} and a number")
        records.append(record)
    return records


def _rows(config: Config, records: list[dict[str, Any]], split: str) -> list[ChatRow]:
    rows = []
    for number, record in enumerate(records, start=1):
        answer = record["answer"] if config.keep_annotations else _ANNOTATION.sub("", record["answer"])
        messages = (*user(record["question"].strip()), Message(role="assistant", content=answer.strip()))
        name = f"gsm8k-{split}-{number}"
        rows.append(ChatRow(name, messages, cluster=name, group="gsm8k"))
    return rows


def _items(rows: list[ChatRow]) -> list[Item]:
    return [
        Item(
            row.id,
            row.messages[:-1],
            row.cluster,
            "gsm8k",
            "gsm8k",
            f"Question: {row.messages[0]['content']}\nAnswer:",
            {"answer": row.messages[-1]["content"].rpartition(MARK)[2].strip()},
        )
        for row in rows
    ]
