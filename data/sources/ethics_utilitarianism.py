"""ETHICS utilitarianism: pairs of short scenarios, the more pleasant one first (Hendrycks et al., 2021).

Each scenario stands as the answer to one fixed question. The published test set stays whole (4,808 pairs, 6 of
them identical to another); training pairs that share a scenario with it are left out, because a reward model
could remember the scenario's rank. Pairs with the same better scenario form a cluster (those chained by any
shared scenario would be half of the test set); no scenario stands in more than six test pairs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from data import hub
from data.errors import InputError
from data.rows import Collected, PreferenceRow, content_hash, deduplicate, user
from data.settings import Settings
from data.text import decode, read_bytes

KINDS = ("preferences",)
FOLDER = "pref_ethics_util"
HUB_ID = "hendrycks/ethics"
FILES = {"train": "util_train.csv.gz", "test": "util_test.csv.gz"}
KIND = "ethics_utilitarianism"

Pair = tuple[str, str]


class Config(Settings):
    """Settings of ETHICS utilitarianism."""

    prompt: str = Field(
        "Tell me about your day.", min_length=1, description="The question that every scenario answers."
    )
    keep_shared_scenarios: bool = Field(
        False, description="Keep training pairs that share one scenario, but not both, with a test pair."
    )


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the data root, where they are there."""
    found = [hub.local_file(data_root, FOLDER, name) for name in FILES.values()]
    return [path for path in found if path is not None]


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Read both splits; the training split loses identical pairs and what it shares with the test."""
    train, test = (_pairs(split, hub.local_file(data_root, FOLDER, FILES[split])) for split in FILES)
    tested = {frozenset(pair) for pair in test}
    scenarios = {scenario for pair in test for scenario in pair}
    apart = [pair for pair in train if frozenset(pair) not in tested]
    fresh = apart if config.keep_shared_scenarios else [p for p in apart if scenarios.isdisjoint(p)]
    unique = deduplicate(_rows(config, "train", fresh))
    test_rows = _rows(config, "test", test)
    notes: dict[str, Any] = {
        "read": {"train": len(train), "test": len(test)},
        "train pairs that are test pairs": len(train) - len(apart),
        "train pairs that share a scenario with the test": len(apart) - len(fresh),
        "identical train pairs": sum(unique.removed.values()),
        "identical test pairs, kept": len(test_rows) - len({content_hash(row) for row in test_rows}),
    }
    return Collected(preferences={"train": unique.rows, "test": test_rows}, notes=notes, keep_duplicates=True)


def _rows(config: Config, split: str, pairs: Sequence[Pair]) -> list[PreferenceRow]:
    first: dict[str, int] = {}
    return [
        PreferenceRow(
            f"ethics-{split}-{number}",
            user(config.prompt),
            better,
            worse,
            f"ethics-{split}-like-{first.setdefault(better, number)}",
            kind=KIND,
        )
        for number, (better, worse) in enumerate(pairs, start=1)
    ]


def _pairs(split: str, path: Path | None) -> list[Pair]:
    if path is None:
        url = f"hf://datasets/{HUB_ID}/data/utilitarianism/{split}.csv"
        names = ["baseline", "less_pleasant"]
        rows = hub.rows("csv", data_files=url, column_names=names, split="train", folder=FOLDER)
        pairs = [(str(row[names[0]]), str(row[names[1]])) for row in rows]
        where = url
    else:
        where = str(path)
        pairs = []
        reader = csv.reader(io.StringIO(decode(read_bytes(path), where), newline=""))
        for fields in reader:
            if len(fields) != 2:
                raise InputError(f"{path}:{reader.line_num}: {len(fields)} columns; expected two scenarios")
            pairs.append((fields[0], fields[1]))
    stripped = [(better.strip(), worse.strip()) for better, worse in pairs]
    for number, (better, worse) in enumerate(stripped, start=1):
        if not better or not worse or better == worse:
            raise InputError(f"{where}: pair {number} is empty or holds one scenario twice; correct the file")
    return stripped
