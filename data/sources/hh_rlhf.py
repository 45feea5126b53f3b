"""Anthropic HH-RLHF: pairs of answers in dialogues, one preferred by a person (Bai et al., 2022).

The test files serve as the whole: they are split anew by hash of the dialogue's first turn. A few dialogues
break off, have two turns of one speaker in a row or differ before their last turn; they are dropped and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data import hub
from data.errors import InputError
from data.rows import (
    Collected,
    Message,
    PreferenceRow,
    deduplicate,
    parse_messages,
    prompt_hash,
    prompt_items,
    split_by_hash,
    split_dialogues,
)
from data.settings import Settings
from data.text import read_records

KINDS = ("preferences", "items")
FOLDER = "pref_hh_rlhf"
HUB_ID = "Anthropic/hh-rlhf"
FILES = {"harmless": "harmless-base.test.jsonl.gz", "helpful": "helpful.test.jsonl.gz"}
HUB_FOLDERS = {"harmless": "harmless-base", "helpful": "helpful-base"}
ROLES = {"Human": "user", "Assistant": "assistant"}

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


class Config(Settings):
    """Settings of HH-RLHF."""

    subsets: tuple[Literal["harmless", "helpful"], ...] = Field(
        ("harmless", "helpful"), min_length=1, description="The parts to read."
    )
    max_prompt_characters: int = Field(
        1000, ge=1, description="Drop pairs whose dialogue before the last turn is longer than this."
    )
    max_completion_characters: int = Field(
        800, ge=1, description="Drop pairs of which one answer is longer than this."
    )
    test_share: float = Field(
        0.35, gt=0, lt=1, description="Share of the dialogues (by their first turn) that is held out."
    )
    rl_prompts: bool = Field(False, description="Also give the prompts of the training pairs to RL.")


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the data root, where they are there."""
    found = [hub.local_file(data_root, FOLDER, FILES[subset]) for subset in config.subsets]
    return [path for path in found if path is not None]


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the pairs that fit and hold out a share of the dialogues."""
    rows: list[PreferenceRow] = []
    notes: dict[str, Any] = {}
    for subset in config.subsets:
        found, counts = _subset(config, subset, data_root)
        unique = deduplicate(found)
        rows += unique.rows
        notes[subset] = {**counts, **unique.removed}
    train, test = split_by_hash(rows, config.test_share, seed)
    items = {"rl": prompt_items(train)} if config.rl_prompts else {}
    return Collected(preferences={"train": train, "test": test}, items=items, notes=notes)


def _subset(
    config: Config, subset: str, data_root: Path | None
) -> tuple[list[PreferenceRow], dict[str, int]]:
    records = _records(subset, hub.local_file(data_root, FOLDER, FILES[subset]))
    counts = Counter({"read": len(records)})
    rows = []
    for number, record in enumerate(records, start=1):
        try:
            pair = [parse_dialogue(record[side]) for side in ("chosen", "rejected")]
            prompt, chosen, rejected = split_dialogues(*pair)
        except ValueError:
            counts["malformed dialogue"] += 1
            continue
        if sum(len(message["content"]) for message in prompt) > config.max_prompt_characters:
            counts["prompt too long"] += 1
        elif max(len(chosen), len(rejected)) > config.max_completion_characters:
            counts["completion too long"] += 1
        else:
            row = PreferenceRow(f"hh-{subset}-{number}", prompt, chosen, rejected, kind=f"hh_rlhf/{subset}")
            # Dialogues that open alike were often continued from one another: they stay on one side.
            cluster = f"hh-{prompt_hash(replace(row, prompt=prompt[:1]))[:16]}"
            rows.append(replace(row, cluster=cluster))
    return rows, dict(counts)


def _records(subset: str, path: Path | None) -> list[dict[str, Any]]:
    if path is None:
        return hub.rows(HUB_ID, data_dir=HUB_FOLDERS[subset], split="test", folder=FOLDER)
    records = []
    for number, record in read_records(path):
        if set(record) != {"chosen", "rejected"} or not all(
            isinstance(text, str) for text in record.values()
        ):
            raise InputError(f"{path}:{number}: expected the strings chosen and rejected")
        records.append(record)
    return records


def parse_dialogue(text: str) -> list[Message]:
    r"""Parse a dialogue of turns that begin with `\n\nHuman:` or `\n\nAssistant:`.

    Raises:
        ValueError: text before the first speaker, speakers out of turn, an empty turn, or no answer at the end.
    """
    before, *parts = _SPEAKER.split(text)
    if before.strip():
        raise ValueError(f"the dialogue begins with {before[:40]!r}; expected a turn of the human")
    messages = [
        Message(role=ROLES[speaker], content=content.strip())
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    for place, message in enumerate(messages):
        if not message["content"]:
            raise ValueError(f"turn {place} is empty")
    return list(parse_messages(messages, last="assistant", what="turns"))
