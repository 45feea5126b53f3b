"""BBQ (Parrish et al. 2022): who of two people did it, where the text tells (disambiguated) or not (ambiguous).

One of the two, the target, belongs to a group of which a stereotype is held; the third answer says that it is not
known. Every file `<Category>.jsonl` of the folder is read, whatever its category.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import hub
from data.errors import InputError
from data.text import read_records, shown

FOLDER = "bias_bbq"
HUB_ID = "oskarvanderwal/bbq"
ENDINGS = (".jsonl", ".jsonl.gz")
PREDICTIONS = "preds_"  # in the names of files that hold answers of published models to the same questions

TEXTS = ("category", "question_index", "context", "question", "ans0", "ans1", "ans2")
POLARITIES, CONDITIONS = ("neg", "nonneg"), ("ambig", "disambig")
# Words of groups that stand for the attribute in the names of others ("F" for women and girls).
_SAME = {
    **dict.fromkeys(("woman", "women", "girl", "girls", "female", "females"), "f"),
    **dict.fromkeys(("man", "men", "boy", "boys", "male", "males"), "m"),
    "latina": "latino",
}
# Between two attributes: "F-Black", "lowSES-Asian", "trans_F"; but not within "Middle-Eastern".
_BETWEEN = re.compile(r"_|(?<=\b[MF])-|(?<=SES)-")


@dataclass(frozen=True)
class Question:
    """One question: its answers; which of them is right, says that it is not known, agrees with the stereotype.

    `biased` is the target in a question that is negative for it ("neg"), the other person in one that is not;
    None where the file does not tell who of the two the target is. `template` names what it was made from.
    """

    id: str
    category: str
    template: str
    context: str
    question: str
    answers: tuple[str, str, str]
    right: int
    unknown: int
    biased: int | None
    ambiguous: bool


def files(data_root: Path | None) -> list[Path]:
    """The files that are read, in name order; none where the hub is asked."""
    folder = data_root / FOLDER if data_root is not None else None
    if folder is None or not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name.endswith(ENDINGS) and PREDICTIONS not in path.name
    )


def read(data_root: Path | None) -> list[Question]:
    """Read the questions of all categories in the order of the files.

    Raises:
        InputError: a malformed row, one that stands there twice, or no row at all.
    """
    found_files = files(data_root)
    questions = [
        _question(record, f"{path}:{number}") for path in found_files for number, record in read_records(path)
    ]
    if found_files and not questions:
        raise InputError(f"{found_files[0].parent}: no question in its files; fetch them again")
    if not found_files:
        found = hub.rows(HUB_ID, name="All", split="test", folder=FOLDER)
        questions = [_question(record, f"{HUB_ID}: row {number}") for number, record in enumerate(found, 1)]
    ids: set[str] = set()
    for question in questions:
        if question.id in ids:
            raise InputError(
                f"{FOLDER}: {question.id} stands there twice; keep each category in one file (`All` holds all)"
            )
        ids.add(question.id)
    return questions


def _question(record: dict[str, Any], where: str) -> Question:
    texts = {name: record.get(name) for name in TEXTS}
    texts["question_index"] = str(record.get("question_index", ""))
    missing = [name for name, value in texts.items() if not isinstance(value, str) or not value.strip()]
    if missing:
        raise InputError(
            f"{where}: no text in {', '.join(missing)}; expected the columns of BBQ's data files"
        )
    polarity = _one_of(record, "question_polarity", POLARITIES, where)
    condition = _one_of(record, "context_condition", CONDITIONS, where)
    right, number = record.get("label"), record.get("example_id")
    if right not in (0, 1, 2) or isinstance(right, bool):
        raise InputError(f"{where}: label is {shown(right)}; expected the number of an answer, 0, 1 or 2")
    if not isinstance(number, int | str):
        raise InputError(f"{where}: example_id is {shown(number)}; expected the number of the question")
    unknown, target = roles(record, where)
    if condition == "ambig" and right != unknown:
        raise InputError(
            f"{where}: the context is ambiguous and the label is {right}; expected {unknown}, the answer that it "
            "is not known"
        )
    other = None if target is None else 3 - unknown - target
    return Question(
        f"bbq-{texts['category']}-{number}",
        str(texts["category"]),
        f"{texts['category']}/{texts['question_index']}",
        str(texts["context"]).strip(),
        str(texts["question"]).strip(),
        (str(texts["ans0"]).strip(), str(texts["ans1"]).strip(), str(texts["ans2"]).strip()),
        right,
        unknown,
        target if polarity == "neg" else other,
        condition == "ambig",
    )


def _one_of(record: dict[str, Any], name: str, known: tuple[str, ...], where: str) -> str:
    if record.get(name) not in known:
        raise InputError(f"{where}: {name} is {shown(record.get(name))}; expected {' or '.join(known)}")
    return str(record[name])


def roles(record: dict[str, Any], where: str) -> tuple[int, int | None]:
    """The answer that it is not known, and the one that names the target; None where that is not told."""
    info = record.get("answer_info")
    names = [info.get(f"ans{n}") if isinstance(info, dict) else None for n in range(3)]
    metadata = record.get("additional_metadata")
    groups = metadata.get("stereotyped_groups") if isinstance(metadata, dict) else None
    if not all(_is_texts(name) for name in [*names, groups]):
        raise InputError(
            f"{where}: expected lists of texts in answer_info (ans0, ans1, ans2) and in stereotyped_groups of "
            "additional_metadata"
        )
    lists: list[list[str]] = [list(name or ()) for name in names]
    unknown = [n for n, name in enumerate(lists) if "unknown" in map(str.lower, name[-1:])]
    if len(unknown) != 1:
        raise InputError(
            f"{where}: {len(unknown)} answers are marked unknown; expected one, by the last text in answer_info"
        )
    people = [n for n in range(3) if n != unknown[0]]
    # Some rows name no group; the words of the answer do ("The Latina woman").
    found = [terms(lists[n] if any(lists[n]) else str(record[f"ans{n}"]).split()) for n in people]
    return unknown[0], target_of(people, found, terms(groups or ()))


def _is_texts(found: Any) -> bool:
    return isinstance(found, list | tuple) and all(isinstance(text, str) for text in found)


def terms(names: Iterable[str]) -> set[str]:
    """Names of groups in one form, each whole and by its attributes: `F-Black` is fblack, f and black."""
    parts = {part for name in names for part in (name, *_BETWEEN.split(name))}
    plain = {re.sub(r"[\W_]+", "", part.lower()) for part in parts}
    same = {_SAME.get(part, "trans" if part.startswith("transgender") else part) for part in plain}
    return same - {""}


def target_of(people: Iterable[int], found: Iterable[set[str]], groups: set[str]) -> int | None:
    """Who of two people has more of the stereotyped groups' attributes; None where they have equally many.

    With one attribute that is who belongs to the group at all; with two it is who has both.
    """
    (first, second), (ours, theirs) = people, (len(have & groups) for have in found)
    return None if ours == theirs else first if ours > theirs else second
