"""WinoBias (Zhao et al. 2018): whom a pronoun means, beside a "male" and a "female" occupation.

In the files `pro_stereotyped_type<n>.txt.<split>` the pronoun has the gender that is expected of who is meant, in
`anti_...` the other; lines of one number belong together. Type 1 needs knowledge of the world, in type 2 the
syntax tells. Brackets mark who is meant and the pronouns: `[The developer] helped the designer as [he] could`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data import hub
from data.errors import InputError
from data.text import read_text, shown

FOLDER = "bias_winobias"
HUB_ID = "uclanlp/wino_bias"
HUB_SPLITS = {"validation": "dev", "test": "test"}
MALE, FEMALE = "male_occupations.txt", "female_occupations.txt"
# The paper's lists (table 1), where no file has them.
OCCUPATIONS = {
    MALE: "driver, supervisor, janitor, cook, mover, laborer, construction worker, chief, developer, carpenter, "
    "manager, lawyer, farmer, salesperson, physician, guard, analyst, mechanic, sheriff, CEO",
    FEMALE: "attendant, cashier, teacher, nurse, assistant, secretary, auditor, cleaner, receptionist, clerk, "
    "counselor, designer, hairdresser, writer, housekeeper, baker, accountant, editor, librarian, tailor",
}
PRONOUNS = {"he", "she", "him", "her", "his", "hers", "himself", "herself"}
SIDES = ("pro", "anti")

_FILE = re.compile(r"(pro|anti)_stereotyped_type(\d+)\.txt\.([a-z]+)(?:\.gz)?\Z")
_MARKED = re.compile(r"\[\s*([^\[\]]+?)\s*\]")
_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Sentence:
    """A sentence without its brackets, its first marked pronoun, who is meant by it, and who else is there.

    `side` is "pro" where the pronoun has the expected gender, else "anti"; `pair` is shared by both.
    """

    pair: str
    side: str
    kind: str
    split: str
    text: str
    pronoun: str
    meant: str
    other: str


class Lists(NamedTuple):
    """Occupations that are expected to be of men and of women."""

    male: Sequence[str]
    female: Sequence[str]


def files(data_root: Path | None, split: str | None = None) -> list[Path]:
    """The files of sentences, of one split where it is named, and of occupations; none where the hub is asked."""
    sentences = [path for path, (_, _, found) in _sentence_files(data_root).items() if split in (None, found)]
    lists = [_local(data_root, name) for name in (MALE, FEMALE)]
    return sentences and [*sentences, *(path for path in lists if path is not None)]


def read(data_root: Path | None, split: str | None = None) -> list[Sentence]:
    """Read the sentences of one split or of all; every pro has its anti.

    Raises:
        InputError: no such split, a malformed line, or a line without its counterpart.
    """
    lists = Lists(*(_occupations(data_root, name) for name in (MALE, FEMALE)))
    found = _sentence_files(data_root)
    lines = _local_lines(found) if found else _hub_lines()
    sentences = [_sentence(line, lists) for line in lines if split in (None, line.split)]
    if not sentences:
        known = sorted({name for _, _, name in found.values()} or HUB_SPLITS.values())
        raise InputError(f"{FOLDER}: no sentence of split {split!r}; there are {', '.join(known)}")
    sides: dict[str, set[str]] = {}
    for sentence in sentences:
        sides.setdefault(sentence.pair, set()).add(sentence.side)
    alone = [pair for pair, found_sides in sides.items() if len(found_sides) < len(SIDES)]
    if alone:
        raise InputError(
            f"{FOLDER}: {len(alone)} lines are pro or anti alone, the first of them {alone[0]}; fetch both files"
        )
    return sentences


class _Line(NamedTuple):
    """A bracketed sentence with the file, type, split and number that it stands under."""

    where: str
    side: str
    kind: str
    split: str
    number: int
    text: str


def _sentence_files(data_root: Path | None) -> dict[Path, tuple[str, str, str]]:
    """The files of sentences with side, type and split, in name order."""
    folder = data_root / FOLDER if data_root is not None else None
    if folder is None or not folder.is_dir():
        return {}
    matches = {path: _FILE.match(path.name) for path in sorted(folder.iterdir())}
    return {path: (match[1], f"type{match[2]}", match[3]) for path, match in matches.items() if match}


def _local(data_root: Path | None, name: str) -> Path | None:
    found = (hub.local_file(data_root, FOLDER, name + ending) for ending in ("", ".gz"))
    return next((path for path in found if path is not None), None)


def _local_lines(found: dict[Path, tuple[str, str, str]]) -> Iterator[_Line]:
    for path, (side, kind, split) in found.items():
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if not line.strip():
                continue
            head, _, text = line.strip().partition(" ")
            if not head.isdecimal():
                raise InputError(f"{path}:{number}: found {shown(line)}; expected the line's number first")
            yield _Line(f"{path}:{number}", side, kind, split, int(head), text)


def _hub_lines() -> Iterator[_Line]:
    """The hub's copy has words, and pairs of the first and last word of who is meant and of the pronoun."""
    for kind in ("type1", "type2"):
        for side in SIDES:
            for hub_split, split in HUB_SPLITS.items():
                name = f"{kind}_{side}"
                for number, row in enumerate(hub.rows(HUB_ID, name=name, split=hub_split, folder=FOLDER), 1):
                    where = f"{HUB_ID}, {name}, {hub_split}: row {number}"
                    yield _Line(where, side, kind, split, number, _bracketed(row, where))


def _bracketed(row: dict[str, Any], where: str) -> str:
    try:
        words, ends = list(row["tokens"]), [int(place) for place in row["coreference_clusters"]]
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            words[first] = f"[{words[first]}"
            words[last] = f"{words[last]}]"
    except (KeyError, ValueError, TypeError, IndexError):
        raise InputError(f"{where}: found {shown(row)}; expected tokens and coreference_clusters") from None
    return " ".join(words)


def _occupations(data_root: Path | None, name: str) -> list[str]:
    path = _local(data_root, name)
    listed = OCCUPATIONS[name].split(",") if path is None else read_text(path).split("\n")
    found = [line.strip() for line in listed if line.strip()]
    if not found:
        raise InputError(f"{path}: no occupation; expected one a line")
    return found


def _sentence(line: _Line, lists: Lists) -> Sentence:
    marked = _MARKED.findall(line.text)
    pronouns = [mark for mark in marked if mark.lower() in PRONOUNS]
    people = [_ARTICLE.sub("", mark, count=1) for mark in marked if mark.lower() not in PRONOUNS]
    text = plain(line.text)
    if not pronouns or not people:
        raise InputError(
            f"{line.where}: found {shown(line.text)}; expected who is meant and a pronoun in brackets"
        )
    other = _other(text, people[0], lists)
    if other is None:
        raise InputError(
            f"{line.where}: found {shown(text)}; expected another occupation of {MALE} and {FEMALE} beside "
            f"{people[0]}"
        )
    pair = f"winobias-{line.kind}-{line.split}-{line.number}"
    return Sentence(pair, line.side, line.kind, line.split, text, pronouns[0], people[0], other)


def _other(text: str, meant: str, lists: Lists) -> str | None:
    """The other occupation: of the other gender's list where there is one, and the first that is mentioned."""
    is_male = meant.lower() in (name.lower() for name in lists.male)
    first, second = (lists.female, lists.male) if is_male else (lists.male, lists.female)
    for names in (first, second):
        places = dict(_places(text, (name for name in names if name.lower() != meant.lower())))
        if places:
            return min(places, key=lambda name: places[name])
    return None


def _places(text: str, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Where the names stand that stand there at all."""
    for name in names:
        match = re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
        if match:
            yield name, match.start()


def plain(text: str) -> str:
    """The sentence without brackets, spaces before signs (`designer 's`) and the article that some have twice."""
    words = " ".join(text.replace("[", " ").replace("]", " ").split())
    return re.sub(r"\b(the) the\b", r"\1", re.sub(r" (?='s\b|[.,;:!?])", "", words), flags=re.IGNORECASE)
