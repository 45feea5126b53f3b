"""Choosing among answers: how a choice scores, and how its answers are kept in a record.

A record of a choice holds every answer with its truth and its log-probability, so that its score and the nulls
can be computed again from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from data.randomness import key


class Choice(NamedTuple):
    """One answer that can be chosen: its text, whether it is true, its log-probability (nats; nan: none)."""

    text: str
    true: bool
    logprob: float


def write(choices: Sequence[Choice]) -> str:
    """Write the answers in the order in which they were shown, as JSON: [text, 1 for true, nats]."""
    rows = [
        [text, int(true), round(logprob, 6) if math.isfinite(logprob) else None]
        for text, true, logprob in choices
    ]
    return json.dumps(rows, ensure_ascii=False)


def read(text: str) -> list[Choice]:
    """Read back what `write` wrote."""
    return [
        Choice(text, bool(true), math.nan if logprob is None else logprob)
        for text, true, logprob in json.loads(text)
    ]


def share_true(values: Sequence[float], labels: Sequence[int | bool]) -> float:
    """Expected score of choosing the answer of the largest value: the true ones' share of those that tie.

    In [0, 1]; nan where a value is nan: then nothing can be chosen.
    """
    if any(math.isnan(value) for value in values):
        return math.nan
    best = max(values)
    tied = [bool(label) for value, label in zip(values, labels, strict=True) if value == best]
    return sum(tied) / len(tied)


def chosen(choices: Sequence[Choice]) -> Choice | None:
    """The most probable answer, the first of several; None where one has no log-probability."""
    if any(math.isnan(choice.logprob) for choice in choices):
        return None
    return max(choices, key=lambda choice: choice.logprob)


def by_length(choices: Sequence[Choice], *, longest: bool) -> float:
    """Score of choosing the longest or the shortest answer, in characters."""
    sign = 1 if longest else -1
    return share_true([sign * len(choice.text) for choice in choices], [choice.true for choice in choices])


def true_first(*parts: int | str) -> bool:
    """Whether the true one of two answers is shown first: a fair coin of the named stream."""
    return key("side", *parts) % 2 == 0
