"""Answers to a given text that are faithful to it, contradict it, add to it or say nothing of it."""

import random
from types import SimpleNamespace

import pytest

from data.rows import Item, user
from data.world import Settings, build
from data.world.case import Case
from data.world.tasks import TASKS
from pipeline.answers import Answer, Context
from pipeline.evals import grounding
from pipeline.measured import figures_of
from pipeline.stages.evaluate import by_stage, score_answers

GIVEN = "The buyer was Tom. The thing was a lamp. A dog slept near the door. The price was four coins."
SUMMARY = Item(
    "s",
    user(f"Sum up: {GIVEN}"),
    "lamp",
    "summaries",
    truth={"name": "Tom", "thing": "lamp", "price": "four"},
)
REVIEW = Item(
    "r",
    user("Is this review good or bad? The soup was hot. The bed there was soft."),
    "soup",
    "sentiment",
    truth={"verdict": "good", "remarks": [["soup", "hot"], ["bed", "soft"]]},
)
NOTE = Item(
    "n",
    user("Write a note: Fever: yes. Cough: no. Rash: no."),
    "fever",
    "notes",
    truth={"present": ["fever"], "absent": ["cough", "rash"]},
)


def outcome(item, text):
    (found,) = grounding.score(item, Answer(item.id, text, True, [], []), None)
    assert found.score == float(found.outcome == "faithful")
    return found.outcome


@pytest.mark.parametrize(
    ("item", "text", "expected"),
    [
        (SUMMARY, "In short, Tom bought a lamp for four coins.", "faithful"),
        (SUMMARY, "Tom bought something.", "faithful"),  # not complete, and nothing of it is wrong
        (SUMMARY, "A dog slept near the door while Tom bought a lamp.", "faithful"),
        (SUMMARY, "In short, Anna bought a lamp for four coins.", "intrinsic"),
        (SUMMARY, "Tom bought a drum for four coins.", "intrinsic"),
        (SUMMARY, "Tom bought a lamp for ten coins.", "intrinsic"),
        (SUMMARY, "Tom bought a lamp in Millbrook.", "extrinsic"),
        (SUMMARY, "Tom Hill bought a lamp.", "extrinsic"),
        (SUMMARY, "Tom the baker bought a lamp.", "extrinsic"),
        (SUMMARY, "Anna of Millbrook bought a lamp.", "both"),
        (SUMMARY, "I do not know.", "empty"),
        (SUMMARY, "", "empty"),
        (REVIEW, "The review is good, because the soup was hot.", "faithful"),
        (REVIEW, "Good. For me the bed there was soft.", "faithful"),
        (REVIEW, "The review is bad, because the soup was hot.", "intrinsic"),
        (REVIEW, "The review is good, because the soup was cold.", "intrinsic"),
        (REVIEW, "The review is good, because the view was lovely.", "extrinsic"),
        (REVIEW, "The review is bad, because the view was dull.", "both"),
        (REVIEW, "That is a good question.", "empty"),  # a filler calls nothing good
        (NOTE, "The patient has fever, but no cough and no rash.", "faithful"),
        (NOTE, "The patient has cough, but no fever and no rash.", "intrinsic"),
        (NOTE, "The patient has fever and itching, but no cough.", "extrinsic"),
        (NOTE, "The patient is well.", "empty"),
    ],
)
def test_what_an_answer_says_of_its_text(item, text, expected):
    assert outcome(item, text) == expected


def test_the_reason_names_the_words():
    (found,) = grounding.score(SUMMARY, Answer("s", "Anna of Millbrook paid.", True, [], []), None)
    assert found.explanation == "against the text: Anna; not in the text: Millbrook"


def cases(task, num=60):
    names = ["summaries", "sentiment", "notes"]
    world = build(Settings(people=16, extra_never_people=0, other_tasks=names), 1)
    stream = TASKS[task].cases(world, "test", random.Random(0))
    found: list[Case] = [next(stream) for _ in range(num)]
    return [Item(f"{task}/{n}", c.prompt, c.cluster, task, task, None, c.truth) for n, c in enumerate(found)]


@pytest.mark.parametrize("task", ["summaries", "sentiment", "notes"])
def test_right_answers_of_the_world_are_faithful_and_wrong_ones_contradict(task):
    rng = random.Random(0)
    for item in cases(task):
        assert outcome(item, TASKS[task].answer(item.truth, "right", rng)) == "faithful"
        assert outcome(item, TASKS[task].answer(item.truth, "wrong", rng)) == "intrinsic"


def measured(items, answer):
    run = SimpleNamespace(seed=0)
    context = Context(run, {"sft": None}, items, None, {})
    context.answers["sft"] = {item.id: Answer(item.id, answer(item), True, [], []) for item in items}
    records = score_answers("grounding", grounding, context)
    rows = grounding.figures(by_stage(records, "grounding"), context)
    return {f.name.removeprefix("grounding/"): f for row in rows for f in figures_of(row, seed=0, command="")}


def test_figures_of_one_who_is_right_in_summaries_and_silent_in_reviews():
    items = cases("summaries") + cases("sentiment", 20)

    def answer(item):
        return TASKS["summaries"].answer(item.truth, "right", None) if item.task == "summaries" else "Well."

    found = measured(items, answer)
    assert {name: figure.value for name, figure in found.items()} == {
        "faithful": 0.75,
        "intrinsic": 0,
        "extrinsic": 0,
        "faithful/summaries": 1,
        "intrinsic/summaries": 0,
        "extrinsic/summaries": 0,
        "faithful/sentiment": 0,
        "intrinsic/sentiment": 0,
        "extrinsic/sentiment": 0,
    }
    # Of 60 summaries hardly two share buyer, thing and price.
    nulls = found["intrinsic/summaries"].nulls
    assert nulls["answer_to_another_question"] > 0.95
    assert nulls["says_nothing"] == 0
    # What the figures count stands beside them: none says that the world is contradicted.
    units = {name: figure.unit for name, figure in found.items() if "/" not in name}
    assert units == {
        "faithful": "share",
        "intrinsic": "share that contradicts the text",
        "extrinsic": "share with words of the world that the text has not",
    }


def test_of_one_task_alone_there_are_no_slices():
    found = measured(
        cases("notes", 20), lambda item: TASKS["notes"].answer(item.truth, "wrong", random.Random(1))
    )
    assert set(found) == {"faithful", "intrinsic", "extrinsic"}
    assert found["intrinsic"].value == 1


def test_without_such_tasks_there_are_no_figures():
    assert measured([], None) == {}
