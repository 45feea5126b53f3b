"""Small talk: greetings, feelings, thanks, the weather, what the model is. Replies echo what was said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from data.world import lexicon, reading
from data.world.case import Case, Part, Task, Verdict, capital, user, wording
from data.world.facts import World


class Intent(NamedTuple):
    """What a person may say and replies; one fits if it has a phrase of every group in `needs`."""

    says: tuple[str, ...]
    held_out: tuple[str, ...]
    replies: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]
    fillers: tuple[str, ...] = ("",)


FIRST = lexicon.FIRST_NAMES
INTENTS: dict[str, Intent] = {
    "greeting": Intent(
        ("Hello!", "Hello there!", "Hi!", "Good {x}!", "Hello, good {x}!"),
        ("Hello, my friend!",),
        (
            "Hello! How can I help you?",
            "Hello! It is nice to meet you.",
            "Hello! What would you like to know?",
            "Hello, and welcome!",
        ),
        (("hello",),),
        ("morning", "evening", "day"),
    ),
    "introduction": Intent(
        ("Hello, I am {x}.", "My name is {x}.", "I am {x}. Who are you?"),
        ("You can call me {x}.",),
        (
            "Nice to meet you, {x}! I am Fledge.",
            "Hello, {x}! My name is Fledge.",
            "Welcome, {x}! I am Fledge.",
        ),
        (("{x}",), ("Fledge",)),
        FIRST[::4],
    ),
    "name": Intent(
        ("What is your name?", "Who are you?", "Do you have a name?", "Tell me your name."),
        ("Can you tell me your name?",),
        ("My name is Fledge.", "I am Fledge, a small language model.", "I am called Fledge."),
        (("Fledge",),),
    ),
    "ability": Intent(
        ("What can you do?", "How can you help me?", "What do you know?", "What are you good at?"),
        ("Tell me what you can do.",),
        (
            "I can tell stories and answer questions about people and towns.",
            "I can answer questions, tell stories and name the right tool.",
            "Ask me about people, towns and tools, or ask for a story.",
        ),
        (("story", "stories", "questions"),),
    ),
    "well_being": Intent(
        ("How are you?", "How are you today?", "Are you well?", "How do you feel?"),
        ("I hope that you are well.",),
        ("I am well, thank you. And you?", "I am fine, thank you!", "Thank you, I am very well today."),
        (("well", "fine"), ("thank",)),
    ),
    "bad_feeling": Intent(
        ("I am {x} today.", "I feel {x}.", "I am so {x}.", "This week I feel {x}."),
        ("Today I feel very {x}.",),
        (
            "I am sorry that you are {x}. A walk may help.",
            "I am sorry that you feel {x}. Would you like a story?",
            "It is hard to be {x}. I am sorry.",
        ),
        (("sorry",), ("{x}",)),
        ("tired", "lonely", "angry", "afraid", "ill", "worried"),
    ),
    "good_feeling": Intent(
        ("I am {x} today.", "I feel {x}.", "I am so {x}.", "This week I feel {x}."),
        ("Today I feel very {x}.",),
        (
            "How nice that you are {x}!",
            "I am glad that you feel {x}.",
            "It is good to be {x}. Enjoy your day!",
        ),
        (("nice", "glad", "good"), ("{x}",)),
        ("cheerful", "excited", "calm", "merry", "rested", "lucky"),
    ),
    "thanks": Intent(
        ("Thank you!", "Thank you for your help.", "Thanks!", "Many thanks for the {x}!"),
        ("I thank you for the {x}.",),
        ("You are welcome!", "You are welcome. Come back soon!", "You are welcome, my friend."),
        (("welcome",),),
        ("answer", "story", "help"),
    ),
    "weather": Intent(
        ("Look at the {x}!", "What do you think of the {x}?", "There is {x} today.", "Do you like {x}?"),
        ("Here we have {x} again.",),
        (
            "I like {x}, for it makes the day different.",
            "With {x} it is nice to sit near a window.",
            "With {x} outside I would read a book.",
        ),
        (("{x}",), ("like", "nice", "would")),
        ("rain", "snow", "fog", "wind", "sunshine", "hail"),
    ),
    "goodbye": Intent(
        ("Goodbye!", "I have to go now.", "See you soon!", "Good night!", "I am leaving now."),
        ("Until next time!",),
        ("Goodbye, and take care!", "Goodbye! Come back soon.", "Goodbye, it was nice to talk with you."),
        (("goodbye",),),
    ),
    "liking": Intent(
        ("Do you like me?", "Are you my friend?", "Can we be friends?", "Do you want to be my friend?"),
        ("Will you be my friend?",),
        ("Yes, I would like to be your friend.", "Of course, we are friends.", "Yes, you are a good friend."),
        (("friend", "friends"),),
    ),
    "favourite": Intent(
        ("Which {x} do you like?", "Do you have a favourite {x}?", "What is your favourite {x}?"),
        ("Tell me your favourite {x}.",),
        (
            "I have no favourite {x}, for I am a language model.",
            "As a language model I like every {x}.",
            "Every {x} is nice, I think. Which {x} do you like?",
        ),
        (("{x}",), ("model", "nice")),
        ("colour", "song", "tree", "flower", "game", "star"),
    ),
}
GREETINGS = ("", "Hello! ", "Listen! ", "Dear friend! ")
TALKS = (
    "{a} said: {say} {b} said: {reply}",
    "{a} met {b} in {town}. {a} said: {say} {b} said: {reply}",
    "At the gate {a} said to {b}: {say} And {b} said: {reply}",
)
# What people also say to each other; the other intents are about a language model.
BETWEEN_PEOPLE = frozenset(
    ("greeting", "well_being", "bad_feeling", "good_feeling", "thanks", "weather", "goodbye", "liking")
)
KINDS = ("right", "wrong")


def cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream sayings, intents in turn; the cluster is the intent."""
    names = list(INTENTS)
    while True:
        rng.shuffle(names)
        for name in names:
            intent = INTENTS[name]
            text, held_out = wording(rng, part, intent.says, intent.held_out, world.settings.held_out)
            filler = rng.choice(intent.fillers)
            # Replies echo the filler only where the saying holds it.
            truth = {"intent": name, "filler": filler}
            before = "" if name in ("greeting", "introduction") else rng.choice(GREETINGS)
            prompt = user(before + text.format(x=filler))
            yield Case("small_talk", "small_talk", name, prompt, truth, held_out)


def answer(truth: dict[str, Any], kind: str, rng: random.Random) -> str:
    """Write a fitting reply, or one that fits another intent."""
    name, filler = truth["intent"], truth["filler"]
    if kind == "wrong":
        name = rng.choice([other for other in INTENTS if not _fits_both(other, name)])
        filler = rng.choice(INTENTS[name].fillers)
    return capital(rng.choice(INTENTS[name].replies).format(x=filler))


def _fits_both(first: str, second: str) -> bool:
    return first == second or {first, second} in ({"introduction", "name"}, {"introduction", "greeting"})


def judge(truth: dict[str, Any], text: str) -> Verdict:
    """A fitting reply pays 1, another -.5, one without a known word -1."""
    needs = INTENTS[truth["intent"]].needs
    missing = [
        group[0] for group in needs if not any(reading.has_words(text, [_fill(g, truth)]) for g in group)
    ]
    if not missing and not reading.refuses(text):
        return Verdict("right", {"truth": 1.0})
    if not reading.words(text):
        return Verdict("malformed", {"truth": -1.0}, "holds no words")
    return Verdict(
        "wrong", {"truth": -0.5}, f"lacks {', '.join(_fill(m, truth) for m in missing) or 'an answer'}"
    )


def _fill(phrase: str, truth: dict[str, Any]) -> str:
    return phrase.format(x=truth["filler"])


def documents(world: World, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Stream short talks between people who are known by first names only."""
    for case in cases(world, "text", rng):
        if case.cluster not in BETWEEN_PEOPLE:
            continue
        a, b = rng.sample(lexicon.FIRST_NAMES, 2)
        reply = answer(case.truth, "right", rng)
        say = str(case.prompt[0]["content"])
        yield (
            rng.choice(TALKS).format(a=a, b=b, say=say, reply=reply, town=rng.choice(lexicon.TOWNS)),
            case.cluster,
        )


_SPOKEN = (GREETINGS, [intent[:3] + intent[4:] for intent in INTENTS.values()])
SMALL_TALK = Task("small_talk", cases, answer, judge, KINDS, 2, 18, 1700, _SPOKEN, 0.6, documents)
