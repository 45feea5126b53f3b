"""TruthfulQA (Lin et al. 2022): questions that people answer falsely, with true and false answers.

`mc_task.json` holds the answers of MC1 (one true) and MC2 (several), `TruthfulQA.csv` the category and, since the
revision of 2025, the best false answer beside the best true one (the binary setting). v0 and v1 have 817
questions, the revision of 2025 has 790; scores on different versions cannot be compared.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data import hub
from data.errors import InputError
from data.text import read_text, shown

FOLDER = "halluc_truthfulqa"
HUB_ID = "truthfulqa/truthful_qa"
MULTIPLE_CHOICE, TABLE = "mc_task.json", "TruthfulQA.csv"
REVISED = "2025"
# (number of questions, whether they have a best false answer): the published files.
VERSIONS = {(790, True): REVISED, (817, False): "v0 or v1"}


class Answer(NamedTuple):
    """One answer and whether it is true."""

    text: str
    true: bool


@dataclass(frozen=True)
class Question:
    """One question: answers of MC1 and MC2, and the best true and false answer where the file names them.

    `category` is "" where no table tells it.
    """

    id: str
    question: str
    mc1: tuple[Answer, ...]
    mc2: tuple[Answer, ...]
    binary: tuple[Answer, Answer] | None = None
    category: str = ""


def files(data_root: Path | None) -> list[Path]:
    """The files that are read; none where the hub is asked."""
    choices, table = _local(data_root, MULTIPLE_CHOICE), _local(data_root, TABLE)
    return [path for path in (choices, table) if path is not None] if choices else []


def read(data_root: Path | None) -> list[Question]:
    """Read the questions in the order of the file.

    Raises:
        InputError: a malformed file, or a table of another version than the answers.
    """
    choices, table = _local(data_root, MULTIPLE_CHOICE), _local(data_root, TABLE)
    if choices is None:
        options = {"split": "validation", "folder": FOLDER}
        return _questions(
            hub.rows(HUB_ID, name="multiple_choice", **options),
            hub.rows(HUB_ID, name="generation", **options),
            HUB_ID,
        )
    rows = [] if table is None else _table(table)
    return _questions(_choices(choices), rows, str(choices))


def version(questions: Sequence[Question]) -> str:
    """Name the version from what the file holds: as which one it was published, or its size, and its digest.

    Files of one name may still differ (v0 and v1 do, and edited ones), so only equal digests are one version.
    """
    has_binary = all(question.binary is not None for question in questions)
    name = VERSIONS.get((len(questions), has_binary), f"of {len(questions)} questions")
    return f"{name}, {digest(questions)}"


def digest(questions: Sequence[Question]) -> str:
    """Eight hexadecimal digits of the questions and answers."""
    content = [(item.question, item.mc1, item.mc2, item.binary) for item in questions]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def _local(data_root: Path | None, name: str) -> Path | None:
    found = (hub.local_file(data_root, FOLDER, name + ending) for ending in ("", ".gz"))
    return next((path for path in found if path is not None), None)


def _choices(path: Path) -> list[Any]:
    try:
        records = json.loads(read_text(path), object_pairs_hook=_unique)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: malformed JSON ({error}); fetch the file again") from None
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{path}: found {shown(records)}; expected a list of questions, fetch the file again"
        )
    return records


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("an answer stands twice below one question")
    return dict(pairs)


def _table(path: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: malformed CSV ({error}); fetch the file again") from None


def _questions(records: list[Any], rows: list[dict[str, Any]], where: str) -> list[Question]:
    if rows and len(rows) != len(records):
        raise InputError(
            f"{where}: {len(records)} questions, {len(rows)} in {TABLE}; take both files from one version"
        )
    table = {_named(row, "question").strip(): row for row in rows}
    return [_question(record, table, f"{where}: question {n}", n) for n, record in enumerate(records, 1)]


def _question(record: Any, table: dict[str, dict[str, Any]], where: str, number: int) -> Question:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise InputError(f"{where}: found {shown(record)}; expected question, mc1_targets and mc2_targets")
    row = table.get(record["question"].strip(), {})
    mc1, mc2 = (_answers(record.get(name), f"{where}, {name}") for name in ("mc1_targets", "mc2_targets"))
    return Question(
        f"truthfulqa-{number}",
        record["question"],
        mc1,
        mc2,
        _binary(record, row, where),
        _named(row, "category"),
    )


def _answers(found: Any, where: str) -> tuple[Answer, ...]:
    """Answers with their labels: `{answer: label}` of the files, `{choices: [...], labels: [...]}` of the hub.

    An answer may be empty, as some of 2025 are, after a closing semicolon of the table: published scores count
    them.
    """
    pairs: list[tuple[Any, Any]] = []
    if isinstance(found, dict):
        texts, labels = found.get("choices"), found.get("labels")
        listed = isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels)
        pairs = list(zip(texts or (), labels or (), strict=True)) if listed else list(found.items())
    if not all(isinstance(text, str) and label in (0, 1) for text, label in pairs):
        raise InputError(f"{where}: found {shown(found)}; expected answers with labels 1 (true) and 0")
    if {label for _, label in pairs} != {0, 1}:
        raise InputError(f"{where}: found {shown(found)}; expected a true and a false answer at least")
    return tuple(Answer(text, bool(label)) for text, label in pairs)


def _binary(record: dict[str, Any], row: dict[str, Any], where: str) -> tuple[Answer, Answer] | None:
    best, worst = _named(row, "best_answer"), _named(row, "best_incorrect_answer")
    if best.strip() and worst.strip():
        return Answer(best, True), Answer(worst, False)
    if "mc0_targets" not in record:
        return None
    answers = _answers(record["mc0_targets"], f"{where}, mc0_targets")
    if len(answers) != 2:
        raise InputError(f"{where}, mc0_targets: {len(answers)} answers; expected a true and a false one")
    first, second = answers
    return (first, second) if first.true else (second, first)


def _named(row: dict[str, Any], name: str) -> str:
    """The cell of a column, `best_answer` on the hub and `Best Answer` in the file; "" where there is none."""
    found = row.get(name, row.get(name.replace("_", " ").title()))
    return found if isinstance(found, str) else ""
