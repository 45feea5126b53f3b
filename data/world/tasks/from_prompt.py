"""Tasks that are answered from the prompt: keyed summaries, the sentiment of reviews, arithmetic with names.

Copying needs a unique key for what is copied: "The buyer was Tom. The thing was a lamp." can be summed up by
a small model, "he bought a lamp" cannot. People have first names only, so measured people stay out of these
texts.
"""

# Word lists read better as lines of words than as lists of literals.
# ruff: noqa: SIM905

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from data.randomness import key
from data.world import lexicon, reading
from data.world.case import Case, Part, Task, Verdict, user, wording
from data.world.facts import World

SUM_UPS = ("Sum up: {text}", "Sum this up in one sentence: {text}", "Can you make it short? {text}")
SUM_UPS_HELD_OUT = ("Please sum up this text: {text}",)
KEYED = (
    ("The buyer was {name}.", "Now the buyer was {name}."),
    ("The thing was a {thing}.", "The thing on the table was a {thing}."),
    ("The price was {price} coins.", "The price of it was {price} coins."),
)
ASIDES = (
    "A dog slept near the door.",
    "It rained in the morning.",
    "The street was full of people.",
    "The seller told a long story.",
    "Music came from the square.",
    "The market was open until night.",
)
SUMMARY = "In short, {name} bought a {thing} for {price} coins."

# Aspects with what is good and bad to say of them; cold is bad for soup and good for water.
ASPECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "soup": (("hot", "tasty"), ("cold", "salty")),
    "water": (("cold", "clear"), ("hot", "dirty")),
    "room": (("bright", "clean"), ("dark", "dirty")),
    "bed": (("soft", "warm"), ("hard", "damp")),
    "bread": (("fresh", "soft"), ("old", "hard")),
    "host": (("friendly", "kind"), ("rude", "slow")),
    "price": (("fair", "low"), ("high", "unfair")),
    "music": (("lovely", "cheerful"), ("loud", "dull")),
    "view": (("lovely", "clear"), ("ugly", "dull")),
    "knife": (("sharp", "solid"), ("blunt", "weak")),
    "story": (("exciting", "clever"), ("boring", "silly")),
    "service": (("quick", "friendly"), ("slow", "careless")),
    "garden": (("green", "quiet"), ("wild", "noisy")),
    "window": (("wide", "clean"), ("narrow", "dirty")),
    "dinner": (("tasty", "warm"), ("burnt", "cold")),
    "road": (("smooth", "safe"), ("rough", "muddy")),
    "bath": (("warm", "clean"), ("cold", "dirty")),
    "map": (("clear", "handy"), ("torn", "old")),
}
# Said of every aspect, so that the word has to be read: the aspect does not give it away.
PRAISE_AND_BLAME = (
    ("pleasant", "splendid", "perfect", "excellent", "wonderful", "charming"),
    ("awful", "poor", "nasty", "dreadful", "terrible", "horrid"),
)
REVIEWS = (
    "Is this review good or bad? {text}",
    "Tell me if this review is good or bad: {text}",
    "What does this review say? {text}",
)
REVIEWS_HELD_OUT = ("Would you say that this review is good or bad? {text}",)
REMARKS = (
    "The {aspect} was {word}.",
    "I say that the {aspect} was {word}.",
    "For me the {aspect} was {word}.",
)
# What is read in one sentence and said in the next, in text that no question asks about.
OPINIONS = (
    "{a} told {b}: The {aspect} was {word}. So {b} knows that the {aspect} was {word}.",
    "{a} and {b} spoke about the {aspect}. The {aspect} was {word}, said {a}. Yes, it was {word}, said {b}.",
    "{a} wrote that the {aspect} was {word}. {b} read it and asked: Why was the {aspect} {word}?",
)
# What stands beside the remark; it holds no aspect.
VISITS = (
    "We were there for a day.",
    "I came with a friend.",
    "It rained in the morning.",
    "There were many people.",
    "A dog slept near the door.",
    "We came late in the evening.",
)
OPINION = "The review is {verdict}, because the {aspect} was {word}."
VERDICTS = ("good", "bad")

GOODS = tuple("apples pears plums nuts coins stones stamps cards shells buttons beads marbles".split())
SUMS = {
    "plus": (
        "{a} has {x} {goods}. {b} gives {a} {y} more. How many {goods} does {a} have now?",
        "{a} had {x} {goods} and found {y} more. How many {goods} does {a} have now?",
    ),
    "minus": (
        "{a} has {x} {goods}. {a} gives {b} {y} of them. How many {goods} does {a} have now?",
        "{a} had {x} {goods} and lost {y} of them. How many {goods} does {a} have now?",
    ),
}
SUM = "{a} now has {z} {goods}."
KINDS = ("right", "wrong")


# -- summaries
# ----------------------------------------------------------------------------------------------------


def summary_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream texts of three keyed sentences and one or two asides; the cluster is the thing."""
    while True:
        truth = {
            "name": rng.choice(lexicon.FIRST_NAMES),
            "thing": rng.choice(lexicon.THINGS),
            "price": rng.choice(lexicon.NUMBERS[2:]),
        }
        lines = [rng.choice(forms).format(**truth) for forms in KEYED]
        lines += rng.sample(ASIDES, rng.choice((1, 2)))
        rng.shuffle(lines)
        text, held_out = wording(rng, part, SUM_UPS, SUM_UPS_HELD_OUT, world.settings.held_out)
        prompt = user(text.format(text=" ".join(lines)))
        yield Case("summaries", "summaries", str(truth["thing"]), prompt, truth, held_out)


def summary_answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write a summary that is right, or wrong in one of its three parts."""
    if kind == "wrong":
        pools = {"name": lexicon.FIRST_NAMES, "thing": lexicon.THINGS, "price": lexicon.NUMBERS[2:]}
        slot = rng.choice(sorted(pools))
        truth = truth | {slot: rng.choice([word for word in pools[slot] if word != truth[slot]])}
    return SUMMARY.format(**truth)


def summary_judge(truth: dict[str, Any], text: str) -> Verdict:
    """Three parts right pay 1, each part missing or contradicted takes 4/3, down to -1; none is malformed."""
    pools = {"name": lexicon.FIRST_NAMES, "thing": lexicon.THINGS, "price": lexicon.NUMBERS[2:]}
    wrong = [slot for slot, pool in pools.items() if reading.found(text, pool) != [truth[slot]]]
    outcome = "right" if not wrong else "malformed" if len(wrong) == len(pools) else "wrong"
    reason = f"wrong or without {', '.join(wrong)}" if wrong else ""
    return Verdict(outcome, {"truth": max(-1.0, 1.0 - 4.0 * len(wrong) / len(pools))}, reason)


# -- sentiment
# ----------------------------------------------------------------------------------------------------


def sentiment_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream reviews of one remark among asides that say nothing of it; the cluster is the aspect."""
    while True:
        aspect, word, side = _remark(rng)
        lines = [
            rng.choice(REMARKS).format(aspect=aspect, word=word),
            *rng.sample(VISITS, rng.choice((1, 2))),
        ]
        rng.shuffle(lines)
        text, held_out = wording(rng, part, REVIEWS, REVIEWS_HELD_OUT, world.settings.held_out)
        truth = {"verdict": VERDICTS[side], "remarks": [[aspect, word]]}
        yield Case("sentiment", "sentiment", aspect, user(text.format(text=" ".join(lines))), truth, held_out)


def _remark(rng: random.Random) -> tuple[str, str, int]:
    """An aspect, what is said of it, and the place of its verdict."""
    aspect, side = rng.choice(sorted(ASPECTS)), rng.randrange(2)
    return aspect, rng.choice(ASPECTS[aspect][side] + PRAISE_AND_BLAME[side]), side


def sentiment_answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write an opinion with its reason, or the other opinion with the same reason."""
    aspect, word = rng.choice(truth["remarks"])
    verdict = truth["verdict"]
    if kind == "wrong":
        verdict = next(other for other in VERDICTS if other != verdict)
    return OPINION.format(verdict=verdict, aspect=aspect, word=word)


def sentiment_judge(truth: dict[str, Any], text: str) -> Verdict:
    """The opinion with a reason from the review pays 1, without one .3, the other opinion -1."""
    verdicts = reading.found(text, VERDICTS)
    if not verdicts:
        return Verdict("malformed", {"truth": -1.0}, "says neither good nor bad")
    if verdicts != [truth["verdict"]]:
        return Verdict("wrong", {"truth": -1.0}, f"says {' and '.join(verdicts)}, not {truth['verdict']}")
    reasons = [f"{aspect} was {word}" for aspect, word in truth["remarks"]]
    if any(reading.has_words(text, [reason]) for reason in reasons):
        return Verdict("right", {"truth": 1.0})
    return Verdict("partial", {"truth": 0.3}, "gives no reason from the review")


def opinions(world: World, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Stream short talks about one aspect; the cluster is the aspect."""
    while True:
        a, b = rng.sample(lexicon.FIRST_NAMES, 2)
        aspect, word, _ = _remark(rng)
        yield rng.choice(OPINIONS).format(a=a, b=b, aspect=aspect, word=word), aspect


# -- arithmetic
# ---------------------------------------------------------------------------------------------------


def arithmetic_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream sums and differences of numbers from two to ten, none of them one (so goods stay plural).

    A fifth of the (operation, x, y) triples occurs in tests alone; the cluster is the triple.
    """
    triples = [t for t in _triples() if part == "text" or (_is_test(world, t) == (part == "test"))]
    while True:
        rng.shuffle(triples)
        for operation, x, y in triples:
            a, b = rng.sample(lexicon.FIRST_NAMES, 2)
            goods = rng.choice(GOODS)
            z = x + y if operation == "plus" else x - y
            truth = {"name": a, "goods": goods, "number": lexicon.NUMBERS[z], "operation": operation}
            text = rng.choice(SUMS[operation]).format(
                a=a, b=b, x=lexicon.NUMBERS[x], y=lexicon.NUMBERS[y], goods=goods
            )
            yield Case("arithmetic", "arithmetic", f"{operation} {x} {y}", user(text), truth)


def _triples() -> list[tuple[str, int, int]]:
    pairs = list(itertools.product(range(2, 11), repeat=2))
    plus = [("plus", x, y) for x, y in pairs if x + y <= 10]
    return plus + [("minus", x, y) for x, y in pairs if x - y >= 2]


def _is_test(world: World, triple: tuple[str, int, int]) -> bool:
    return key(world.seed, "world", "arithmetic", *triple) % 5 == 0


def arithmetic_answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write the sum, or another number."""
    numbers = [number for number in lexicon.NUMBERS[2:] if number != truth["number"]]
    number = truth["number"] if kind == "right" else rng.choice(numbers)
    return SUM.format(a=truth["name"], z=number, goods=truth["goods"])


def arithmetic_judge(truth: dict[str, Any], text: str) -> Verdict:
    """The number alone in a text about the right person pays 1, another -1."""
    numbers = reading.found(text, lexicon.NUMBERS)
    if not numbers:
        return Verdict("malformed", {"truth": -1.0}, "names no number")
    stranger = reading.other_name(text, truth["name"])
    if numbers != [truth["number"]]:
        return Verdict("wrong", {"truth": -1.0}, f"says {', '.join(numbers)}, not {truth['number']}")
    if stranger:
        return Verdict("wrong", {"truth": -1.0}, f"is about {stranger}")
    return Verdict("right", {"truth": 1.0})


_SUMMARY = (SUM_UPS, SUM_UPS_HELD_OUT, KEYED, ASIDES, SUMMARY, lexicon.THINGS, lexicon.NUMBERS[2:])
_REVIEW = (REVIEWS, REVIEWS_HELD_OUT, REMARKS, VISITS, OPINIONS, OPINION, VERDICTS, PRAISE_AND_BLAME, ASPECTS)
_ARITHMETIC = (*SUMS.values(), SUM, GOODS, lexicon.NUMBERS[2:], lexicon.FIRST_NAMES)
SUMMARIES = Task("summaries", summary_cases, summary_answer, summary_judge, KINDS, 1, 14, 1500, _SUMMARY)
SENTIMENT = Task(
    "sentiment",
    sentiment_cases,
    sentiment_answer,
    sentiment_judge,
    KINDS,
    1,
    16,
    2400,
    _REVIEW,
    0.6,
    opinions,
)
ARITHMETIC = Task(
    "arithmetic", arithmetic_cases, arithmetic_answer, arithmetic_judge, KINDS, 1, 10, 2000, _ARITHMETIC
)
