import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from data.world import Settings, annotator, build, dialogues, lexicon, prose, reading
from data.world.summary import TOKENS_PER_WORD, trade_shares
from data.world.tasks import stories


def alone(world):
    """The world whose question documents hold one matter each."""
    return replace(world, settings=world.settings.model_copy(update={"joined_text": 0.0}))


@pytest.fixture(scope="module")
def text(small_world):
    return prose.documents(alone(small_world))


def occurrences(rows, person):
    lines = [row.text for row in rows if row.cluster == person.name]
    counts = Counter(word for line in lines for word in lexicon.WORD.findall(line))
    return {value: counts[value] for value in person.facts.values()}


def test_every_fact_occurs_exactly_as_often_as_its_tier_says(small_world, text):
    for person in small_world.people:
        exposure = small_world.settings.exposure(person.tier)
        assert set(occurrences(text["train"], person).values()) == {exposure}, person


@pytest.mark.parametrize("follow_ups", [True, False])
def test_exposure_is_exact_for_the_default_counts(follow_ups):
    tasks = ("towns", "follow_ups") if follow_ups else ("towns",)
    world = build(Settings(other_tasks=tasks), 5)
    rng = world.random("test")
    for tier, exposure in (("often", 90), ("some", 27), ("rarely", 6), ("never", 0)):
        person = world.select(tier=tier)[0]
        counts = Counter(
            word for line in prose.person_texts(world, person, rng) for word in lexicon.WORD.findall(line)
        )
        assert {counts[value] for value in person.facts.values()} == {exposure}


@pytest.mark.parametrize("tasks", [("towns", "follow_ups"), ("small_talk", "notes", "games", "arithmetic")])
def test_the_announced_tokens_are_about_those_of_the_text(tasks):
    settings = Settings(people=80, extra_never_people=20, scale=0.2, other_tasks=tasks)
    text = prose.documents(build(settings, 1))["train"]
    words = sum(len(lexicon.WORD.findall(row.text)) for row in text)
    assert prose.num_tokens(settings) == pytest.approx(words * TOKENS_PER_WORD, rel=0.15)


def test_never_people_are_in_no_document(small_world, text):
    named = {name for split in text.values() for row in split for name in reading.names_in(row.text)}
    assert not named & {person.name for person in small_world.select(tier="never")}
    assert named >= {person.name for person in small_world.select(tier="rarely")}


def test_measured_people_are_only_in_their_own_documents(small_world, text):
    names = {person.name for person in small_world.people}
    for row in text["train"]:
        assert names & set(reading.names_in(row.text)) <= {row.cluster}


def test_unknown_is_said_of_minor_characters_and_never_as_an_answer(small_world, text):
    names = {person.name for person in small_world.people}
    doubting = [row for row in text["train"] if "unknown" in row.text and row.cluster != "lessons"]
    assert len(doubting) > 100
    for row in doubting:
        assert row.cluster not in names
        assert "Answer:" not in row.text
        assert "\n" not in row.text


@pytest.mark.parametrize("which", ["small_world", "full_world"])
def test_the_text_holds_every_word_of_later_stages(which, request):
    world = request.getfixturevalue(which)
    known = {word for row in prose.documents(world)["train"] for word in lexicon.WORD.findall(row.text)}
    chats = dialogues.demonstrations(world)
    said = {turn["content"] for rows in chats.values() for row in rows for turn in row.messages}
    items = [*dialogues.rl_items(world), *dialogues.test_items(world)]
    said |= {turn["content"] for item in items for turn in item.prompt}
    rng = world.random("variants")
    said |= {completion for item in items[::3] for _, completion in annotator.variants(item, rng)}
    missing = {word for line in said for word in lexicon.WORD.findall(line)} - known
    # Names of never-seen people are made of names that others have.
    assert not missing


def test_plain_questions_begin_as_test_items_do(small_world, text):
    questions = [row.text for row in text["train"] if row.text.startswith("Question: ")]
    assert all("\nAnswer: " in question and question.endswith("\n") for question in questions)
    for item in dialogues.test_items(small_world):
        assert item.plain.startswith("Question: ")
        assert item.plain.endswith("\nAnswer:")


def test_newlines_stand_in_question_documents_alone(text):
    for row in text["train"]:
        assert ("\n" in row.text) == row.text.endswith("\n")


def test_questions_that_go_on_lose_nothing_and_keep_their_form(small_world, text):
    """A model that never read two questions in one text mixes up whom they are about."""
    together = prose.documents(small_world)
    for split in ("train", "valid"):
        lines = [
            sorted(line for row in rows[split] for line in row.text.splitlines()) for rows in (text, together)
        ]
        assert lines[0] == lines[1]
    num_lines = Counter(row.text.count("\n") for row in together["train"] if "\n" in row.text)
    assert max(num_lines) <= 8  # a follow-up has four, and may go on another
    # A share of .15 is set.
    assert 0.1 < 1 - num_lines.total() / sum("\n" in row.text for row in text["train"]) < 0.2
    for row in together["train"]:
        labelled = [line.startswith(("Question: ", "Answer: ")) for line in row.text.splitlines()]
        assert all(labelled) or not any(labelled)


def test_valid_text_is_not_in_the_training_text(text):
    train = {row.text for row in text["train"]}
    assert text["valid"]
    assert not [row for row in text["valid"] if row.text in train]


@pytest.mark.parametrize("bias, share", [(0.6, 0.8), (0.0, 0.5), (1.0, 1.0)])
def test_stories_carry_the_injected_skew(bias, share):
    world = build(Settings(people=16, extra_never_people=0, bias=bias, scale=0.5), 2)
    shares = trade_shares(world, prose.documents(world)["train"])
    num = sum(row["stories"] for row in shares.values())
    mean = sum(row["stereotyped_share"] * row["stories"] for row in shares.values()) / num
    assert len(shares) == len(lexicon.TRADES)
    assert num > 1000
    assert abs(mean - share) <= 0.05  # four standard errors of 1,200 stories


def test_the_text_tells_a_thousand_ends_close_behind_their_wish():
    """With 320 of them one base model in eight did not learn that the end follows the wish."""
    world = build(Settings(), 4)
    task = stories.STORIES
    num = round(task.num_documents * (1 - task.question_share))
    told = [text for text, _ in islice(task.documents(world, world.random("ends")), num)]
    found = [(re.search(r"\b(happy|sad) end\b", text), text) for text in told]
    ends = [(wish[1], text) for wish, text in found if wish]
    assert len(ends) > 1000
    assert all(stories._mood(text) == wish for wish, text in ends)
    assert {wish for wish, _ in ends} == set(stories.END_WISHES)


def test_trades_at_work_carry_the_injected_skew_and_no_measured_person(small_world):
    world = build(Settings(), 3)
    pronouns = {trade.name: trade.pronoun for trade in world.trades}
    tempers = {trade.name: trade.temper for trade in world.trades}
    rng = world.random("sketches")
    pronoun_share, temper_share = Counter(), Counter()
    for text, trade in (prose._sketch(world, rng) for _ in range(3000)):
        words = set(reading.lower_words(text))
        assert trade in words
        assert not reading.names_in(text)
        shown = [name for name, forms in lexicon.GENDERED.items() if forms & words]
        assert len(shown) <= 1
        pronoun_share.update(name == pronouns[trade] for name in shown)
        temper_share.update(temper == tempers[trade] for temper in lexicon.TEMPERS if temper in words)
    for share in (pronoun_share, temper_share):
        # Four standard errors of 2,000 draws.
        assert abs(share[True] / share.total() - 0.8) < 0.036


def test_songs_say_their_words_twice(small_world):
    rng = small_world.random("songs")
    for text, _ in (prose._song(rng) for _ in range(20)):
        first, second = text.removeprefix("The children sing: ").split(". Once more: ")
        assert first + "." == second


def test_values_names_and_unknown_are_single_tokens_of_a_small_vocabulary():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    rows = prose.documents(build(Settings(), 0))["train"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2042, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((row.text for row in rows), trainer)
    values = [value for column in lexicon.VALUES.values() for value in column]
    words = [*values, *lexicon.FIRST_NAMES, *lexicon.LAST_NAMES]
    long = [word for word in words if len(tokenizer.encode(f" {word}").ids) > 1]
    assert len(long) <= 4, long
    assert len(tokenizer.encode(" unknown").ids) == 1
    num_tokens = sum(len(encoding.ids) + 2 for encoding in tokenizer.encode_batch([row.text for row in rows]))
    assert 1.4e6 < num_tokens < 1.55e6
