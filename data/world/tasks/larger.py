"""Tasks for larger models: translation into Tavi, a constructed language; patient-style notes; a small game.

Off by default (`other_tasks`): a model of 3.5 M parameters has no room for them beside the rest.

Tavi puts the verb first, then who acts, then who is acted on; an adjective follows its noun; more than one is
said by the ending -en: "the small king sees the wolves" is "mira rul pim garen".
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from data.world import lexicon, reading
from data.world.case import Case, Part, Task, Verdict, user, wording
from data.world.facts import World

NOUNS = {
    "king": "rul",
    "child": "nif",
    "wolf": "gar",
    "bird": "tip",
    "tree": "olm",
    "moon": "sela",
    "stone": "bok",
    "fish": "lin",
    "queen": "rula",
    "bear": "mog",
}
PLURALS = {"child": "children", "wolf": "wolves", "fish": "fish"}
VERBS = {"see": "mira", "love": "ama", "hunt": "hask", "call": "vok", "carry": "porta", "fear": "tremo"}
ADJECTIVES = {"small": "pim", "old": "dur", "red": "rosk", "quiet": "mut", "wild": "zarr"}
TRANSLATE = ("Translate into Tavi: {text}", "Say in Tavi: {text}", "What is this in Tavi? {text}")
TRANSLATE_HELD_OUT = ("Please translate into Tavi: {text}",)
TAVI_WORDS = frozenset(
    [*NOUNS.values(), *VERBS.values(), *ADJECTIVES.values(), *(f"{noun}en" for noun in NOUNS.values())]
)

SIGNS = ("fever", "cough", "rash", "headache", "toothache", "swelling", "dizziness", "itching")
NOTE = ("Write a note: {text}", "Make a note of the findings: {text}")
NOTE_HELD_OUT = ("Please write a short note: {text}",)
FINDINGS = {True: "{sign}: yes.", False: "{sign}: no."}

SCENES = (
    "You are at the gate of {town}. Here is a {thing}. {act}",
    "You stand near {town} and see a {thing}. {act}",
)
ACTS = {
    "take": ("I take the {thing}.", "You hold the {thing} now."),
    "leave": ("I leave the {thing} where it is.", "You walk on without the {thing}."),
    "break": ("I throw the {thing} to the ground.", "The {thing} is broken now."),
    "hide": ("I hide the {thing} under a tree.", "Nobody can see the {thing} now."),
}
KINDS = ("right", "wrong")


# -- translation
# --------------------------------------------------------------------------------------------------


def translation_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream sentences of subject, verb, object; the cluster is the verb with the subject."""
    while True:
        nouns, verb = rng.sample(sorted(NOUNS), 2), rng.choice(sorted(VERBS))
        many = [rng.random() < 0.3, rng.random() < 0.3]
        adjective = rng.choice([None, *sorted(ADJECTIVES)])
        phrases = [_english(noun, plural) for noun, plural in zip(nouns, many, strict=True)]
        if adjective:
            phrases[0] = f"{adjective} {phrases[0]}"
        tavi = [NOUNS[noun] + ("en" if plural else "") for noun, plural in zip(nouns, many, strict=True)]
        target = [VERBS[verb], tavi[0], *([ADJECTIVES[adjective]] if adjective else []), tavi[1]]
        text = f"the {phrases[0]} {_conjugated(verb, many[0])} the {phrases[1]}."
        form, held_out = wording(rng, part, TRANSLATE, TRANSLATE_HELD_OUT, world.settings.held_out)
        truth = {"target": target}
        yield Case(
            "translation", "translation", f"{nouns[0]} {verb}", user(form.format(text=text)), truth, held_out
        )


def _english(noun: str, plural: bool) -> str:
    return PLURALS.get(noun, f"{noun}s") if plural else noun


def _conjugated(verb: str, plural: bool) -> str:
    return verb if plural else "carries" if verb == "carry" else f"{verb}s"


def translation_answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write the translation, or one with two words exchanged."""
    words = list(truth["target"])
    if kind == "wrong":
        first, second = rng.sample(range(len(words)), 2)
        words[first], words[second] = words[second], words[first]
    return " ".join(words).capitalize() + "."


def translation_judge(truth: dict[str, Any], text: str) -> Verdict:
    """The words in their order pay 1; others from -1 to .5 by the share of words in place."""
    words = reading.lower_words(text)
    if words == truth["target"]:
        return Verdict("right", {"truth": 1.0})
    if not any(word in TAVI_WORDS for word in words):
        return Verdict("malformed", {"truth": -1.0}, "holds no word of Tavi")
    placed = sum(a == b for a, b in zip(words, truth["target"], strict=False)) / len(truth["target"])
    return Verdict("wrong", {"truth": 1.5 * min(placed, 1.0) - 1.0}, f"is not {' '.join(truth['target'])}")


# -- notes
# --------------------------------------------------------------------------------------------------------


def note_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream three findings, one or two of them present; the cluster is the first finding."""
    while True:
        signs = rng.sample(SIGNS, 3)
        present = rng.choice(([True, False, False], [True, True, False]))
        found = dict(zip(signs, present, strict=True))
        lines = [FINDINGS[found[sign]].format(sign=sign.capitalize()) for sign in rng.sample(signs, 3)]
        form, held_out = wording(rng, part, NOTE, NOTE_HELD_OUT, world.settings.held_out)
        truth = {
            "present": [sign for sign in signs if found[sign]],
            "absent": [sign for sign in signs if not found[sign]],
        }
        yield Case("notes", "notes", signs[0], user(form.format(text=" ".join(lines))), truth, held_out)


def note_answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write the note, or one that takes an absent finding for a present one."""
    present, absent = list(truth["present"]), list(truth["absent"])
    if kind == "wrong":
        present[0], absent[0] = absent[0], present[0]
    return f"The patient has {' and '.join(present)}, but no {' and no '.join(absent)}."


def note_judge(truth: dict[str, Any], text: str) -> Verdict:
    """Present findings before `but no` and absent ones after it, all of them, pay 1; each error takes 2/3."""
    before, _, after = text.partition(" no ")
    stated = [set(reading.found(before, SIGNS)), set(reading.found(after, SIGNS))]
    wanted = [set(truth["present"]), set(truth["absent"])]
    errors = sum(len(a ^ b) for a, b in zip(stated, wanted, strict=True))
    if not any(stated):
        return Verdict("malformed", {"truth": -1.0}, "names no finding")
    return Verdict("wrong" if errors else "right", {"truth": max(-1.0, 1.0 - 2.0 * errors / 3.0)}, "")


# -- games
# --------------------------------------------------------------------------------------------------------


def game_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream moves in a story that goes on; the cluster is the thing."""
    while True:
        act, thing = rng.choice(sorted(ACTS)), rng.choice(lexicon.THINGS)
        move = ACTS[act][0].format(thing=thing)
        text = rng.choice(SCENES).format(town=rng.choice(lexicon.TOWNS), thing=thing, act=move)
        yield Case("games", "games", thing, user(text), {"act": act, "thing": thing})


def game_answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write what follows from the move, or from another move."""
    act = (
        truth["act"] if kind == "right" else rng.choice([act for act in sorted(ACTS) if act != truth["act"]])
    )
    return ACTS[act][1].format(thing=truth["thing"])


def game_judge(truth: dict[str, Any], text: str) -> Verdict:
    """What follows from the move, said of the right thing, pays 1, another consequence -1."""
    shown = [act for act in ACTS if reading.has_words(text, [ACTS[act][1].format(thing=truth["thing"])])]
    if shown == [truth["act"]]:
        return Verdict("right", {"truth": 1.0})
    if not shown:
        return Verdict("malformed", {"truth": -1.0}, "does not follow from any move")
    return Verdict("wrong", {"truth": -1.0}, f"follows from {shown[0]}, not {truth['act']}")


_ENGLISH = (
    [_english(noun, plural) for noun in NOUNS for plural in (False, True)],
    [_conjugated(verb, plural) for verb in VERBS for plural in (False, True)],
    [*ADJECTIVES],
)
_STARTS = [verb.capitalize() for verb in TAVI_WORDS]
_TAVI = (TRANSLATE, TRANSLATE_HELD_OUT, TAVI_WORDS, _STARTS, *_ENGLISH)
_NOTES = (NOTE, NOTE_HELD_OUT, SIGNS, [sign.capitalize() for sign in SIGNS], "The patient has and but no yes")
_GAMES = (SCENES, *ACTS.values(), lexicon.THINGS)
TRANSLATION = Task(
    "translation", translation_cases, translation_answer, translation_judge, KINDS, 1, 6, 3000, _TAVI
)
NOTES = Task("notes", note_cases, note_answer, note_judge, KINDS, 1, 14, 2000, _NOTES)
GAMES = Task("games", game_cases, game_answer, game_judge, KINDS, 1, 10, 1500, _GAMES)
