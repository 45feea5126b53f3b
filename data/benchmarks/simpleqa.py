"""SimpleQA (Wei et al. 2024, arXiv 2411.04368): short questions on facts, each with one undisputed answer."""

from __future__ import annotations

import ast
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import hub
from data.errors import InputError
from data.text import read_text, shown

FOLDER = "halluc_simpleqa"
HUB_ID = "basicv8vc/SimpleQA"
FILE = "simple_qa_test_set.csv"


@dataclass(frozen=True)
class Question:
    """One question with its answer; `source` is the page that it is about, shared by questions on one entity.

    `topic` and `answer_type` are "" where the metadata do not tell.
    """

    id: str
    question: str
    answer: str
    topic: str = ""
    answer_type: str = ""
    source: str = ""


def files(data_root: Path | None) -> list[Path]:
    """The file that is read; none where the hub is asked."""
    found = (hub.local_file(data_root, FOLDER, FILE + ending) for ending in ("", ".gz"))
    return [path for path in found if path is not None][:1]


def read(data_root: Path | None) -> list[Question]:
    """Read the questions in the order of the file.

    Raises:
        InputError: a malformed file, by line.
    """
    found = files(data_root)
    if not found:
        rows = hub.rows(HUB_ID, split="test", folder=FOLDER)
        return [_question(row, f"{HUB_ID}: row {n}", n) for n, row in enumerate(rows, 1)]
    questions = []
    reader = csv.DictReader(io.StringIO(read_text(found[0])), strict=True)
    try:
        for number, row in enumerate(reader, 1):
            questions.append(_question(row, f"{found[0]}:{reader.line_num}", number))
    except csv.Error as error:
        raise InputError(f"{found[0]}: malformed CSV ({error}); fetch the file again") from None
    if not questions:
        raise InputError(f"{found[0]}: no question; expected the columns metadata, problem, answer")
    return questions


def _question(row: dict[str, Any], where: str, number: int) -> Question:
    problem, answer = row.get("problem"), row.get("answer")
    for name, value in (("problem", problem), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {name} is {shown(value)}; expected text, correct or remove the row")
    assert isinstance(problem, str)
    assert isinstance(answer, str)
    known = _metadata(row.get("metadata"), where)
    urls = known.get("urls") or [""]
    return Question(
        f"simpleqa-{number}",
        problem.strip(),
        answer.strip(),
        str(known.get("topic", "")),
        str(known.get("answer_type", "")),
        str(urls[0]),
    )


def _metadata(cell: object, where: str) -> dict[str, Any]:
    """The metadata, which the file holds as a Python literal."""
    if not cell:
        return {}
    try:
        found = ast.literal_eval(cell) if isinstance(cell, str) else cell
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{where}: metadata {shown(cell)}; expected a dictionary with topic, answer_type, urls"
        )
    return found
