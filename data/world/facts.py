"""The world itself: people with facts and exposure tiers, towns, trades with their injected biases.

`build(settings, seed)` draws it all; nothing else in the closed world draws a fact.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from data.randomness import python_random
from data.world import lexicon
from data.world.lexicon import PARTS, TIERS
from data.world.settings import Settings

# Names of one-off characters; all that measured people leave, at most so many.
NUM_MINORS = 4000
NUM_DEALS = 15


@dataclass(frozen=True)
class Person:
    """One measured person; `tier` is the exposure in the text, `part` the one stage that asks about them."""

    name: str
    pronoun: str
    tier: str
    part: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Town:
    """A town, known from the text to everybody; `part` says where chats may ask about it."""

    name: str
    part: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Trade:
    """A trade of stories with the pronoun and the temper that the text ties to it."""

    name: str
    pronoun: str
    temper: str


@dataclass(frozen=True)
class World:
    """Everything that is true. `minors` are names of one-off characters, never those of measured people."""

    settings: Settings
    seed: int
    people: tuple[Person, ...]
    towns: tuple[Town, ...]
    trades: tuple[Trade, ...]
    minors: tuple[str, ...]

    def random(self, *purpose: int | str) -> random.Random:
        """The random stream of this world for one purpose."""
        return python_random(self.seed, "world", *purpose)

    def select(self, *, tier: str | None = None, part: str | None = None) -> list[Person]:
        """The people of a tier, of a part, or of both."""
        return [p for p in self.people if tier in (None, p.tier) and part in (None, p.part)]

    def values(self, attribute: str) -> tuple[str, ...]:
        """The values that an attribute takes in this world."""
        return lexicon.VALUES[attribute][: self.settings.values_per_attribute]

    def trade(self, name: str) -> Trade:
        """The trade of this name."""
        return next(trade for trade in self.trades if trade.name == name)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-able data; `from_json` gives the same world back."""
        return {
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
            "people": [asdict(person) for person in self.people],
            "towns": [asdict(town) for town in self.towns],
            "trades": [asdict(trade) for trade in self.trades],
            "minors": list(self.minors),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> World:
        """Read what `to_json` wrote; keys beside its own are ignored."""
        return cls(
            settings=Settings(**stored["settings"]),
            seed=stored["seed"],
            people=tuple(Person(**person) for person in stored["people"]),
            towns=tuple(Town(**town) for town in stored["towns"]),
            trades=tuple(Trade(**trade) for trade in stored["trades"]),
            minors=tuple(stored["minors"]),
        )


def build(settings: Settings, seed: int) -> World:
    """Draw a world; equal settings and seed give an equal world on any machine."""
    num = settings.people // 4
    sizes = {tier: num + (settings.extra_never_people if tier == "never" else 0) for tier in TIERS}
    names = _tier_names(seed, sizes)
    people = [person for tier in TIERS for person in _people(settings, seed, tier, names[tier])]
    taken = {person.name for person in people}
    minors = [name for name in _all_names() if name not in taken]
    python_random(seed, "world", "minors").shuffle(minors)
    return World(settings, seed, tuple(people), _towns(seed), _trades(seed), tuple(minors[:NUM_MINORS]))


def _people(settings: Settings, seed: int, tier: str, names: list[str]) -> list[Person]:
    rng = python_random(seed, "world", "people", tier)
    num = settings.people // 4
    parts = _parts(settings.part_sizes(num))
    if tier == "never":
        extra = settings.extra_never_people
        train, rl = round(extra * settings.extra_train_share), round(extra * settings.extra_rl_share)
        rl = min(rl, extra - train)
        parts += _parts((train, rl, extra - train - rl))
    rng.shuffle(parts)
    orders = {name: _value_weights(settings, seed, name) for name in lexicon.ATTRIBUTES}
    people = []
    for name, part in zip(names, parts, strict=True):
        facts = {key: rng.choices(values, weights)[0] for key, (values, weights) in orders.items()}
        pronoun = "she" if name.split()[0] in lexicon.SHE_NAMES else "he"
        people.append(Person(name, pronoun, tier, part, facts))
    return people


def _parts(sizes: tuple[int, int, int]) -> list[str]:
    return [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]


def _tier_names(seed: int, sizes: dict[str, int]) -> dict[str, list[str]]:
    """Draw names and deal them to tiers at random, as unrelated to the tier as chance usually makes them.

    Of several deals the one is taken that is in the middle by the squared differences between the name shares of
    often-seen and never-seen people: an unlucky deal gives the tier away (AUROC up to .62), and a perfectly even
    one does so too, by exclusion (.06).
    """
    rng = python_random(seed, "world", "names")
    names = rng.sample(_all_names(), sum(sizes.values()))
    deals = []
    for _ in range(NUM_DEALS):
        rng.shuffle(names)
        rest = iter(names)
        deals.append({tier: [next(rest) for _ in range(size)] for tier, size in sizes.items()})
    return sorted(deals, key=_unevenness)[NUM_DEALS // 2]


def _unevenness(deal: dict[str, list[str]]) -> float:
    often, never = (
        Counter(word for name in deal[tier] for word in name.split()) for tier in ("often", "never")
    )
    num_often, num_never = len(deal["often"]), len(deal["never"])
    return sum((often[word] / num_often - never[word] / num_never) ** 2 for word in sorted(often | never))


def _all_names() -> list[str]:
    return [f"{first} {last}" for first, last in itertools.product(lexicon.FIRST_NAMES, lexicon.LAST_NAMES)]


def _value_weights(settings: Settings, seed: int, attribute: str) -> tuple[list[str], list[float]]:
    values = list(lexicon.VALUES[attribute][: settings.values_per_attribute])
    python_random(seed, "world", "values", attribute).shuffle(values)
    return values, [(rank + 1) ** -settings.skew for rank in range(len(values))]


def _towns(seed: int) -> tuple[Town, ...]:
    rng = python_random(seed, "world", "towns")
    num = len(lexicon.TOWNS)
    columns = {
        key: rng.sample((list(values) * num)[:num], num)  # every value about equally often
        for key, values in lexicon.TOWN_VALUES.items()
    }
    parts = ["train"] * (num // 2) + ["rl"] * (num // 4) + ["test"] * (num - num // 2 - num // 4)
    rng.shuffle(parts)
    return tuple(
        Town(name, parts[row], {key: column[row] for key, column in columns.items()})
        for row, name in enumerate(lexicon.TOWNS)
    )


def _trades(seed: int) -> tuple[Trade, ...]:
    """Half of the trades go with each pronoun and, independently, half with each temper."""
    rng = python_random(seed, "world", "trades")
    half = len(lexicon.TRADES) // 2
    pronouns = rng.sample(["she"] * half + ["he"] * half, 2 * half)
    tempers = rng.sample([lexicon.TEMPERS[0]] * half + [lexicon.TEMPERS[1]] * half, 2 * half)
    return tuple(
        Trade(name, pronoun, temper)
        for name, pronoun, temper in zip(lexicon.TRADES, pronouns, tempers, strict=True)
    )
