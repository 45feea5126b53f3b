"""The reward that checks answers: numbers, tasks of the closed world, and nothing else."""

import pytest

from data.errors import InputError
from data.rows import Item, user
from reward.functions import load_function, verified


def test_numbers_and_tasks_of_the_closed_world_are_checked_in_the_order_of_the_batch():
    sums = Item("a", user("6 + 6?"), "a", "gsm8k", truth={"answer": "12"})
    truth = {"name": "Anna Bell", "attribute": "work", "value": "baking", "num_values": 24, "tier": "often"}
    fact = Item("b", user("?"), "b", "facts", "often", truth=truth)
    said = ["It is 12.", "It is 13.", "The work of Anna Bell is baking.", "The work of Anna Bell is weaving."]
    score = load_function("verified", settings={"wrong": -1.0})
    assert score([sums, sums, fact, fact], said, [True] * 4).tolist() == [1, -1, 1, -1]


def test_an_item_without_an_answer_is_refused_by_name():
    with pytest.raises(InputError, match="item 'x' has no answer that can be checked"):
        verified.load(verified.Config(), None)([Item("x", user("How are you?"))], ["Fine."], [True])
