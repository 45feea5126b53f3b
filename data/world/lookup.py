"""What the closed world knows about a text that somebody typed: which question it is, and whom it names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from data.rows import Item, Message
from data.world import lexicon
from data.world.facts import Person, World
from data.world.tasks import facts


def question_item(world: World, messages: Sequence[Message]) -> Item | None:
    """The item of a question on a person or a town in one of the world's own wordings, or None.

    A system turn does not change what is asked; of a longer conversation only its single question counts.
    """
    asked = [message["content"].strip() for message in messages if message["role"] != "system"]
    if len(asked) != 1:
        return None
    for person in people_in(world, asked[0]):
        for attribute in lexicon.ATTRIBUTES:
            wordings = (*facts.QUESTIONS[attribute], *facts.HELD_OUT[attribute])
            if any(wording.format(n=person.name) == asked[0] for wording in wordings):
                truth = facts.truth_of(world, person, attribute)
                return Item("typed", tuple(messages), person.name, "facts", person.tier, truth=truth)
    for town in world.towns:
        for attribute, values in lexicon.TOWN_VALUES.items():
            wordings = (*facts.TOWN_QUESTIONS[attribute], *facts.TOWN_HELD_OUT[attribute])
            if any(wording.format(n=town.name) == asked[0] for wording in wordings):
                truth = {
                    "name": town.name,
                    "attribute": attribute,
                    "value": town.facts[attribute],
                    "num_values": len(values),
                }
                return Item("typed", tuple(messages), town.name, "towns", "towns", truth=truth)
    return None


def people_in(world: World, text: str) -> list[Person]:
    """The people of the world whom a text names by first and last name, in the world's order."""
    words = lexicon.WORD.findall(text)
    named = {f"{first} {last}" for first, last in itertools.pairwise(words)}
    return [person for person in world.people if person.name in named]


def told(person: Person) -> str:
    """All that is true of a person, in a line: "Agnes Reed (often in the text): work baking, home ..."."""
    seen = "never" if person.tier == "never" else person.tier
    return f"{person.name} ({seen} in the text): " + ", ".join(
        f"{attribute} {value}" for attribute, value in person.facts.items()
    )
