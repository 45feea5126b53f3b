"""What a task module gives and takes: a case (a prompt with its truth) and a verdict on an answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from data.rows import Message
from data.world.facts import World

# Where a case is used: "text" is the pretraining text, the others are the parts of people and things.
Part = Literal["text", "train", "rl", "test"]


@dataclass(frozen=True)
class Case:
    """A prompt and what is known about it. `held_out`: its wording occurs nowhere but in tests.

    `everyday`: everybody says it ("Hello!"), so it is no test prompt, and training holds it as often as it comes.
    """

    task: str
    group: str
    cluster: str
    prompt: tuple[Message, ...]
    truth: dict[str, Any]
    held_out: bool = False
    everyday: bool = False


@dataclass(frozen=True)
class Verdict:
    """A judgement on content alone: named terms that add up, one outcome word, its reason, extra measures."""

    outcome: str
    terms: dict[str, float]
    explanation: str = ""
    measures: dict[str, float] = field(default_factory=dict)


class Task(NamedTuple):
    """One task. A new task is one module with such a constant, listed in `data.world.tasks`.

    `cases(world, part, rng)` streams cases without end; `answer(truth, kind, rng)` writes an answer of one of
    `kinds` (the first is the right one); `judge(truth, text)` is pure. `max_sentences` and `max_words` bound a
    concise answer. `num_documents` is for the training text at scale 1; `question_share` of them are plain
    questions made of text cases, the others are drawn from `documents(world, rng)`, which streams texts with
    their clusters. `spoken` holds the constants that prompts and answers are made of: their words are in the
    training text even if few cases use them.
    """

    name: str
    cases: Callable[[World, Part, random.Random], Iterator[Case]]
    answer: Callable[[dict[str, Any], str, random.Random], str]
    judge: Callable[[dict[str, Any], str], Verdict]
    kinds: tuple[str, ...]
    max_sentences: int
    max_words: int
    num_documents: int
    spoken: tuple[object, ...]
    question_share: float = 1.0
    documents: Callable[[World, random.Random], Iterator[tuple[str, str]]] | None = None


def user(text: str) -> tuple[Message, ...]:
    """A prompt of one user turn."""
    return ({"role": "user", "content": text},)


def plain(prompt: tuple[Message, ...]) -> str:
    """The plain question format of a prompt, a prefix for a base model, which ends at the first newline."""
    lines = [
        f"{'Answer' if turn['role'] == 'assistant' else 'Question'}: {turn['content']}\n" for turn in prompt
    ]
    return "".join(lines) + "Answer:"


def wording(
    rng: random.Random, part: Part, common: tuple[str, ...], held_out: tuple[str, ...], share: float
) -> tuple[str, bool]:
    """Choose a wording, in tests a held-out one for `share` of them; give it and whether it is held out."""
    if part == "test" and held_out and rng.random() < share:
        return rng.choice(held_out), True
    return rng.choice(common), False


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
