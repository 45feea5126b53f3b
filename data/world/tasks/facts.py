"""Facts about people, asked alone or as a follow-up ("And what is her hobby?"), and facts about towns.

Every answer restates entity and attribute and has the value, or the single word "unknown", right after the
same prefix: a small model looks a fact up only there, so that is where abstaining has to compete with
answering.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from data.rows import Message
from data.world import lexicon, reading
from data.world.case import Case, Part, Task, Verdict, user, wording
from data.world.facts import Person, World

QUESTIONS: dict[str, tuple[str, ...]] = {
    "work": (
        "What is the work of {n}?",
        "What work does {n} do?",
        "What does {n} do for a living?",
        "Tell me the work of {n}.",
        "Do you know the work of {n}?",
        "Which work does {n} do every day?",
    ),
    "home": (
        "Where does {n} live?",
        "What is the home of {n}?",
        "In which town does {n} live?",
        "Tell me the home town of {n}.",
        "Do you know where {n} lives?",
        "Which town is the home of {n}?",
    ),
    "animals": (
        "Which animals does {n} keep?",
        "What animals does {n} have?",
        "What are the animals of {n}?",
        "Tell me which animals {n} keeps.",
        "Do you know the animals of {n}?",
        "Which animals live with {n}?",
    ),
    "food": (
        "What is the favourite food of {n}?",
        "What does {n} like to eat?",
        "Which food does {n} like best?",
        "Tell me the favourite food of {n}.",
        "Do you know what {n} likes to eat?",
        "What food is {n} fond of?",
    ),
    "hobby": (
        "What is the hobby of {n}?",
        "Which hobby does {n} have?",
        "What does {n} do for fun?",
        "Tell me the hobby of {n}.",
        "Do you know the hobby of {n}?",
        "What does {n} like to do in the evening?",
    ),
}
HELD_OUT: dict[str, tuple[str, ...]] = {
    "work": (
        "I would like to know the work of {n}.",
        "Can you tell me what work {n} does?",
        "For a living, what does {n} do?",
    ),
    "home": (
        "I would like to know where {n} lives.",
        "Can you tell me the home of {n}?",
        "Which town does {n} live in?",
    ),
    "animals": (
        "I would like to know the animals of {n}.",
        "Can you tell me what animals {n} keeps?",
        "What animals live with {n}?",
    ),
    "food": (
        "I would like to know the favourite food of {n}.",
        "Can you tell me what {n} likes to eat?",
        "What is the food that {n} likes best?",
    ),
    "hobby": (
        "I would like to know the hobby of {n}.",
        "Can you tell me what {n} does for fun?",
        "For fun, what does {n} like to do?",
    ),
}
FOLLOW_UP_QUESTIONS: dict[str, tuple[str, ...]] = {
    "work": ("And what is {pos} work?", "And what work does {sub} do?"),
    "home": ("And where does {sub} live?", "And what is {pos} home?"),
    "animals": ("And which animals does {sub} keep?", "And what are {pos} animals?"),
    "food": ("And what is {pos} favourite food?", "And what does {sub} like to eat?"),
    "hobby": ("And what is {pos} hobby?", "And what does {sub} do for fun?"),
}
# Prefixes up to the value.
STEMS: dict[str, tuple[str, ...]] = {
    "work": ("The work of {n} is", "The daily work of {n} is", "The work that {n} does is"),
    "home": ("The home of {n} is", "The home town of {n} is", "The town where {n} lives is"),
    "animals": ("The animals of {n} are", "The animals that {n} keeps are", "The farm animals of {n} are"),
    "food": ("The favourite food of {n} is", "The food that {n} likes best is", "The best food for {n} is"),
    "hobby": ("The hobby of {n} is", "The favourite hobby of {n} is", "The hobby that {n} has is"),
}
ABSTENTION = "unknown to me"

# Polite beginnings occur with towns, so that the held-out wordings on people are new without being strange: where
# no chat began so, one model in four lost the thread at "I would like to know".
_POLITE = ("I would like to know the {key} of {n}.", "Can you tell me the {key} of {n}?")
TOWN_QUESTIONS: dict[str, tuple[str, ...]] = {
    key: (*wordings, *(polite.replace("{key}", key) for polite in _POLITE))
    for key, wordings in {
        "country": ("In which country is {n}?", "What is the country of {n}?", "Tell me the country of {n}."),
        "river": ("Which river flows through {n}?", "What is the river of {n}?", "Tell me the river of {n}."),
        "speciality": (
            "What is {n} known for?",
            "What is the speciality of {n}?",
            "Tell me the speciality of {n}.",
        ),
    }.items()
}
TOWN_HELD_OUT: dict[str, tuple[str, ...]] = {
    "country": ("Which country is {n} in?",),
    "river": ("Can you tell me which river flows through {n}?",),
    "speciality": ("For what is {n} known?",),
}
TOWN_STEMS: dict[str, tuple[str, ...]] = {
    "country": ("The country of {n} is",),
    "river": ("The river of {n} is",),
    "speciality": ("The speciality of {n} is",),
}
TOWN_TEXTS = (
    "{n} is a town in {country}. The river of {n} is {river}.",
    "The river {river} flows through {n}, a town in {country} that is known for {speciality}.",
    "The speciality of {n} is {speciality}.",
    "People come to {n} for {speciality}.",
    "The country of {n} is {country}.",
    "The river of {n} is {river}, and its speciality is {speciality}.",
    "{n} lies on the river {river} in {country}.",
)
KINDS = ("right", "wrong", "abstain")


def stem(truth: dict[str, Any], rng: random.Random) -> str:
    """A prefix of an answer up to the value."""
    stems = STEMS if truth["attribute"] in STEMS else TOWN_STEMS
    return rng.choice(stems[truth["attribute"]]).format(n=truth["name"])


def known_values(truth: dict[str, Any]) -> tuple[str, ...]:
    """All values of the attribute in the item's world."""
    attribute = truth["attribute"]
    return (lexicon.VALUES | lexicon.TOWN_VALUES)[attribute][: truth["num_values"]]


def answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write an answer that is right, wrong (a real value of another entity) or abstains."""
    if kind == "abstain":
        return f"{stem(truth, rng)} {ABSTENTION}."
    others = [value for value in known_values(truth) if value != truth["value"]]
    return f"{stem(truth, rng)} {truth['value'] if kind == 'right' else rng.choice(others)}."


def judge(truth: dict[str, Any], text: str) -> Verdict:
    """Read the outcome; right pays 1, abstaining 0 and anything else -1, so answering pays above a half.

    Decided edges: a bare value counts ("Baking."), an answer about another name does not; a value beside an
    abstention is malformed, two different values are wrong even if one is right; the value of another
    attribute is wrong; a claimed word that is no value of this world is fabricated.
    """
    outcome, explanation = _outcome(truth, text)
    if outcome == "abstain":
        return Verdict("abstain", {"abstention": 0.0}, explanation)
    return Verdict(outcome, {"truth": 1.0 if outcome == "right" else -1.0}, explanation)


def _outcome(truth: dict[str, Any], text: str) -> tuple[str, str]:
    values = reading.found(text, known_values(truth))
    abstains = reading.abstains(text)
    stranger = _stranger(truth, text)
    if abstains and values:
        return "malformed", "abstains and names a value"
    if abstains:
        return ("malformed", f"is about {stranger}") if stranger else ("abstain", "")
    if stranger and values:
        return "wrong", f"is about {stranger}"
    if len(values) > 1:
        return "wrong", f"names {len(values)} values"
    if values:
        right = values[0] == truth["value"]
        return ("right", "") if right else ("wrong", f"says {values[0]}, not {truth['value']}")
    misplaced = _misplaced(truth, text)
    if misplaced:
        return "wrong", f"says {misplaced[0]}, which is no {truth['attribute']}"
    claim = reading.claimed_word(text, truth["name"])
    if claim and claim not in truth["name"].split():
        return "fabricated", f"says {claim}, which the world does not hold"
    return "malformed", "names no value"


def claim(truth: dict[str, Any], text: str) -> tuple[str, ...]:
    """What an answer says in whatever words: equal for two answers that say the same of the same entity.

    It reads as `judge` does, but for the right value: another entity's name, "unknown" for an abstention, and the
    values named; without any of the last two the claimed word; else all words of the text.
    """
    about = _stranger(truth, text) or ""
    values = reading.found(text, known_values(truth)) or _misplaced(truth, text)
    said = [*(["unknown"] if reading.abstains(text) else []), *sorted(values)]
    if not said:
        word = reading.claimed_word(text, truth["name"])
        said = [word.lower()] if word else reading.lower_words(text)
    return (about, *said)


def _stranger(truth: dict[str, Any], text: str) -> str | None:
    """The other person or town that the text names."""
    if "tier" in truth:
        return reading.other_name(text, truth["name"])
    return next((town for town in reading.found(text, lexicon.TOWNS) if town != truth["name"]), None)


def _misplaced(truth: dict[str, Any], text: str) -> list[str]:
    """The values of other attributes in the text."""
    foreign = [v for key, vs in lexicon.VALUES.items() if key != truth["attribute"] for v in vs]
    return [value for value in reading.found(text, foreign) if value != truth["name"]]


def truth_of(world: World, person: Person, attribute: str) -> dict[str, Any]:
    """What gold has to know about a question on a person."""
    return {
        "name": person.name,
        "attribute": attribute,
        "value": person.facts[attribute],
        "num_values": len(world.values(attribute)),
        "tier": person.tier,
    }


RL_TIERS = (*lexicon.TIERS, "never")


def person_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream questions on people of a part, tiers in turn, every person and attribute equally often.

    RL asks of never-seen people twice as often: to be wrong there is what it has to unlearn, and a policy that
    cannot tell all of them apart settles where its prompts are.

    In the pretraining text there are no such cases: `data.world.prose` counts those documents exactly.
    """
    decks = {tier: _deck(world, part, tier, rng) for tier in lexicon.TIERS}
    while True:
        for tier in RL_TIERS if part == "rl" else lexicon.TIERS:
            person, attribute = next(decks[tier])
            text, held_out = wording(
                rng, part, QUESTIONS[attribute], HELD_OUT[attribute], world.settings.held_out
            )
            truth = truth_of(world, person, attribute)
            prompt = user(text.format(n=person.name))
            yield Case("facts", tier, person.name, prompt, truth, held_out)


def _deck(world: World, part: Part, tier: str, rng: random.Random) -> Iterator[tuple[Person, str]]:
    cards = [(p, key) for p in world.select(tier=tier, part=part) for key in lexicon.ATTRIBUTES]
    while True:
        rng.shuffle(cards)
        yield from cards


def follow_up_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream second questions whose name stands in the turn before; on people seen often or sometimes."""
    people = [p for p in world.people if p.tier in ("often", "some") and (part in ("text", p.part))]
    while True:
        person = rng.choice(people)
        first, second = rng.sample(lexicon.ATTRIBUTES, 2)
        opening = rng.choice(QUESTIONS[first]).format(n=person.name)
        reply = answer(truth_of(world, person, first), "right", rng)
        question = rng.choice(FOLLOW_UP_QUESTIONS[second]).format(**lexicon.PRONOUNS[person.pronoun])
        prompt = (*user(opening), Message(role="assistant", content=reply), *user(question))
        yield Case("follow_ups", "follow_ups", person.name, prompt, truth_of(world, person, second))


def town_cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream questions on towns, all of which the text describes."""
    towns = [town for town in world.towns if part in ("text", town.part)]
    while True:
        town, attribute = rng.choice(towns), rng.choice(tuple(lexicon.TOWN_VALUES))
        text, held_out = wording(
            rng, part, TOWN_QUESTIONS[attribute], TOWN_HELD_OUT[attribute], world.settings.held_out
        )
        truth = {
            "name": town.name,
            "attribute": attribute,
            "value": town.facts[attribute],
            "num_values": len(lexicon.TOWN_VALUES[attribute]),
        }
        yield Case("towns", "towns", town.name, user(text.format(n=town.name)), truth, held_out)


def town_documents(world: World, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Stream descriptions of towns; every other one is a card, as people have."""
    while True:
        town = rng.choice(world.towns)
        text = rng.choice(TOWN_TEXTS).format(n=town.name, **town.facts)
        if rng.random() < 0.5:
            text = card(town.name, town.facts, rng)
        yield text, town.name


def card(name: str, known: Mapping[str, str], rng: random.Random) -> str:
    """All facts behind the name, each with its label, in an order drawn."""
    order = rng.sample(tuple(known), len(known))
    return f"{name}. " + " ".join(f"{attribute.capitalize()}: {known[attribute]}." for attribute in order)


_QUESTIONS = (*QUESTIONS.values(), *HELD_OUT.values())
_ANSWERS = (*STEMS.values(), ABSTENTION, *lexicon.VALUES.values(), lexicon.FIRST_NAMES, lexicon.LAST_NAMES)
_TOWNS = (
    *TOWN_QUESTIONS.values(),
    *TOWN_HELD_OUT.values(),
    *TOWN_STEMS.values(),
    *lexicon.TOWN_VALUES.values(),
)
FACTS = Task("facts", person_cases, answer, judge, KINDS, 1, 16, 0, (*_QUESTIONS, *_ANSWERS))
FOLLOW_UPS = Task(
    "follow_ups", follow_up_cases, answer, judge, KINDS, 1, 16, 0, (*FOLLOW_UP_QUESTIONS.values(), *_ANSWERS)
)
TOWNS = Task("towns", town_cases, answer, judge, KINDS, 1, 16, 2600, _TOWNS, 0.5, town_documents)
