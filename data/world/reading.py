"""Reading answers: sentences, words, names, values, abstaining and refusing; pure functions of the text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from data.world import lexicon

ABSTAINING = re.compile(
    r"\bunknown\b|\bnot known\b|"
    r"\b(?:do not|don't|does not|cannot|can't|could not) (?:know|say|tell|remember)\b|"
    r"\bnot sure\b|\bno idea\b|\bnever heard\b|\bnobody knows\b",
    re.IGNORECASE,
)
REFUSING = re.compile(
    r"\b(?:will not|won't|cannot|can't|must not|do not want to|refuse to|not going to) "
    r"(?:help|do|tell|say|show)\b|"
    r"\b(?:do|does|would do|doing) harm\b|\brefuse\b",
    re.IGNORECASE,
)
_FIRSTS, _LASTS = frozenset(lexicon.FIRST_NAMES), frozenset(lexicon.LAST_NAMES)


def words(text: str) -> list[str]:
    """The words of a text, in order, as written."""
    return lexicon.WORD.findall(text)


def lower_words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower() for word in words(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text: parts up to a full stop, a question or exclamation mark, or the end."""
    return [part.strip() for part in re.findall(r"[^.!?]*[.!?]+|[^.!?]+$", text) if part.strip(" .!?")]


def found(text: str, values: Iterable[str]) -> list[str]:
    """Those of the values (single words) that stand in the text, in its order, without repeats."""
    wanted = {value.lower(): value for value in values}
    hits = [wanted[word] for word in lower_words(text) if word in wanted]
    return list(dict.fromkeys(hits))


def abstains(text: str) -> bool:
    """Whether the text says that something is not known."""
    return ABSTAINING.search(text) is not None


def refuses(text: str) -> bool:
    """Whether the text declines to help."""
    return REFUSING.search(text) is not None


def names_in(text: str) -> list[str]:
    """First names, last names and pairs of them in the text, in order: `["Anna Bell", "Tom"]`."""
    names: list[str] = []
    pending = ""
    for word in words(text):
        bare = word.removesuffix("'s")
        if pending and bare in _LASTS:
            names[-1] = f"{pending} {bare}"
            pending = ""
        elif bare in _FIRSTS:
            names.append(bare)
            pending = bare
        elif bare in _LASTS:
            names.append(bare)
            pending = ""
        else:
            pending = ""
    return names


def other_name(text: str, name: str) -> str | None:
    """The first name in the text that is not `name` (its first name alone is allowed), or None."""
    allowed = {name, name.split()[0]}
    return next((other for other in names_in(text) if other not in allowed), None)


def has_words(text: str, wanted: Sequence[str]) -> bool:
    """Whether the words of every wanted phrase stand in the text, each phrase in one piece."""
    line = " " + " ".join(lower_words(text)) + " "
    return all(f" {' '.join(lower_words(phrase))} " in line for phrase in wanted)


def claimed_word(text: str, subject: str) -> str | None:
    """The word that a sentence about the subject claims, after its last `is`, `are`, ...; None without."""
    for sentence in sentences(text):
        if subject.lower() not in sentence.lower():
            continue
        claims = re.findall(
            r"\b(?:is|are|in|with|keeps|keep|likes|eats|does) (?:a |the )?([A-Za-z]+)", sentence
        )
        if claims:
            return claims[-1]
    return None
