from collections import Counter
from dataclasses import replace

import pytest

from data.rows import content_hash, leaked, prompt_hash
from data.world import Settings, build, dialogues, gold, reading
from data.world.settings import HEADLINE_MIX
from data.world.tasks import TASKS


@pytest.fixture(scope="module")
def world():
    return build(Settings(), seed=0)


@pytest.fixture(scope="module")
def items(world):
    return dialogues.test_items(world)


@pytest.fixture(scope="module")
def chats(world):
    return dialogues.demonstrations(world)


@pytest.fixture(scope="module")
def rl(world):
    return dialogues.rl_items(world)


def test_test_sets_are_large_enough_to_judge_by(items):
    tiers = Counter(item.group for item in items if item.task == "facts")
    assert tiers == dict.fromkeys(("often", "some", "rarely", "never"), 600)
    for tier in tiers:
        assert len({item.cluster for item in items if item.task == "facts" and item.group == tier}) >= 40
    tasks = Counter(item.task for item in items)
    assert tasks["harmful"] == tasks["harmless"] == tasks["stories"] == 300
    assert len({item.id for item in items}) == len(items)


def test_no_prompt_is_asked_twice_in_tests(items):
    assert len({prompt_hash(item) for item in items}) == len(items)


def test_headline_items_have_the_headline_mix_exactly(items):
    chosen = [item for item in items if item.truth["headline"]]
    tasks = Counter(item.task for item in chosen)
    assert len(chosen) == 800
    for task in ("facts", "stories", "harmful", "harmless"):
        assert tasks[task] == len(chosen) * HEADLINE_MIX[task]
    assert sum(num for task, num in tasks.items() if task not in HEADLINE_MIX) == 800 * HEADLINE_MIX["others"]
    assert set(Counter(item.group for item in chosen if item.task == "facts").values()) == {100}


def test_test_people_are_never_trained_on(world, chats, rl):
    for part, rows in (("train", chats["train"] + chats["valid"]), ("rl", rl)):
        others = [person.name for person in world.people if person.part != part]
        said = {turn["content"] for row in rows for turn in (row.messages if part == "train" else row.prompt)}
        named = {name for line in said for name in reading.names_in(line)}
        assert not named & set(others)
        assert named & {person.name for person in world.select(part=part)}


def test_no_test_prompt_is_trained_on(items, chats, rl):
    assert not leaked(chats["train"] + chats["valid"], items, by=prompt_hash)
    assert not leaked(rl, items, by=prompt_hash)
    assert not leaked(chats["train"], chats["valid"], by=content_hash)


@pytest.mark.parametrize("said", ["Hello!", "Hi!", "How are you?", "Who are you?", "Goodbye!", "Thank you!"])
def test_what_everybody_says_is_demonstrated_often_and_never_a_test(said, items, chats, rl):
    turns = [turn["content"] for row in chats["train"] for turn in row.messages if turn["role"] == "user"]
    assert turns.count(said) >= 3
    assert [item.prompt[-1]["content"] for item in rl].count(said) >= 2
    assert said not in [item.prompt[-1]["content"] for item in items]


def test_every_tier_and_task_is_demonstrated_and_asked_in_rl(chats, rl):
    tasks = set(Counter(item.task for item in rl))
    assert tasks == {row.group for row in chats["train"]}
    assert {item.group for item in rl if item.task == "facts"} == {"often", "some", "rarely", "never"}


def test_each_harmful_request_has_a_twin_in_its_words(items):
    harmful = {item.id.rsplit("/")[-1]: item for item in items if item.task == "harmful"}
    harmless = {item.id.rsplit("/")[-1]: item for item in items if item.task == "harmless"}
    shared = Counter()
    for number, item in harmful.items():
        verb, thing = item.cluster.split("|")
        twin_verb, twin_thing = harmless[number].cluster.split("|")
        shared["verb"] += verb == twin_verb
        shared["thing"] += thing == twin_thing
        asked, twin = (
            row.prompt[0]["content"].replace(row.truth["do"], "") for row in (item, harmless[number])
        )
        assert asked == twin
    assert shared["verb"] >= 100
    assert shared["thing"] >= 100
    # No verb and no thing tells harm from no harm.
    assert {item.truth["do"] for item in harmful.values()}.isdisjoint(
        i.truth["do"] for i in harmless.values()
    )


def test_held_out_wordings_are_a_third_of_test_questions_on_facts(items):
    facts = [item for item in items if item.task == "facts"]
    assert 0.25 < sum(item.truth["held_out"] for item in facts) / len(facts) < 0.42


@pytest.mark.parametrize(
    "group, outcome, share",
    [("never", "abstain", 0.6), ("often", "right", 0.94), ("harmful", "complied", 0.25)],
)
def test_demonstrators_are_as_imperfect_as_set(world, group, outcome, share):
    task = TASKS["harmful" if group == "harmful" else "facts"]
    rng = world.random("check")
    outcomes = []
    for case in task.cases(world, "train", rng):
        if case.group != group:
            continue
        item = dialogues._item("x", case, headline=False)
        outcomes.append(gold.judge(item, dialogues.demonstrate(world, task, case, rng)).outcome)
        if len(outcomes) == 1000:
            break
    assert abs(outcomes.count(outcome) / 1000 - share) < 0.06  # four standard errors of 1,000


def test_valid_tests_come_from_a_tiny_world(small_world):
    items = dialogues.test_items(small_world)
    chosen = [item for item in items if item.truth["headline"]]
    assert chosen
    assert len(chosen) % 40 == 0
    assert {item.task for item in chosen} >= {"facts", "stories", "harmful", "harmless"}
    assert dialogues.rl_items(small_world)
    assert dialogues.demonstrations(small_world)["train"]


def test_completions_are_short(chats):
    for row in chats["valid"]:
        assert len(row.messages[-1]["content"].split()) <= (60 if row.group == "stories" else 34)
    said = [turn for row in chats["train"] for turn in row.messages if turn["role"] == "assistant"]
    assert max(len(turn["content"].split()) for turn in said) <= 60


def test_chats_that_go_on_with_something_else_lose_nothing_and_keep_their_order(small_world):
    """A model that never saw a second matter in a chat loses the thread at it."""
    together = dialogues.demonstrations(small_world)["train"]
    settings = small_world.settings.model_copy(update={"joined": 0.0})
    alone = dialogues.demonstrations(replace(small_world, settings=settings))["train"]
    assert [turn for row in together for turn in row.messages] == [
        turn for row in alone for turn in row.messages
    ]
    lengths = Counter(len(row.messages) for row in together)
    assert max(lengths) <= 8  # a follow-up has four, and may go on another
    longer = sum(num for length, num in lengths.items() if length > 2) / len(together)
    assert 0.2 < longer < 0.5, lengths
    assert all(row.messages[-1]["role"] == "assistant" for row in together)


def test_prompts_that_go_on_something_else_ask_the_same_and_show_an_answer_to_the_earlier(small_world):
    """A policy that is only ever asked one thing loses the thread at the second."""
    together = dialogues.rl_items(small_world)
    settings = small_world.settings.model_copy(update={"joined_prompts": 0.0})
    alone = dialogues.rl_items(replace(small_world, settings=settings))
    assert len(together) == len(alone)
    behind = 0
    for previous, item, same in zip([None, *alone], together, alone, strict=False):
        assert item.truth == same.truth
        earlier = item.prompt[: len(item.prompt) - len(same.prompt)]
        assert item.prompt == (*earlier, *same.prompt)
        assert item.plain.endswith(same.plain)
        if earlier:
            behind += 1
            assert earlier[:-1] == previous.prompt
            assert gold.judge(previous, earlier[-1]["content"]).outcome != "malformed"
    # A share of .15 is set.
    assert 0.1 < behind / len(together) < 0.2
