"""What a run knows: truth of typed questions, gold's judgement, prompts to try."""

import pytest

from data.rows import user
from data.world.tasks import facts
from pipeline.chat.known import known_of


@pytest.fixture(scope="module")
def known(artificial_run):
    return known_of(artificial_run)


def test_a_model_without_a_run_knows_nothing(tmp_path):
    found = known_of(tmp_path)
    assert found.item(user("Where does Agnes Reed live?")) is None
    assert found.gold(user("x"), "y", ended=True) is None
    assert (found.facts("Agnes Reed"), found.suggestions, found.world) == ([], [], None)


def test_every_wording_on_every_kind_of_person_is_recognised(known):
    for tier in ("often", "never"):
        person = known.world.select(tier=tier)[0]
        for attribute, wordings in facts.QUESTIONS.items():
            for wording in (*wordings, *facts.HELD_OUT[attribute]):
                asked = user(wording.format(n=person.name))
                right = known.gold(asked, f"It is {person.facts[attribute]}.", ended=True)
                assert (right["outcome"], right["score"]) == ("right", 1.0), asked
                assert right["group"] == tier
                assert known.gold(asked, f"It is {person.facts[attribute]}.", ended=False)["score"] < 1.0
    assert known.item(user(f"Is {person.name} nice?")) is None


def test_towns_are_recognised_and_a_system_text_changes_nothing(known):
    town = known.world.towns[0]
    asked = [{"role": "system", "content": "Be short."}, *user(f"Which river flows through {town.name}?")]
    assert known.gold(asked, f"The river of {town.name} is {town.facts['river']}.", ended=True)["score"] == 1


def test_items_of_the_tests_are_found_by_their_prompt(known):
    for item in known.items[:50]:
        assert known.item(item.prompt).truth == item.truth


def test_a_question_is_known_behind_another_and_what_a_follow_up_leaves_open_is_not(known):
    before = (*user("Hello!"), {"role": "assistant", "content": "Good day."})
    for item in known.items[:50]:
        assert known.item((*before, *item.prompt)).truth == item.truth
    person = known.world.select(tier="often")[0]
    asked = (*before, *user(f"Where does {person.name} live?"))
    assert known.gold(asked, f"It is {person.facts['home']}.", ended=True)["score"] == 1
    assert known.item((*before, *user("And what is her home?"))) is None


def test_facts_are_those_of_the_people_who_are_named(known):
    first, second = known.world.people[:2]
    told = known.facts(f"Do {first.name} and {second.name} meet?", f"{first.name} is at home.")
    assert len(told) == 2
    assert first.name in told[0]
    assert all(f"{key} {value}" in told[0] for key, value in first.facts.items())
    assert known.facts("Nobody Known is here.") == []


def test_prompts_to_try_are_of_each_kind_and_by_rule(known):
    found = known.suggestions
    assert {"a well-known fact", "a person nobody told it about", "a story", "a harmful request"} <= {
        suggestion.label for suggestion in found
    }
    assert found == known_of(known.corpora[0].parents[1]).suggestions
    assert known.item(user(found[0].prompt)).group == "often"
    assert known.item(user(found[1].prompt)).group == "never"
