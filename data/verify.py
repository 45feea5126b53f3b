"""Answers that can be checked: the final number of a text against the known one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

MARK = "####"  # before the final number, as GSM8K writes it (Cobbe et al. 2021, arXiv 2110.14168)
# A minus right before the number or its "$" is a sign, but not one between numbers: the 5 of "3-5" and "3 - 5".
_NUMBER = re.compile(r"(?:(?<!\d)(?<!\d[ \t])-)?(?:\$\s?-?)?\d[\d,]*(?:\.\d+)?")


def final_number(text: str) -> Decimal | None:
    """The number behind the last mark, else the last number of the text; None where there is none.

    Thousands may be set off by commas and money by a dollar sign: "-$1,200.50" is -1200.5.
    """
    _, found, after = text.rpartition(MARK)
    numbers = _NUMBER.findall(after if found else text)
    if not numbers:
        return None
    try:
        return Decimal(re.sub(r"[$,\s]", "", numbers[0 if found else -1]))
    except InvalidOperation:
        return None


def is_checkable(truth: dict[str, Any]) -> bool:
    """Whether a number is known: `truth["answer"]`, as text."""
    return isinstance(truth.get("answer"), str) and final_number(truth["answer"]) is not None


def is_right(truth: dict[str, Any], text: str) -> bool:
    """Whether the text ends with the known number."""
    found = final_number(text)
    return found is not None and found == final_number(truth["answer"])
