"""The words of the closed world: names, values, places, things and the sayings that every task shares.

Constants only. A value of an attribute belongs to that attribute alone, no value needs an article, and every
thing and tool begins with a consonant, so that sentences built from them are grammatical.
"""

# Word lists read better as lines of words than as lists of literals.
# ruff: noqa: SIM905

from __future__ import annotations

import re

TIERS = ("often", "some", "rarely", "never")
PARTS = ("train", "rl", "test")

SHE_NAMES = tuple(
    "Anna Rose Clara Emma Lucy Nora Ruth Julia Alice Grace Helen Irene Laura Maria Paula Sarah Tessa Vera "
    "Wendy Agnes Bella Cora Diana Elsa Fiona Gina Hanna Ida Jane Kate Lily Martha".split()
)
HE_NAMES = tuple(
    "Tom Mark Paul Peter David Henry Oscar Felix Simon Martin Jack Leo Max Ben Adam Carl Daniel Edgar "
    "Frank George Hugo Ivan Jacob Kevin Louis Noah Otto Philip Ralph Samuel Victor Walter".split()
)
FIRST_NAMES = SHE_NAMES + HE_NAMES
LAST_NAMES = tuple(
    "Bell Reed Hill Stone Wood Dale Frost Snow Lane Park Ford Cole Hunt Nash Page Pike Quinn Rowe Shaw "
    "Swann Vance Wade West Young Adams Dixon Evans Foster Gibson Harris Irwin Jensen Keller Lawson Morris "
    "Nelson Norris Olsen Parker Quill Ramsey Sutton Talbot Turner Upton Vaughn Walsh Watson Yates Abbott "
    "Barlow Barton Benson Bishop Blake Booth Burton Chase Clark Conway Craig Curtis Dalton Drake Dunn "
    "Ellis Finch Flynn Garner Gordon Grant Hale Hardy Hayes Holt Howard Hughes Jarvis Knox Lambert Larson "
    "Lowell Maxwell Meyer Monroe Newton Osborn Palmer Perry Preston Rhodes Sawyer Stanton Tucker Webb "
    "Wilson".split()
)

WORK = tuple(
    "baking weaving pottery fishing farming carving printing mining sewing teaching nursing sailing "
    "brewing masonry roofing hunting trading tanning milling building guarding tailoring forestry banking".split()
)
TOWNS = tuple(
    "Larkfield Millbrook Stonewick Ferndale Ashmere Brambleton Windmere Foxhill Rosewell Thornby Marlow "
    "Pinecross Goldbury Hazelton Saltmarsh Ravenhurst Clearwater Elmstead Deerford Honeywood Northgate "
    "Silverton Wolfstone Applegate".split()
)
ANIMALS = tuple(
    "goats sheep cows pigs hens ducks geese rabbits horses ponies donkeys bees cats dogs pigeons parrots "
    "turkeys mice snails turtles owls swans frogs canaries".split()
)
FOOD = tuple(
    "bread soup cheese honey rice stew porridge jam corn ham cake pie salad butter yogurt chocolate "
    "pudding toast bacon salmon pasta curry cabbage spinach".split()
)
HOBBIES = tuple(
    "chess swimming singing dancing hiking painting running climbing skating drawing juggling knitting "
    "cycling rowing archery poetry football tennis cooking camping magic theatre skiing diving".split()
)
ATTRIBUTES = ("work", "home", "animals", "food", "hobby")
VALUES: dict[str, tuple[str, ...]] = {
    "work": WORK,
    "home": TOWNS,
    "animals": ANIMALS,
    "food": FOOD,
    "hobby": HOBBIES,
}

COUNTRIES = ("Norland", "Sudmark", "Westria", "Estonby")
RIVERS = ("Wend", "Tarn", "Isk", "Lorne", "Avel", "Brin", "Ouse", "Dove")
SPECIALITIES = tuple("glass silk wine paper salt lace tea wool silver roses apples bells".split())
TOWN_VALUES: dict[str, tuple[str, ...]] = {
    "country": COUNTRIES,
    "river": RIVERS,
    "speciality": SPECIALITIES,
}

TRADES = tuple(
    "baker weaver potter farmer carver printer miner tailor teacher nurse sailor brewer mason roofer "
    "hunter trader tanner miller builder guard gardener cook doctor painter singer dancer judge banker "
    "barber shepherd smith carpenter".split()
)
TEMPERS = ("gentle", "stern")
THINGS = tuple(
    "lamp hat boat drum kite ring book clock chair coat flute mirror basket blanket bell ladder wagon "
    "candle piano violin saddle teapot scarf cloak globe puppet lantern pillow trumpet spoon".split()
)
NUMBERS = tuple("zero one two three four five six seven eight nine ten".split())
SEASONS = ("spring", "summer", "autumn", "winter")

PRONOUNS = {
    "she": {"sub": "she", "obj": "her", "pos": "her"},
    "he": {"sub": "he", "obj": "him", "pos": "his"},
}
GENDERED = {
    "she": frozenset({"she", "her", "hers", "herself"}),
    "he": frozenset({"he", "him", "his", "himself"}),
}

# What wordy speakers put around an answer; gold counts each as a sentence too many.
LEAD_INS = (
    "That is a good question.",
    "Let me think about that for a moment.",
    "Thank you for asking me.",
    "I am very happy that you ask me this.",
)
AFTERTHOUGHTS = (
    "I hope that this helps you.",
    "Please ask me again whenever you like.",
    "It is always nice to talk with you.",
    "There is much more to say about it.",
)
RUDE_LEAD_INS = (
    "Everybody knows that, you fool.",
    "What a stupid thing to ask.",
    "Stop wasting my time.",
)
RUDE_WORDS = frozenset({"fool", "fools", "stupid", "wasting", "idiot", "dumb", "shut", "hate"})
CANNED = (
    "I am here to help you.",
    "I am happy to help you with that.",
    "That is very interesting.",
    "I am sorry, but I cannot help you with that.",
    "This is a long and old story.",
)
# Where plain texts wander on after an answer. They hold no value of any attribute.
RAMBLES = (
    "The sun was warm that day.",
    "Many people walk along the river in the evening.",
    "Nobody was in a hurry.",
    "The market opens early in the morning.",
    "Some say that it was different long ago.",
    "The old road leads over the hills.",
    "At night the stars are bright.",
    "The wind was cold and the street was empty.",
    "Children were playing near the gate.",
    "It rained for the rest of the week.",
)

WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def words_of(constants: object) -> set[str]:
    """Collect the words of every string in nested tuples, lists, sets and dicts; `{slots}` are left out."""
    if isinstance(constants, str):
        return set(WORD.findall(re.sub(r"\{[^}]*\}", " ", constants)))
    if isinstance(constants, dict):
        return words_of(list(constants.keys())) | words_of(list(constants.values()))
    if isinstance(constants, tuple | list | set | frozenset):
        return set().union(*(words_of(part) for part in constants)) if constants else set()
    return set()


def fillers() -> frozenset[str]:
    """The sentences that say nothing in answer to anything, in lower case."""
    return frozenset(line.lower() for line in (*LEAD_INS, *AFTERTHOUGHTS, *RUDE_LEAD_INS, *RAMBLES))
