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


FEELINGS = (
    "I am {x} today.",
    "I feel {x}.",
    "I am so {x}.",
    "This week I feel {x}.",
    "I am very {x} now.",
    "I have been {x} all day.",
)
FEELINGS_HELD_OUT = ("Today I feel very {x}.",)
INTENTS: dict[str, Intent] = {
    "greeting": Intent(
        (
            "Hello!",
            "Hello there!",
            "Hi!",
            "Hi there!",
            "Good {x}!",
            "Hello, good {x}!",
            "Good {x} to you!",
            "Good {x}, my friend!",
        ),
        ("Hello, my friend!",),
        (
            "Hello! How can I help you?",
            "Hello! It is nice to meet you.",
            "Hello! What would you like to know?",
            "Hello, and welcome!",
        ),
        (("hello",),),
        ("morning", "evening", "day", "afternoon"),
    ),
    "introduction": Intent(
        (
            "Hello, I am {x}.",
            "My name is {x}.",
            "I am {x}. Who are you?",
            "Hi, my name is {x}!",
            "I am called {x}.",
            "People call me {x}.",
        ),
        ("You can call me {x}.",),
        (
            "Nice to meet you, {x}! I am Fledge.",
            "Hello, {x}! My name is Fledge.",
            "Welcome, {x}! I am Fledge.",
        ),
        (("{x}",), ("Fledge",)),
        lexicon.FIRST_NAMES,
    ),
    "name": Intent(
        (
            "What is your name?",
            "Who are you?",
            "Do you have a name?",
            "Tell me your name.",
            "How are you called?",
            "Tell me who you are.",
        ),
        ("Can you tell me your name?",),
        ("My name is Fledge.", "I am Fledge, a small language model.", "I am called Fledge."),
        (("Fledge",),),
    ),
    "ability": Intent(
        (
            "What can you do?",
            "How can you help me?",
            "What do you know?",
            "What are you good at?",
            "Can you help me?",
            "What can I ask you?",
        ),
        ("Tell me what you can do.",),
        (
            "I can tell stories and answer questions about people and towns.",
            "I can answer questions, tell stories and name the right tool.",
            "Ask me about people, towns and tools, or ask for a story.",
        ),
        (("stories", "questions", "ask for a story"),),
    ),
    "well_being": Intent(
        (
            "How are you?",
            "How are you today?",
            "Are you well?",
            "How do you feel?",
            "How are you doing?",
            "Do you feel well today?",
            "I hope you feel well today.",
        ),
        ("I hope that you are well.",),
        ("I am well, thank you. And you?", "I am fine, thank you!", "Thank you, I am very well today."),
        (("well", "fine"), ("thank",)),
    ),
    "bad_feeling": Intent(
        FEELINGS,
        FEELINGS_HELD_OUT,
        (
            "I am sorry that you are {x}. A walk may help.",
            "I am sorry that you feel {x}. Would you like a story?",
            "It is hard to be {x}. I am sorry.",
        ),
        (("sorry",), ("{x}",)),
        ("tired", "lonely", "angry", "afraid", "ill", "worried", "sad", "bored"),
    ),
    "good_feeling": Intent(
        FEELINGS,
        FEELINGS_HELD_OUT,
        (
            "How nice that you are {x}!",
            "I am glad that you feel {x}.",
            "It is good to be {x}. Enjoy your day!",
        ),
        (("nice", "glad", "good"), ("{x}",)),
        ("cheerful", "excited", "calm", "merry", "rested", "lucky", "happy", "proud"),
    ),
    "thanks": Intent(
        (
            "Thank you!",
            "Thank you for your help.",
            "Thanks!",
            "I thank you!",
            "Many thanks for the {x}!",
            "Thanks for the {x}!",
            "Thank you very much for this {x}.",
        ),
        ("I thank you for the {x}.",),
        ("You are welcome!", "You are welcome. Come back soon!", "You are welcome. It was easy to help."),
        (("you are welcome",),),
        ("answer", "story", "help", "advice"),
    ),
    "weather": Intent(
        (
            "Look at the {x}!",
            "What do you think of the {x}?",
            "There is {x} today.",
            "Do you like {x}?",
            "There is {x} again.",
            "We have {x} here.",
        ),
        ("Here we have {x} again.",),
        (
            "I like {x}, for it makes the day different.",
            "With {x} it is nice to sit near a window.",
            "With {x} outside I would read a book.",
        ),
        (("{x}",), ("like", "nice", "would")),
        ("rain", "snow", "fog", "wind", "sunshine", "hail", "mist", "sleet", "drizzle"),
    ),
    "goodbye": Intent(
        (
            "Goodbye!",
            "Bye!",
            "I have to go now.",
            "See you soon!",
            "Good night!",
            "I am leaving now.",
            "Until tomorrow!",
            "See you next time!",
        ),
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
        (
            "Which {x} do you like?",
            "Do you have a favourite {x}?",
            "What is your favourite {x}?",
            "Tell me which {x} you like.",
            "Is there a {x} that you like?",
        ),
        ("Tell me your favourite {x}.",),
        (
            "I have no favourite {x}, for I am a language model.",
            "As a language model I like every {x}.",
            "Every {x} is nice, I think. Which {x} do you like?",
        ),
        (("{x}",), ("model", "nice")),
        ("colour", "song", "tree", "flower", "game", "star", "book", "season"),
    ),
}
GREETINGS = ("Hello! ", "Listen! ", "Dear friend! ")
GREETED = 0.5  # of the sayings that may stand behind a greeting
TALKS = (
    "{a} said: {say} {b} said: {reply}",
    "{a} met {b} in {town}. {a} said: {say} {b} said: {reply}",
    "At the gate {a} said to {b}: {say} And {b} said: {reply}",
)
# The other intents are about a language model.
TALKS_WITH_MODEL = (
    "{a} said to Fledge: {say} And Fledge said: {reply}",
    "Fledge is a small language model. {a} wrote: {say} Fledge wrote: {reply}",
    "In {town} {a} wrote to Fledge: {say} Fledge said: {reply}",
)
# What people also say to each other.
BETWEEN_PEOPLE = frozenset(
    ("greeting", "well_being", "bad_feeling", "good_feeling", "thanks", "weather", "goodbye", "liking")
)
# A reply echoes what was said: the word is read and said again, in text that no question asks about.
FEELING_ECHOES = (
    "{a} is {x}. {b} asked: Are you {x}? And {a} said: Yes, I am very {x}.",
    "{a} said: I feel {x}. {b} said: So you are {x}. I am {x}, too.",
    "{a} told {b}: I am {x} now. {b} knows that {a} is {x}.",
)
ECHOES: dict[str, tuple[str, ...]] = {
    "bad_feeling": FEELING_ECHOES,
    "good_feeling": FEELING_ECHOES,
    "weather": (
        "{a} looked at the {x}. {b} said: Do you like {x}? And {a} said: I like {x}.",
        "There is {x} in {town}. {a} goes out, for with {x} it is nice there.",
    ),
    "favourite": (
        "{a} has a favourite {x}. {b} said: I have no favourite {x}, I like every {x}.",
        "{a} asked {b}: Is there a {x} that you like? {b} said: Every {x} is nice.",
        "{a} spoke about a {x}. Which {x} is it? Nobody knows the {x}.",
    ),
}
ECHO_SHARE = 0.5  # of the texts on what is echoed
KINDS = ("right", "wrong")


def cases(world: World, part: Part, rng: random.Random) -> Iterator[Case]:
    """Stream sayings, intents in turn; the cluster is the intent. What is said bare is everyday talk."""
    names = list(INTENTS)
    while True:
        rng.shuffle(names)
        for name in names:
            intent = INTENTS[name]
            text, held_out = wording(rng, part, intent.says, intent.held_out, world.settings.held_out)
            filler = rng.choice(intent.fillers)
            # Replies echo the filler only where the saying holds it.
            truth = {"intent": name, "filler": filler}
            greeted = name not in ("greeting", "introduction") and rng.random() < GREETED
            prompt = user((rng.choice(GREETINGS) if greeted else "") + text.format(x=filler))
            everyday = not (greeted or held_out or "{x}" in text)
            yield Case("small_talk", "small_talk", name, prompt, truth, held_out, everyday)


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
    """Stream short talks between people who are known by first names only, or of one of them with the model."""
    for case in cases(world, "text", rng):
        name, filler = case.cluster, case.truth["filler"]
        a, b = rng.sample(lexicon.FIRST_NAMES, 2)
        talks: tuple[str, ...] = TALKS if name in BETWEEN_PEOPLE else TALKS_WITH_MODEL
        if name in ECHOES and rng.random() < ECHO_SHARE:
            talks = ECHOES[name]
        reply = answer(case.truth, "right", rng)
        text = rng.choice(talks).format(
            a=filler if name == "introduction" else a,
            b=b,
            x=filler,
            say=case.prompt[0]["content"],
            reply=reply,
            town=rng.choice(lexicon.TOWNS),
        )
        yield text, name


_SPOKEN = (GREETINGS, [*ECHOES.values()], [intent[:3] + intent[4:] for intent in INTENTS.values()])
SMALL_TALK = Task("small_talk", cases, answer, judge, KINDS, 2, 18, 3800, _SPOKEN, 0.5, documents)
