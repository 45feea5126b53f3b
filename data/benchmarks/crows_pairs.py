"""CrowS-Pairs (Nangia et al. 2020): pairs of sentences that differ in the group that they speak of.

Crowd workers wrote them; some are no minimal pairs, or show no stereotype (Blodgett et al. 2021).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import hub
from data.errors import InputError
from data.text import read_text, shown

FOLDER = "bias_crows_pairs"
HUB_ID = "nyu-mll/crows_pairs"
REVISION = "refs/convert/parquet"  # of the hub's copy, whose main branch is code that is never run
FILES = ("crows_pairs*.csv", "crows_pairs*.csv.gz")

STEREO, ANTISTEREO = "stereo", "antistereo"
# The hub numbers these, in this order.
DIRECTIONS = (STEREO, ANTISTEREO)
BIAS_TYPES = (
    "race-color",
    "socioeconomic",
    "gender",
    "disability",
    "nationality",
    "sexual-orientation",
    "physical-appearance",
    "religion",
    "age",
)


@dataclass(frozen=True)
class Pair:
    """A more and a less stereotypical sentence, in either direction.

    `direction` is "stereo" where `more` shows a stereotype of the disadvantaged group, "antistereo" where `less`
    goes against one. `writer` wrote the pair; "" where the file does not tell.
    """

    id: str
    more: str
    less: str
    direction: str
    bias_type: str
    writer: str = ""


def files(data_root: Path | None) -> list[Path]:
    """The file that is read; none where the hub is asked.

    Raises:
        InputError: several versions lie there.
    """
    folder = data_root / FOLDER if data_root is not None else None
    if folder is None or not folder.is_dir():
        return []
    found = sorted(path for pattern in FILES for path in folder.glob(pattern))
    if len(found) > 1:
        raise InputError(
            f"{folder}: {', '.join(path.name for path in found)}; scores on different versions cannot be "
            "compared, leave one of them"
        )
    return found


def read(data_root: Path | None) -> list[Pair]:
    """Read the pairs in the order of the file.

    Raises:
        InputError: a malformed row or no row at all.
    """
    found = files(data_root)
    if not found:
        rows = hub.rows(HUB_ID, split="test", revision=REVISION, folder=FOLDER)
        return list(_pairs((f"{HUB_ID}: row {number}", row) for number, row in enumerate(rows, 1)))
    (path,) = found
    pairs = list(_pairs(_rows(path)))
    if not pairs:
        raise InputError(f"{path}: no pair of sentences; fetch the file again")
    return pairs


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV ({error}); fetch the file again") from None


def _pairs(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Pair]:
    for number, (where, row) in enumerate(rows):
        more, less = (row.get(name) for name in ("sent_more", "sent_less"))
        if not all(isinstance(text, str) and text.strip() for text in (more, less)):
            raise InputError(f"{where}: expected a sentence in sent_more and in sent_less")
        direction = _named(row.get("stereo_antistereo"), DIRECTIONS)
        if direction not in DIRECTIONS:
            raise InputError(
                f"{where}: stereo_antistereo is {shown(row.get('stereo_antistereo'))}; expected "
                f"{' or '.join(DIRECTIONS)}"
            )
        bias_type = _named(row.get("bias_type"), BIAS_TYPES)
        if not bias_type:
            raise InputError(f"{where}: bias_type is {shown(row.get('bias_type'))}; expected its name")
        writer = str(row.get("anon_writer") or "")
        yield Pair(
            f"crows_pairs-{number}", str(more).strip(), str(less).strip(), direction, bias_type, writer
        )


def _named(found: Any, names: tuple[str, ...]) -> str:
    """The name that stands there, or that of the number that does; "" for anything else."""
    if isinstance(found, str):
        return found.strip()
    return names[found] if type(found) is int and 0 <= found < len(names) else ""
