"""What an evaluation leaves: records of scored items, figures with intervals, comparisons of stages.

Reports read nothing else of an evaluation, and every figure can be computed from the records alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from data.errors import InputError


@dataclass(frozen=True)
class Record:
    """One scored item of one stage.

    `id` names the item, `cluster` what it shares with others; `evaluation` is a file of pipeline/evals,
    `measure` what is scored there; `group` a slice (a tier, a task). `score` is nan where the item could not
    be scored; `outcome` names a category where there is one. `weight` is the denominator of measures that are
    sums (the number of tokens of a document), else 1.
    """

    id: str
    cluster: str
    stage: str
    evaluation: str
    measure: str
    prompt: str
    completion: str
    score: float
    group: str = ""
    outcome: str = ""
    explanation: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Figure:
    """One number of the report with its 95 % interval, the items and clusters behind it, and its nulls.

    `nulls` maps a trivial way of answering to the value that it would give. `stage` is the evaluated one. Where
    nothing can be said of how sure it is, `low` and `high` are not finite; files have null.
    """

    name: str
    stage: str
    value: float
    low: float
    high: float
    n: int
    clusters: int
    unit: str
    nulls: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    command: str = ""


@dataclass(frozen=True)
class Comparison:
    """The change of one figure from one stage to another on the same items.

    `better` is +1 where more is better, -1 where less is, 0 where neither. `p_value` is clustered; `holm_p`
    is it corrected over the headline family, or what stands for it (None outside). `gained`, `lost` and
    `mcnemar_p` stand for items that are right or wrong. `smallest` is the minimum detectable effect.
    """

    name: str
    before: str
    after: str
    value: float
    low: float
    high: float
    n: int
    clusters: int
    better: int
    p_value: float
    holm_p: float | None
    gained: int | None
    lost: int | None
    mcnemar_p: float | None
    smallest: float
    verdict: str


Line = TypeVar("Line", Record, Figure, Comparison)


def to_json(line: Record | Figure | Comparison) -> dict[str, Any]:
    """Plain JSON values in the order of the fields; nan becomes null."""
    return {part.name: _plain(getattr(line, part.name)) for part in fields(line)}


def from_json(line_type: type[Line], values: dict[str, Any]) -> Line:
    """Read back what `to_json` wrote; null in a number that cannot be missing is nan."""
    found = dict(values)
    for part in fields(line_type):
        if part.type == "float" and found.get(part.name, 0.0) is None:
            found[part.name] = math.nan
    return line_type(**found)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records one a line; returns how many. Publish the path atomically."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_records(path: Path) -> list[Record]:
    """Read a records file; InputError names the first line that is none."""
    records = []
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                records.append(from_json(Record, json.loads(line)))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path}:{number}: no record ({error}); evaluate again") from error
    return records


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
