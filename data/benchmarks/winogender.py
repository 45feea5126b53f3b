"""Winogender schemas (Rudinger et al. 2018): an occupation, a participant, and a pronoun of three genders.

`all_sentences.tsv` holds the sentences under names such as `technician.customer.1.male.txt`: occupation,
participant, whom the pronoun means (0 the occupation, 1 the participant), gender of the pronoun.
`occupations-stats.tsv` holds the share of women by occupation (Bureau of Labor Statistics, 2015 and 2016).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data import hub
from data.errors import InputError
from data.text import read_text, shown

FOLDER = "bias_winogender"
HUB_ID = "oskarvanderwal/winogender"
SENTENCES, STATISTICS = "all_sentences.tsv", "occupations-stats.tsv"
GENDERS = ("male", "female", "neutral")
PRONOUNS = ("he", "she", "they", "him", "her", "them", "his", "hers", "their", "theirs")
HALF = 50  # per cent

_NAME = re.compile(r"(.+)\.(.+)\.([01])\.(male|female|neutral)\.txt\Z")
_PRONOUN = re.compile(rf"\b(?:{'|'.join(PRONOUNS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Sentence:
    """One sentence: its pronoun and where it begins (in characters), whom it means, and who else is there.

    `template` is shared by the three genders. `female_share` is the share of women in the occupation, in [0, 1];
    `gotcha` tells whether the pronoun is not of the majority's gender, None for a neutral one. They are nan and
    None where the source does not tell.
    """

    template: str
    gender: str
    text: str
    pronoun: str
    start: int
    occupation: str
    participant: str
    means_occupation: bool
    female_share: float
    gotcha: bool | None


def files(data_root: Path | None) -> list[Path]:
    """The files that are read; none where the hub is asked."""
    sentences, statistics = _local(data_root, SENTENCES), _local(data_root, STATISTICS)
    return [path for path in (sentences, statistics) if path is not None] if sentences else []


def read(data_root: Path | None) -> list[Sentence]:
    """Read the sentences in the order of the file; the hub has no shares of women.

    Raises:
        InputError: a malformed row, or an occupation without its share of women.
    """
    found = files(data_root)
    if not found:
        return _from_hub()
    if len(found) < 2:
        raise InputError(f"{found[0].parent}: no {STATISTICS} beside {SENTENCES}; fetch both")
    shares = dict(_shares(found[1]))
    sentences = []
    for where, row in _rows(found[0], ("sentid", "sentence")):
        sentence = _sentence(row["sentid"], row["sentence"], where)
        if sentence.occupation not in shares:
            raise InputError(
                f"{where}: {found[1].name} has no share of women for {sentence.occupation}; add its row"
            )
        sentences.append(with_share(sentence, shares[sentence.occupation]))
    if not sentences:
        raise InputError(f"{found[0]}: no sentence; fetch the file again")
    return sentences


def with_share(sentence: Sentence, percentage: float) -> Sentence:
    """The sentence with its occupation's percentage of women, and whether it is a gotcha by that."""
    expected = "female" if percentage > HALF else "male"
    gotcha = None if sentence.gender == "neutral" else sentence.gender != expected
    return replace(sentence, female_share=percentage / 100, gotcha=gotcha)


def _local(data_root: Path | None, name: str) -> Path | None:
    found = (hub.local_file(data_root, FOLDER, name + ending) for ending in ("", ".gz"))
    return next((path for path in found if path is not None), None)


def _from_hub() -> list[Sentence]:
    gotchas = {row["sentid"] for row in hub.rows(HUB_ID, name="gotcha", split="test", folder=FOLDER)}
    found = []
    for number, row in enumerate(hub.rows(HUB_ID, name="all", split="test", folder=FOLDER), 1):
        sentence = _sentence(row["sentid"], row["sentence"], f"{HUB_ID}: row {number}")
        known = None if sentence.gender == "neutral" else row["sentid"] in gotchas
        found.append(replace(sentence, gotcha=known))
    return found


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in reader:
        where = f"{path}:{reader.line_num}"
        missing = [name for name in columns if not (row.get(name) or "").strip()]
        if missing:
            raise InputError(f"{where}: nothing in {', '.join(missing)}; expected tab-separated columns")
        yield where, {name: row[name].strip() for name in columns}


def _shares(path: Path) -> Iterator[tuple[str, float]]:
    """Occupations with their percentages of women."""
    for where, row in _rows(path, ("occupation", "bls_pct_female")):
        try:
            percentage = float(row["bls_pct_female"])
        except ValueError:
            percentage = math.nan
        if not 0 <= percentage <= 100:
            raise InputError(
                f"{where}: bls_pct_female is {shown(row['bls_pct_female'])}; expected a percentage, 0 to 100"
            )
        yield row["occupation"], percentage


def _sentence(name: str, text: str, where: str) -> Sentence:
    match = _NAME.match(name)
    if match is None:
        raise InputError(
            f"{where}: sentid is {shown(name)}; expected occupation.participant.0.male.txt or the like"
        )
    occupation, participant, answer, gender = match.groups()
    people = (occupation, participant)
    absent = [name for name in people if not re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    pronouns = list(_PRONOUN.finditer(text))
    if absent or len(pronouns) != 1:
        raise InputError(
            f"{where}: found {shown(text)}; expected {occupation}, {participant} and one pronoun in the sentence"
        )
    return Sentence(
        f"{occupation}.{participant}.{answer}",
        gender,
        text,
        pronouns[0][0],
        pronouns[0].start(),
        occupation,
        participant,
        answer == "0",
        math.nan,
        None,
    )
