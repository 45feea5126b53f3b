"""Rows of a user's own files: what the sources `text_files`, `chat_rows` and `preference_rows` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.errors import InputError
from data.rows import AnyRow, from_dict, require_rows
from data.settings import Settings
from data.text import find_files, locate, read_records

ENDINGS = (".jsonl", ".jsonl.gz")
MAX_LISTED = 20  # messages about skipped rows that are kept; the count is always complete

Record = dict[str, Any]


class FileSettings(Settings):
    """Where the rows are and what happens to malformed ones."""

    path: str = Field(description="A file or a folder; below data_root where it exists there.")
    ignore_columns: tuple[str, ...] = Field((), description="Columns that may stand there and are not read.")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="Stop at the first malformed row, or skip such rows and list what was dropped."
    )


def row_files(paths: list[str], data_root: Path | None, endings: tuple[str, ...] = ENDINGS) -> list[Path]:
    """The files that the given paths name, folders searched for the given endings."""
    return [file for path in paths for file in find_files(locate(path, data_root), endings)]


def read_rows(
    config: FileSettings,
    path: str,
    row_type: type[AnyRow],
    data_root: Path | None,
    *,
    adapt: Callable[[Record], Record] = lambda record: record,
) -> tuple[list[AnyRow], dict[str, Any]]:
    """Read every row below a path; `adapt` brings a record to the columns that `data.rows` reads.

    Returns the rows and notes on what was skipped. Ids are made of the file's name and line where rows have none,
    and stay unique over several files of one name.

    Raises:
        InputError: no such path; a malformed row where `on_error` is stop; no row left.
    """
    found = find_files(locate(path, data_root), ENDINGS)
    rows: list[AnyRow] = []
    dropped: list[str] = []
    for file in found:
        name = file.name if len(found) == 1 else file.relative_to(locate(path, data_root)).as_posix()
        for number, record in read_records(file, on_error=config.on_error, dropped=dropped):
            kept = {column: value for column, value in record.items() if column not in config.ignore_columns}
            try:
                rows.append(from_dict(row_type, adapt(kept), default_id=f"{name}:{number}"))
            except ValueError as error:
                if config.on_error == "stop":
                    raise InputError(f"{file}:{number}: {error}") from None
                dropped.append(f"{file}:{number}: {error}")
    removed = {"malformed": len(dropped)} if dropped else {}
    require_rows(rows, what=path, removed=removed)
    listed = {"listed": dropped[:MAX_LISTED]} if dropped else {}
    return rows, {"read": len(rows), **removed, **listed}


def require_split(rows: list[Any], name: str, total: int) -> None:
    """Refuse a held-out split that came out empty although a share was asked for."""
    if not rows:
        raise InputError(
            f"the {name} split is empty: splitting by hash took none of {total:,} rows; give more rows, a "
            "file of its own, or set the share to 0"
        )
