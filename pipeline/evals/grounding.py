"""Faithfulness to a given text: what answers say against it, and what they say that stands in it nowhere.

Of tasks that are answered from their prompt. An answer contradicts its text (intrinsic hallucination: Ji et al.
2023, arXiv 2202.03629, section 2) where

| task | it says |
|---|---|
| summaries | a buyer, a thing or a price, and not the one of the text |
| sentiment | the other opinion, or of something that the review speaks of what the review does not say of it |
| notes | of a finding that it is there where it is not, or the reverse |

and adds to it (extrinsic) where it says a word of the world's vocabulary - a person, a place, a thing, an animal,
a food, a craft, a trade; in sentiment something else that reviews speak of, in notes another finding - that is
not in the text. Such a word need not contradict the world: nothing else in it tells of these texts, so what they
do not hold is held nowhere. A buyer, thing or price in place of the right one counts as a contradiction alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score, shown_prompt
from pipeline.measured import Measured, of_records, with_outcome

KIND = "answers"
SUITE = "truthfulness"
NAME = "grounding"
FAITHFUL, INTRINSIC, EXTRINSIC, BOTH, EMPTY = "faithful", "intrinsic", "extrinsic", "both", "empty"
FIGURES = (
    ("faithful", "share", 1, (FAITHFUL,)),
    ("intrinsic", "share that contradicts the text", -1, (INTRINSIC, BOTH)),
    ("extrinsic", "share with words of the world that the text has not", -1, (EXTRINSIC, BOTH)),
)
REMARK = re.compile(r"\b([a-z]+) (?:there )?was ([a-z]+)")

# What an answer says for, against and beyond its text.
Said = tuple[set[str], set[str], set[str]]


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The items of the tasks that are answered from a given text."""
    return context.of_task(*_READERS)


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record with the outcome; its score is 1 for faithful. An answer that says nothing of it is empty."""
    supported, against, beyond = said(item, answer.text)
    if against and beyond:
        outcome = BOTH
    elif against or beyond:
        outcome = INTRINSIC if against else EXTRINSIC
    else:
        outcome = FAITHFUL if supported else EMPTY
    told = [f"against the text: {', '.join(sorted(against))}"] if against else []
    told += [f"not in the text: {', '.join(sorted(beyond))}"] if beyond else []
    return [Score("answer", float(outcome == FAITHFUL), outcome, "; ".join(told), item.task)]


def figures(records: Records, context: Context) -> list[Measured]:
    """Shares over all tasks and of each; nulls are the answer to another question, and saying nothing."""
    asked = items(context)
    tasks = list(dict.fromkeys(item.task for item in asked))
    slices = [("", None), *((f"/{task}", task) for task in tasks)] if len(tasks) > 1 else [("", None)]
    found = []
    for suffix, task in slices if asked else ():
        members = [item for item in asked if task in (None, item.task)]
        swapped = {stage: _swapped(context, stage, members) for stage in records}
        for name, unit, better, outcomes in FIGURES:
            scores = of_records(records, group=task, score=with_outcome(*outcomes))
            nulls = {
                stage: {
                    "answer_to_another_question": _share(swapped[stage], outcomes),
                    "says_nothing": 0.0,
                }
                for stage in scores
            }
            found.append(Measured(f"{NAME}/{name}{suffix}", unit, "rate", scores, better, nulls))
    return found


def said(item: Item, text: str) -> Said:
    """What an answer says for, against and beyond the text that its item gives."""
    from data.world import gold

    return _READERS[item.task](item.truth, shown_prompt(item), gold.without_fillers(" ".join(text.split())))


def _swapped(context: Context, stage: str, asked: list[Item]) -> list[str]:
    """The outcomes of answers to other questions of the task."""
    others = context.other_answer(stage, asked)
    return [score(item, others[item.id], context)[0].outcome for item in asked]


def _share(outcomes: list[str], wanted: tuple[str, ...]) -> float:
    return sum(outcome in wanted for outcome in outcomes) / len(outcomes)


# --- what answers say, by task ---------------------------------------------------------------------------


def _summary(truth: dict[str, Any], given: str, text: str) -> Said:
    from data.world import lexicon, reading

    supported, against = set(), set()
    pools = {"name": lexicon.FIRST_NAMES, "thing": lexicon.THINGS, "price": lexicon.NUMBERS[2:]}
    for slot, pool in pools.items():
        stated = set(reading.found(text, pool))
        supported |= stated & {truth[slot]}
        against |= stated - {truth[slot]}
    return supported, against, _foreign(given, text) - against


def _sentiment(truth: dict[str, Any], given: str, text: str) -> Said:
    from data.world import reading
    from data.world.tasks.from_prompt import ASPECTS, VERDICTS

    supported: set[str] = set()
    against: set[str] = set()
    for verdict in reading.found(text, VERDICTS):
        (supported if verdict == truth["verdict"] else against).add(verdict)
    remarks = dict(truth["remarks"])
    beyond = set(reading.found(text, [aspect for aspect in ASPECTS if aspect not in remarks]))
    for aspect, word in REMARK.findall(text.lower()):
        if aspect in remarks:
            (supported if word == remarks[aspect] else against).add(f"{aspect} was {word}")
    return supported, against, beyond | (_foreign(given, text) - set(ASPECTS))


def _note(truth: dict[str, Any], given: str, text: str) -> Said:
    from data.world import reading
    from data.world.tasks.larger import SIGNS

    # As the task's judge reads it: what stands before "no" is there, what stands behind it is not.
    before, _, after = text.partition(" no ")
    supported: set[str] = set()
    against: set[str] = set()
    beyond: set[str] = set()
    for where, part in (("present", before), ("absent", after)):
        for sign in reading.found(part, SIGNS):
            known = next((side for side in ("present", "absent") if sign in truth[side]), None)
            (beyond if known is None else supported if known == where else against).add(sign)
    return supported, against, beyond | _foreign(given, text)


def _foreign(given: str, text: str) -> set[str]:
    """Words of the world's vocabulary that the answer has and the given text has not."""
    from data.world import lexicon, reading

    pools = (
        lexicon.TRADES,
        lexicon.THINGS,
        *lexicon.VALUES.values(),
        *lexicon.TOWN_VALUES.values(),
    )
    stated = reading.found(text, [value for pool in pools for value in pool])
    # Names with their capital alone: many a last name is a word as well.
    names = {*lexicon.FIRST_NAMES, *lexicon.LAST_NAMES}
    stated += [bare for word in reading.words(text) if (bare := word.removesuffix("'s")) in names]
    known = {word.removesuffix("'s") for word in reading.lower_words(given)}
    return {value for value in stated if value.lower() not in known}


_READERS: dict[str, Callable[[dict[str, Any], str, str], Said]] = {
    "summaries": _summary,
    "sentiment": _sentiment,
    "notes": _note,
}
