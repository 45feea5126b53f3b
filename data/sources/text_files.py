"""Your own text: a file or folder of .txt, .jsonl or their .gz forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from data.errors import InputError
from data.row_files import FileSettings, read_rows, require_split, row_files
from data.rows import Collected, TextRow, deduplicate, require_rows, split_by_hash
from data.text import chunks, find_files, locate, read_text

KINDS = ("text",)
TEXT_ENDINGS = (".txt", ".txt.gz")
ROW_ENDINGS = (".jsonl", ".jsonl.gz")
FEW = 100  # with fewer documents than this, parts of documents are held out instead of whole ones


class Config(FileSettings):
    """Settings of text files; a .txt file is one document, of a .jsonl file each row is one."""

    valid_path: str | None = Field(None, description="Held-out text of its own; null: split by hash.")
    valid_share: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="Share held out where there is no valid_path: of documents, or of parts.",
    )
    column: str = Field("text", min_length=1, description="The column of .jsonl rows that holds the text.")
    document_characters: int = Field(
        4000, ge=100, le=10_000_000, description="Longer documents are cut at paragraphs to this size."
    )


def files(config: Config, data_root: Path | None) -> list[Path]:
    """Every file that is read."""
    paths = [config.path] if config.valid_path is None else [config.path, config.valid_path]
    return row_files(paths, data_root, (*TEXT_ENDINGS, *ROW_ENDINGS))


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read the documents, cut long ones, and hold some out."""
    documents, notes = _documents(config, config.path, data_root)
    train = _cut(config, documents)
    valid: list[TextRow] = []
    if config.valid_path is not None:
        held_out, notes["valid"] = _documents(config, config.valid_path, data_root)
        valid = [_renamed(row) for row in _cut(config, held_out)]
    elif config.valid_share:
        parts = len(documents) < FEW
        # Before the split: a page that stands in many documents would else be on both sides.
        train, removed = deduplicate(train)
        notes.update(removed)
        notes["held out"] = "parts of documents" if parts else "whole documents"
        total = len(train)
        train, valid = split_by_hash(
            train, config.valid_share, seed, by=lambda row: row.text if parts else row.cluster
        )
        require_split(valid, "valid", total)
    return Collected(text={"train": train, "valid": valid}, notes=notes)


def _renamed(row: TextRow) -> TextRow:
    return TextRow(f"valid/{row.id}", row.text, f"valid/{row.cluster}")


def _documents(config: Config, path: str, data_root: Path | None) -> tuple[list[TextRow], dict[str, Any]]:
    place = locate(path, data_root)
    found = find_files(place, (*TEXT_ENDINGS, *ROW_ENDINGS))
    rows: list[TextRow] = []
    notes: dict[str, Any] = {"files": len(found)}
    for file in found:
        name = file.name if len(found) == 1 else file.relative_to(place).as_posix()
        if file.name.endswith(ROW_ENDINGS):
            read, counts = read_rows(
                config, str(file), TextRow, None, adapt=lambda record: _adapt(config, record)
            )
            rows += read if len(found) == 1 else [TextRow(f"{name}/{row.id}", row.text) for row in read]
            notes[name] = counts
            continue
        try:
            rows.append(TextRow(name, read_text(file)))
        except InputError as error:
            if config.on_error == "stop":
                raise
            notes.setdefault("skipped", []).append(str(error))
    require_rows(rows, what=path, removed={"skipped files": len(notes.get("skipped", ()))})
    return rows, notes


def _adapt(config: Config, record: dict[str, Any]) -> dict[str, Any]:
    if config.column != "text" and config.column not in record:
        there = ", ".join(f"`{name}`" for name in record) or "none"
        raise ValueError(f"missing column `{config.column}`; the row has {there}")
    return {"text" if column == config.column else column: value for column, value in record.items()}


def _cut(config: Config, documents: list[TextRow]) -> list[TextRow]:
    rows = []
    for row in documents:
        pieces = [row.text] if len(row.text) <= config.document_characters else None
        pieces = pieces or chunks(row.text, config.document_characters)
        ids = [row.id] if len(pieces) == 1 else [f"{row.id}#{place}" for place in range(len(pieces))]
        rows += [TextRow(name, piece, row.cluster) for name, piece in zip(ids, pieces, strict=True)]
    return rows
