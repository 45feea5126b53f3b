"""Rewards in settings: weights, settings of their own, files of the user's, and what is refused before work."""

import pytest
from pydantic import ValidationError

from data.errors import InputError
from data.rows import Item, user
from pipeline.stages import ppo, rloo
from reward.functions import Term, load_function, own_files, term_of

OWN = """
from data.settings import Settings
class Config(Settings):
    word: str = "tea"
def load(config, context):
    return lambda items, texts, ended: [float(config.word in text) for text in texts]
"""
ITEMS = [Item("a", user("?"))] * 2


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def test_a_number_is_a_weight_and_a_mapping_has_settings_too(own):
    terms = {"length": {"weight": 0.5, "settings": {"per_characters": 10}}, str(own): 2}
    config = ppo.Config(rewards=terms)
    assert term_of(config.rewards["length"]) == Term(weight=0.5, settings={"per_characters": 10})
    assert term_of(config.rewards[str(own)]).weight == 2
    again = rloo.Config(rewards=config.model_dump()["rewards"])  # a resolved recipe loads again
    assert again.rewards == config.rewards


def test_a_file_of_the_users_own_scores_and_is_part_of_the_key(own):
    score = load_function(str(own), settings={"word": "milk"})
    assert score(ITEMS, ["tea and milk", "tea"], [True, True]).tolist() == [1, 0]
    assert own_files({"learned": 1.0, str(own): 1.0}) == [own]
    assert ppo.files(ppo.Config(rewards={str(own): 1.0}), None) == [own]


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"lenght": 1.0}, "did you mean `length`"),
        ({"length": {"settings": {"per_character": 1}}}, "per_character"),
        ({"nowhere.py": 1.0}, "nowhere.py: no such file"),
        ({"length": {"wieght": 1}}, "wieght"),
        ({}, "at least 1"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_any_work(terms, told):
    with pytest.raises(ValidationError, match=told):
        ppo.Config(rewards=terms)


def test_a_file_without_load_and_scores_of_another_shape_are_named(tmp_path):
    bare, wrong = tmp_path / "bare.py", tmp_path / "wrong.py"
    bare.write_text("x = 1")
    wrong.write_text("def load(config, context):\n    return lambda items, texts, ended: [[1.0], [2.0]]\n")
    with pytest.raises(InputError, match="no function load"):
        load_function(str(bare))
    with pytest.raises(InputError, match=r"shape \(2, 1\) for 2 items"):
        load_function(str(wrong))(ITEMS, ["a", "b"], [True, True])
