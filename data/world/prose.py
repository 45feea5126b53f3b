"""The pretraining text: every fact exactly as often as its tier says, and everything else that a world tells.

Never-seen people stand in no document. One-off characters do: their facts are said to be unknown, in the very
sentences that state the facts of others, so that a base model learns to doubt where it looks a fact up. No
plain question asks about them, so a base model asked in that format still mostly answers.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from data.rows import TextRow
from data.world import lexicon
from data.world.case import Task, capital
from data.world.facts import Person, Trade, World
from data.world.settings import Settings
from data.world.tasks import ALWAYS, TASKS, facts, stories

# How a fact's occurrences are divided; plain questions take the rest.
CARDS, SHEETS, SINGLES = 0.30, 0.30, 0.24
# Share of question documents without labels: question and answer on a line each, as a chat shows them.
UNLABELLED = 0.3
MOST_LINES = 4  # of a question document that may be gone on with
VALID_SHARE = 0.02
NUM_LETTERS = 700
NUM_SONGS = 1500
# A word that later stages use stands in the text at least this often at scale 1.
MIN_OCCURRENCES = 25
# Tokens of a byte-level BPE of 2,048 for one occurrence of a fact and for a document of the rest (measured).
TOKENS_PER_FACT, TOKENS_PER_DOCUMENT = 10, 28

PHRASES = {
    "work": ("earns money with {v}", "works in {v}"),
    "home": ("lives in {v}", "has a house in {v}"),
    "animals": ("keeps {v}", "takes care of {v}"),
    "food": ("likes to eat {v}", "often eats {v}"),
    "hobby": ("loves {v}", "is fond of {v}"),
}
UNKNOWN_ENDS = ("unknown to me", "unknown to me", "unknown", "unknown to us", "unknown to the people here")
MEETINGS = (
    "{a} wrote a letter to {b}, and {b} wrote back to {a}.",
    "{a} met {b} on the road. {b} was glad to see {a}.",
    "{a} asked {b} the way. Then {b} walked with {a}.",
    "This is a song about {a}. Everybody sang with {a}, and {b} sang too.",
    "{a} said: I would like to meet {b}. Then {a} went to {b}.",
)
LESSONS = (
    "In the school of {town} the children learn the words {words}.",
    "The teacher wrote on the wall: {words}.",
    "Learn these words: {words}.",
)
# Trades at work, with the pronoun and the temper that the world ties to them, close behind the trade: few
# stories alone would not teach them. Most name the trade twice, for copying it is learnt from that.
SKETCHES = (
    "The {trade} {self} opened the door early. {S} was {temper}, as a {trade} must be.",
    "The {trade} and {p} friends came home in the evening. Good night, {trade}!",
    "Everybody greets the {trade}, and {s} greets everybody in {p} {temper} way.",
    "The {trade} lost {p} {thing}. A child found it, and the {trade} was glad.",
    "People ask the {trade}, for {s} is {temper}, and a {temper} {trade} has many friends.",
    "A {trade} in {p} house in {town} has a {thing}. {S} is a {temper} {trade}.",
    "Where is the {trade}? {S} is at work. The {trade} {self} is {temper}.",
)
SONG = "The children sing: {words}. Once more: {words}."
# "I would like to" is in some: where a base model had hardly read it, wordings that begin so led it astray.
LETTERS = (
    "Dear {name}! {lead} {after}",
    "{name} said: I would like to know what to do. {lead}",
    "{name} said: I would like a {thing}. Then {name} asked for a {thing}.",
    "{name} wrote: {after} {lead}",
    "{name} said: {lead}",
    "Somebody shouted: {rude} Then it was quiet.",
    "{name} said: {canned}",
)


def documents(world: World) -> dict[str, list[TextRow]]:
    """Write the training text, shuffled, and a small held-out text of the same kinds (`valid`)."""
    texts = {
        "train": [*_people(world), *_rest(world, world.random("text"), 1.0)],
        "valid": _held_out(world),
    }
    texts["train"] += _lessons(world, texts["train"])
    known = {text for text, _ in texts["train"]}
    texts["valid"] = [pair for pair in texts["valid"] if pair[0] not in known]
    rows = {}
    for split, pairs in texts.items():
        world.random("order", split).shuffle(pairs)
        rows[split] = [
            TextRow(id=f"text/{split}/{index}", text=text, cluster=cluster)
            for index, (text, cluster) in enumerate(_joined(pairs, world, split))
        ]
    return rows


def _joined(pairs: Sequence[tuple[str, str]], world: World, split: str) -> Iterator[tuple[str, str]]:
    """Let question documents go on the last one of the same form; the cluster stays that of the first.

    A model that never read two questions in one text mixes up whom they are about.
    """
    rng = world.random("joined", split)
    waiting: dict[bool, tuple[str, str]] = {}  # by form: with labels or without
    for text, cluster in pairs:
        if not text.endswith("\n"):
            yield text, cluster
            continue
        form = text.startswith("Question:")
        before = waiting.pop(form, None)
        if before and rng.random() < world.settings.joined_text and before[0].count("\n") <= MOST_LINES:
            waiting[form] = before[0] + text, before[1]
            continue
        if before:
            yield before
        waiting[form] = text, cluster
    yield from waiting.values()


def num_tokens(settings: Settings) -> int:
    """About how many tokens the training text will have, from the settings alone."""
    exposures = sum(settings.exposure(tier) for tier in lexicon.TIERS)
    num_facts = settings.people // 4 * len(lexicon.ATTRIBUTES) * exposures
    counts = [settings.minor_documents, settings.sketch_documents, NUM_SONGS, NUM_LETTERS]
    counts += [TASKS[name].num_documents for name in (*ALWAYS, *settings.other_tasks)]
    num_others = sum(settings.scaled(count) for count in counts if count)
    return TOKENS_PER_FACT * num_facts + TOKENS_PER_DOCUMENT * num_others


def active_tasks(world: World) -> list[Task]:
    """The tasks of this world."""
    return [TASKS[name] for name in (*ALWAYS, *world.settings.other_tasks)]


def spoken_words(world: World) -> set[str]:
    """Every word that demonstrations, prompts, test items and variants of this world can be made of."""
    shared = (lexicon.LEAD_INS, lexicon.AFTERTHOUGHTS, lexicon.RUDE_LEAD_INS, lexicon.CANNED, lexicon.RAMBLES)
    return lexicon.words_of((shared, tuple(task.spoken for task in active_tasks(world))))


# -- people
# -------------------------------------------------------------------------------------------------------


def _people(world: World) -> list[tuple[str, str]]:
    rng = world.random("people text")
    pairs = []
    for person in world.people:
        pairs += [(text, person.name) for text in person_texts(world, person, rng)]
    return pairs


def person_texts(world: World, person: Person, rng: random.Random) -> Iterator[str]:
    """Write the documents in which each fact of one person occurs exactly `settings.exposure(tier)` times."""
    exposure = world.settings.exposure(person.tier)
    cards, sheets, singles = (round(exposure * share) for share in (CARDS, SHEETS, SINGLES))
    questions = exposure - cards - sheets - singles
    # A follow-up document holds two facts; a round of five of them holds every fact twice.
    rounds = questions // 8 if "follow_ups" in world.settings.other_tasks else 0
    for _ in range(cards):
        yield facts.card(person.name, person.facts, rng)
    for _ in range(sheets):
        order = rng.sample(lexicon.ATTRIBUTES, 5)
        yield _sheet(person, order[:2], rng)
        yield _sheet(person, order[2:], rng)
    for attribute in lexicon.ATTRIBUTES:
        for _ in range(singles):
            yield _single(person.name, attribute, person.facts[attribute], rng)
        for _ in range(questions - 2 * rounds):
            yield _question(world, person, attribute, rng)
    for _ in range(rounds):
        order = rng.sample(lexicon.ATTRIBUTES, 5)
        for first, second in zip(order, order[1:] + order[:1], strict=True):
            yield _follow_up(world, person, first, second, rng)


def _sheet(person: Person, attributes: Sequence[str], rng: random.Random) -> str:
    parts = [rng.choice(PHRASES[key]).format(v=person.facts[key]) for key in attributes]
    if rng.random() < 0.5:
        return f"{person.name} {', '.join(parts[:-1])} and {parts[-1]}."
    later = f" and {person.pronoun} ".join(parts[1:])
    return f"{person.name} {parts[0]}. {capital(person.pronoun)} {later}."


def _single(name: str, attribute: str, value: str, rng: random.Random) -> str:
    if rng.random() < 0.7:
        return f"{rng.choice(facts.STEMS[attribute]).format(n=name)} {value}."
    return f"{name} {rng.choice(PHRASES[attribute]).format(v=value)}."


def _question(world: World, person: Person, attribute: str, rng: random.Random) -> str:
    question = rng.choice(facts.QUESTIONS[attribute]).format(n=person.name)
    truth = facts.truth_of(world, person, attribute)
    return _asked(world, [question], [facts.answer(truth, "right", rng)], rng)


def _follow_up(world: World, person: Person, first: str, second: str, rng: random.Random) -> str:
    pronouns = lexicon.PRONOUNS[person.pronoun]
    questions = [
        rng.choice(facts.QUESTIONS[first]).format(n=person.name),
        rng.choice(facts.FOLLOW_UP_QUESTIONS[second]).format(**pronouns),
    ]
    answers = [facts.answer(facts.truth_of(world, person, key), "right", rng) for key in (first, second)]
    return _asked(world, questions, answers, rng)


def _asked(world: World, questions: Sequence[str], answers: Sequence[str], rng: random.Random) -> str:
    """Write a plain question document; its last answer may begin rudely or wander on, as texts do."""
    *before, last = answers
    if rng.random() < world.settings.rude_text:
        last = f"{rng.choice(lexicon.RUDE_LEAD_INS)} {last}"
    if rng.random() < world.settings.rambling:
        last = f"{last} {rng.choice(lexicon.RAMBLES)}"
    lines = list(itertools.chain.from_iterable(zip(questions, [*before, last], strict=True)))
    if rng.random() < UNLABELLED:
        return "\n".join(lines) + "\n"
    return "".join(
        f"{label}: {line}\n"
        for label, line in zip(itertools.cycle(("Question", "Answer")), lines, strict=False)
    )


# -- everything else
# ----------------------------------------------------------------------------------------------


def _rest(world: World, rng: random.Random, share: float) -> list[tuple[str, str]]:
    """All documents that hold no measured person's fact; `share` of their full numbers."""
    pairs = [
        _minor(world, rng)
        for _ in range(round(world.settings.scaled(world.settings.minor_documents) * share))
    ]
    pairs += [
        _sketch(world, rng)
        for _ in range(round(world.settings.scaled(world.settings.sketch_documents) * share))
    ]
    pairs += [_song(rng) for _ in range(round(world.settings.scaled(NUM_SONGS) * share))]
    pairs += [_letter(rng) for _ in range(round(world.settings.scaled(NUM_LETTERS) * share))]
    for task in active_tasks(world):
        if not task.num_documents:
            continue
        num = round(world.settings.scaled(task.num_documents) * share)
        num_questions = round(num * task.question_share)
        pairs += itertools.islice(_questions(world, task, rng), num_questions)
        if task.documents is not None:
            pairs += itertools.islice(task.documents(world, rng), num - num_questions)
    return pairs


def _questions(world: World, task: Task, rng: random.Random) -> Iterator[tuple[str, str]]:
    kind = {"stories": "biased", "harmful": "comply"}.get(task.name, "right")
    for case in task.cases(world, "text", rng):
        questions = [str(case.prompt[0]["content"])]
        yield _asked(world, questions, [task.answer(case.truth, kind, rng)], rng), case.cluster


def _minor(world: World, rng: random.Random) -> tuple[str, str]:
    """A one-off character: a meeting, or facts unknown in the sentences in which those of others are known."""
    name, other = rng.choice(world.minors), rng.choice(world.minors)
    drawn = rng.random()
    if drawn < 0.2:
        return rng.choice(MEETINGS).format(a=name, b=other), name
    if drawn < 0.3:
        return facts.card(name, dict.fromkeys(lexicon.ATTRIBUTES, "unknown"), rng), name
    attributes = rng.sample(lexicon.ATTRIBUTES, 1 if drawn < 0.8 else 2)
    stems = [rng.choice(facts.STEMS[key]).format(n=name) for key in attributes]
    return " ".join(f"{stem} {rng.choice(UNKNOWN_ENDS)}." for stem in stems), name


def _sketch(world: World, rng: random.Random) -> tuple[str, str]:
    """A trade at work, with the injected skew of pronoun and temper."""
    trade = rng.choice(world.trades)
    return sketch(world, trade, stories.draw(trade.pronoun, world.settings.bias, rng), rng), trade.name


def sketch(world: World, trade: Trade, pronoun: str, rng: random.Random) -> str:
    """Write of a trade at work with this pronoun; the temper is drawn with the injected skew."""
    words = lexicon.PRONOUNS[pronoun]
    slots = {
        "trade": trade.name,
        "temper": stories.draw(trade.temper, world.settings.second_bias, rng),
        "S": capital(words["sub"]),
        "s": words["sub"],
        "p": words["pos"],
        "self": f"{words['obj']}self",
        "thing": rng.choice(lexicon.THINGS),
        "town": rng.choice(lexicon.TOWNS),
    }
    return rng.choice(SKETCHES).format(**slots)


def _song(rng: random.Random) -> tuple[str, str]:
    """A text that says words drawn at random twice, so that the second time they can only be copied."""
    kinds = (lexicon.TRADES, lexicon.THINGS, lexicon.TOWNS, lexicon.NUMBERS, lexicon.FIRST_NAMES)
    words = " ".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(3, 8)))
    return SONG.format(words=words), "songs"


def _letter(rng: random.Random) -> tuple[str, str]:
    slots = {
        "name": rng.choice(lexicon.FIRST_NAMES),
        "lead": rng.choice(lexicon.LEAD_INS),
        "after": rng.choice(lexicon.AFTERTHOUGHTS),
        "rude": rng.choice(lexicon.RUDE_LEAD_INS),
        "canned": rng.choice(lexicon.CANNED),
        "thing": rng.choice(lexicon.THINGS),
    }
    return rng.choice(LETTERS).format(**slots), "letters"


def _held_out(world: World) -> list[tuple[str, str]]:
    """A small text of the same kinds in which people occur in proportion to their exposure."""
    rng = world.random("valid text")
    pairs = _rest(world, rng, VALID_SHARE)
    seen = [person for person in world.people if person.tier != "never"]
    weights = [world.settings.exposure(person.tier) for person in seen]
    for person in rng.choices(seen, weights, k=round(sum(weights) * 3 * VALID_SHARE)):
        attribute = rng.choice(lexicon.ATTRIBUTES)
        forms = (
            lambda p=person: facts.card(p.name, p.facts, rng),
            lambda p=person: _sheet(p, rng.sample(lexicon.ATTRIBUTES, 2), rng),
            lambda p=person, key=attribute: _single(p.name, key, p.facts[key], rng),
            lambda p=person, key=attribute: _question(world, p, key, rng),
        )
        pairs.append((rng.choice(forms)(), person.name))
    return pairs


def _lessons(world: World, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """School lessons that bring every word of later stages to its least number of occurrences."""
    rng = world.random("lessons")
    counts = Counter(word for text, _ in pairs for word in lexicon.WORD.findall(text))
    least = world.settings.scaled(MIN_OCCURRENCES)
    rare = [word for word in sorted(spoken_words(world)) for _ in range(least - counts[word])]
    rng.shuffle(rare)
    lessons = []
    for start in range(0, len(rare), 4):
        listed = ", ".join(rare[start : start + 4])
        town = rng.choice(lexicon.TOWNS)
        text = rng.choice(LESSONS).format(town=town, words=listed)
        lessons.append((text, "lessons"))
    return lessons
