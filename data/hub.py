"""Rows of a data set on the Hugging Face hub, for sources whose files are not on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import InputError


def rows(repository: str, *, split: str, folder: str, **options: Any) -> list[dict[str, Any]]:
    """Load a split of a hub data set through `datasets`; `folder` is where its files would lie in a data root.

    `options` go to `datasets.load_dataset`. No code of a data set is ever run.

    Raises:
        InputError: the hub cannot be reached or has no such data; says where local files are looked for.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(repository, split=split, **options)
    except Exception as error:  # the network stack below raises errors of many libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        wanted = options.get("data_files", repository)
        raise InputError(
            f"{wanted}: not on this machine and not to be had from the hub ({reason}); put the "
            f"files into {folder}/ of a folder named by data_root or FLEDGE_DATA, or make the network available"
        ) from error
    return [dict(row) for row in loaded]


def local_file(data_root: Path | None, *parts: str) -> Path | None:
    """The file below the data root, or None where there is none."""
    if data_root is None or not data_root.joinpath(*parts).is_file():
        return None
    return data_root.joinpath(*parts)
