"""SimpleQA's grades and scores (Wei et al. 2024, arXiv 2411.04368, sections 2 and 3).

Differs from the paper: a normalised match decides in place of a model as the judge. So an answer in other words
than the known one is incorrect, and one that names it among others is correct.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

CORRECT, INCORRECT, NOT_ATTEMPTED = "correct", "incorrect", "not_attempted"
GRADES = (CORRECT, INCORRECT, NOT_ATTEMPTED)
_NOT = (
    r"\b(?:(?:do|does|did|can|could|would|will|am|are|is) not|(?:do|does|did|ca|could|would|wo|are|is)n't|"
    r"cannot|unable to)"
)
# What follows "unknown" where it says so of the answer, and not of something in it ("an unknown artist").
_SAID = (
    r"(?=\W*$| ?[^\w\s-]| (?:but|if|that|whether|who|what|when|where|which|why|how)\b|"
    r" to (?:me|us|anyone|anybody|the public|history)\b)"
)
ABSTAINING = (
    _NOT + r"(?: \w+)? (?:know|say|tell|answer|help|remember|recall|determine|find|provide|confirm|verify)\b",
    _NOT + r" have (?:\w+ ){0,3}(?:information|knowledge|data|access|answer)\b",
    r"\bno (?:\w+ )?(?:information|knowledge|record|idea|comment|answer)\b",
    r"\b(?:unknown|unsure|not (?:sure|certain|known))" + _SAID,
    r"(?:^|[.!?;] |\b(?:i am|i'm|we are|we're) (?:\w+ )?)(?:unsure|not (?:\w+ )?(?:sure|certain))\b",
    r"\b(?:never heard|nobody knows)\b",
)
_ABSTAINING = re.compile("|".join(ABSTAINING))
_ARTICLES = ("a", "an", "the")
_PLACED = (*_ARTICLES, "in", "at", "on", "by")  # may stand between a denial and what it denies
_DENIALS = ("not", "never", "nor", "neither", "t")  # the last as in "wasn't"
_NUMBERS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split("|"))}
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"


class Rates(NamedTuple):
    """Shares over graded answers; those of attempted ones are nan where none was attempted.

    Hallucinated is what was attempted and is not correct.
    """

    correct: float
    hallucinated: float
    attempted: float
    correct_of_attempted: float
    hallucinated_of_attempted: float
    f: float


def grade(answer: str, known: str, question: str = "") -> str:
    """Grade an answer: correct where it says the known one's words in order, else by whether it abstains.

    A correct answer that also expresses doubt is correct, as in the paper. Where the known answer is made of
    numbers, an answer with another number, which is not one of the question's, names several and is incorrect.
    Words right after a denial ("not in Paris") do not count. An answer without a word is not attempted.
    """
    said, wanted = words(answer), words(known)
    if len(wanted) > 1 and wanted[0] in _ARTICLES:
        wanted = wanted[1:]
    if _holds(said, wanted) and not _names_another_number(said, wanted, words(question)):
        return CORRECT
    return NOT_ATTEMPTED if not said or abstains(answer) else INCORRECT


def abstains(answer: str) -> bool:
    """Whether the answer says that it is not known, or declines to answer; see `ABSTAINING`."""
    return _ABSTAINING.search(_folded(answer)) is not None


def words(text: str) -> list[str]:
    """Words and numbers of a text in a normal form.

    Without case, accents, punctuation and thousands separators; numbers to twelve as digits, ordinals as
    cardinals, decimals without closing zeros, `21st of July, 2022` as `july 21 2022`.
    """
    folded = re.sub(r"(?<=\d),(?=\d{3}\b)", "", _folded(text))
    folded = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", folded)
    folded = re.sub(rf"\b(\d{{1,2}}) (?:of )?({_MONTHS})\b", r"\2 \1", folded)
    found = re.findall(r"\d+\.\d+|\w+", folded)
    return [_DIGITS.get(word) or _without_zeros(word) for word in found]


def rates(grades: Sequence[str]) -> Rates:
    """Shares of the grades, and F; all nan without a grade."""
    from pipeline.calibration import simpleqa_f

    correct, incorrect, abstained = (list(grades).count(name) for name in GRADES)
    num, attempted = len(grades), correct + incorrect
    assert attempted + abstained == num, f"found {set(grades)}, grades are {', '.join(GRADES)}"
    return Rates(
        _share(correct, num),
        _share(incorrect, num),
        _share(attempted, num),
        _share(correct, attempted),
        _share(incorrect, attempted),
        float(simpleqa_f(correct, attempted, num)),
    )


def _share(count: int, num: int) -> float:
    return count / num if num else math.nan


def _folded(text: str) -> str:
    """Lower case, straight apostrophes, no accents, single spaces."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "'"))
    kept = "".join(character for character in plain if not unicodedata.combining(character))
    return " ".join(kept.casefold().split())


def _without_zeros(word: str) -> str:
    return word.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d+", word) else word


def _holds(said: list[str], wanted: list[str]) -> bool:
    """Whether the wanted words stand in order, next to each other, and are not denied."""
    size = len(wanted)
    places = [first for first in range(len(said) - size + 1) if said[first : first + size] == wanted]
    return size > 0 and not all(_denied(said[:first]) for first in places)


def _denied(before: list[str]) -> bool:
    """Whether a denial stands right before, but for an article or a preposition."""
    return next((word for word in reversed(before) if word not in _PLACED), "") in _DENIALS


def _names_another_number(said: list[str], wanted: list[str], asked: list[str]) -> bool:
    if not all(_is_number(word) for word in wanted):
        return False
    return any(_is_number(word) and word not in wanted and word not in asked for word in said)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(?:\.\d+)?", word) is not None
