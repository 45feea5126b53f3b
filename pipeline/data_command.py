"""Data from the command line: list the sources, check a file against a schema, fetch a data set from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline.catalog import FOLDERS, catalog
from pipeline.config import suggest

SCHEMAS = ("text", "chat", "preferences", "items")


def list_sources() -> dict[str, Any]:
    """Each source with its first docstring line and the kinds of rows that it gives."""
    from data import open_folder

    lines = catalog()["sources"]
    kinds = {name: list(getattr(open_folder.load(FOLDERS["sources"], name), "KINDS", ())) for name in lines}
    return {name: {"about": line, "kinds": kinds[name]} for name, line in lines.items()}


def check_file(path: Path, schema: str) -> dict[str, Any]:
    """Read a .jsonl file against a schema: counts, duplicates and every malformed row with its line.

    Raises InputError for an unknown schema or a file that cannot be opened; malformed rows are reported.
    """
    from data import rows

    types: dict[str, Any] = dict(
        zip(SCHEMAS, (rows.TextRow, rows.ChatRow, rows.PreferenceRow, rows.Item), strict=True)
    )
    if schema not in types:
        raise InputError(f"--schema {schema}{suggest(schema, SCHEMAS)}; there are {', '.join(SCHEMAS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    problems: list[str] = []
    found = rows.read_jsonl(path, types[schema], on_error="skip", dropped=problems)
    unusable = [f"row {row.id}: {problem}" for row in found if (problem := rows.unusable(row))]
    return {
        "file": str(path),
        "schema": rows.SCHEMAS[types[schema]],
        "num_rows": len(found),
        "num_identical": len(found) - len({rows.content_hash(row) for row in found}),
        "malformed": problems,
        "unusable": unusable,
    }


def fetch(name: str, to: Path, *, config: str | None = None, split: str | None = None) -> dict[str, Any]:
    """Download a data set from the Hugging Face hub to one .jsonl file per split; needs the network.

    Raises InputError where the folder is not empty, or the data set or the network cannot be reached.
    """
    from pipeline.checkpoint import write_atomic

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty folder; choose another --to")
    try:
        import datasets

        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises its own, the hub's and the network's errors
        raise InputError(
            f"{name} cannot be fetched: {type(error).__name__}: {str(error).splitlines()[0][:200]}; "
            f"check the name and the network"
        ) from error
    parts = dict(loaded) if isinstance(loaded, dict) else {split or "train": loaded}
    to.mkdir(parents=True, exist_ok=True)
    counts = {}
    for part, rows in parts.items():
        lines = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
        write_atomic(to / f"{part}.jsonl", "".join(line + "\n" for line in lines))
        counts[part] = len(lines)
    return {"data_set": name, "folder": str(to), "num_rows": counts}
