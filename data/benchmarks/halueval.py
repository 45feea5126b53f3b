"""HaluEval (Li et al. 2023, arXiv 2305.11747): right and hallucinated answers, and answers labelled by people.

Pairs are in files named `qa_data`, `qa_one-turn_data`, `qa_multi-turn_data`; the labelled answers of ChatGPT in
`general_data`. Each is JSON lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data import hub
from data.errors import InputError
from data.text import read_records, shown

FOLDER = "halluc_halueval"
HUB_ID = "pminervini/HaluEval"
GENERAL = "general"
_NAME = re.compile(r"(general|qa|qa[_-].+?)_data\.jsonl?(?:\.gz)?")


@dataclass(frozen=True)
class Pair:
    """A question with the knowledge that answers it, the right answer and a hallucinated one.

    `group` names the file; files may ask the same questions.
    """

    id: str
    group: str
    knowledge: str
    question: str
    right: str
    hallucinated: str


@dataclass(frozen=True)
class Labelled:
    """A user's query, a model's response, and whether people found made-up content in it."""

    id: str
    query: str
    response: str
    hallucinated: bool


class HaluEval(NamedTuple):
    """What is there of both parts."""

    pairs: list[Pair]
    labelled: list[Labelled]


def files(data_root: Path | None) -> list[Path]:
    """The files that are read, in name order; none where the hub is asked."""
    folder = data_root / FOLDER if data_root is not None else None
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and _NAME.fullmatch(path.name))


def read(data_root: Path | None) -> HaluEval:
    """Read all parts that are there; the hub gives one file of pairs and the labelled answers.

    Raises:
        InputError: a malformed record, by line, or no record at all.
    """
    found = HaluEval([], [])
    for path in files(data_root):
        records = ((f"{path}:{number}", record) for number, record in read_records(path))
        _add(found, _group(path), records)
    if not files(data_root):
        for group in ("qa", GENERAL):
            rows = hub.rows(HUB_ID, name=group, split="data", folder=FOLDER)
            _add(found, group, ((f"{HUB_ID} {group}: row {n}", row) for n, row in enumerate(rows, 1)))
    if not (found.pairs or found.labelled):
        raise InputError(f"{FOLDER}: no record in its files; fetch them again")
    return found


def _group(path: Path) -> str:
    """`qa_one_turn` for `qa_one-turn_data.jsonl.gz`."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return match[1].replace("-", "_")


def _add(found: HaluEval, group: str, records: Iterable[tuple[str, dict[str, Any]]]) -> None:
    for number, (where, record) in enumerate(records, 1):
        name = f"halueval-{group}-{number}"
        if group == GENERAL:
            found.labelled.append(_labelled(record, where, name))
        else:
            names = ("knowledge", "question", "right_answer", "hallucinated_answer")
            found.pairs.append(Pair(name, group, *_texts(record, names, where)))


def _labelled(record: dict[str, Any], where: str, name: str) -> Labelled:
    query, response, label = _texts(record, ("user_query", "chatgpt_response", "hallucination"), where)
    if label.casefold() not in ("yes", "no"):
        raise InputError(f"{where}: hallucination is {shown(label)}; expected yes or no, correct the line")
    return Labelled(name, query, response, label.casefold() == "yes")


def _texts(record: dict[str, Any], names: tuple[str, ...], where: str) -> list[str]:
    for name in names:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {name} is {shown(value)}; expected text, correct or remove the line")
    return [record[name].strip() for name in names]
