"""Children's books of Project Gutenberg for pretraining; some books are held out whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from data import hub
from data.errors import InputError
from data.randomness import key
from data.rows import Collected, TextRow
from data.settings import Settings
from data.text import chunks, read_records, unwrap

KINDS = ("text",)
FOLDER = "text_gutenberg_children"
HUB_ID = "cam-cst/cbt"  # the Children's Book Test (Hill et al., 2016): its raw part holds 108 such books
COLUMNS = {"title", "text", "split"}
# Of the training books as a whole, and of a byte-level BPE of 4,096 (measured), for the plan.
TRAIN_CHARACTERS, CHARACTERS_PER_TOKEN = 24_200_000, 3.4

_ILLUSTRATION = re.compile(r"[^\S\n]*\[(?:Illustration|Picture)[^\]]{0,600}\]", re.IGNORECASE)


class Config(Settings):
    """Settings of the children's books."""

    max_characters: int | None = Field(
        None,
        ge=1,
        description="Keep about this many characters of training text, drawn over all books; null: all.",
    )
    max_valid_characters: int | None = Field(
        500_000, ge=1, description="The same for the held-out books; null: all."
    )
    document_characters: int = Field(
        2000,
        ge=100,
        le=1_000_000,
        description="Books are cut at paragraphs into documents of at most this size.",
    )
    join_lines: bool = Field(
        True, description="Join the lines of paragraphs that print broke at a fixed width."
    )


def num_tokens(config: Config) -> int:
    """About how many tokens the training text will have, from the settings alone."""
    characters = min(config.max_characters or TRAIN_CHARACTERS, TRAIN_CHARACTERS)
    return round(characters / CHARACTERS_PER_TOKEN)


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The file of the data root, where it is there."""
    path = hub.local_file(data_root, FOLDER, "books.jsonl.gz")
    return [] if path is None else [path]


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the books without picture tags, cut into documents; the data set marks the held-out books."""
    text: dict[str, list[TextRow]] = {"train": [], "valid": []}
    notes: dict[str, Any] = {"picture tags removed": 0}
    for number, book in enumerate(_books(files(config, data_root)), start=1):
        name = f"book-{book.get('pg_id', number)}"
        content, num_tags = _ILLUSTRATION.subn("", book["text"])
        notes["picture tags removed"] += num_tags
        pieces = chunks(unwrap(content) if config.join_lines else content, config.document_characters)
        text[book["split"]] += [TextRow(f"{name}-{n}", piece, name) for n, piece in enumerate(pieces)]
        notes[f"books {book['split']}"] = notes.get(f"books {book['split']}", 0) + 1
    limits = {"train": config.max_characters, "valid": config.max_valid_characters}
    for split, limit in limits.items():
        text[split], notes[f"documents left out {split}"] = _thin(text[split], limit, seed)
    return Collected(text=text, notes=notes)


def _books(found: list[Path]) -> list[dict[str, Any]]:
    if not found:
        splits = {"train": "train", "validation": "valid"}
        return [
            {"title": row["title"], "text": row["content"], "split": ours}
            for theirs, ours in splits.items()
            for row in hub.rows(HUB_ID, name="raw", split=theirs, folder=FOLDER)
        ]
    books = []
    for number, book in read_records(found[0]):
        strings = all(isinstance(book.get(column), str) for column in COLUMNS)
        if not strings or book["split"] not in ("train", "valid"):
            raise InputError(
                f"{found[0]}:{number}: expected the strings title, text and split (train or valid) in each book"
            )
        books.append(book)
    return books


def _thin(rows: list[TextRow], limit: int | None, seed: int) -> tuple[list[TextRow], int]:
    """Keep documents in the order of a keyed hash until the limit is reached; they stay in the books' order."""
    if limit is None:
        return rows, 0
    kept: set[str] = set()
    size = 0
    for row in sorted(rows, key=lambda row: key("books", seed, row.id)):
        if size >= limit:
            break
        kept.add(row.id)
        size += len(row.text)
    return [row for row in rows if row.id in kept], len(rows) - len(kept)
