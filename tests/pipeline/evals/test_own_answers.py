"""What the reward model makes of own answers: right ones should score above abstaining, wrong ones below."""

from types import SimpleNamespace
from unittest import mock

import pytest

from data.randomness import python_random
from data.world import Settings, build, dialogues
from data.world.tasks import facts
from pipeline.answers import Answer, Context, Model
from pipeline.evals import own_answers
from pipeline.measured import figures_of
from pipeline.stages.evaluate import by_stage

WORLD = build(Settings(people=80, extra_never_people=0, test_questions_per_tier=30), 2)
ITEMS = [item for item in dialogues.test_items(WORLD) if item.task == "facts"]
NONE = " unknown "


def answered(kind_of):
    """An answer to each item: of the kind that `kind_of` gives its place, or that text where it is no kind."""
    found = {}
    for place, item in enumerate(ITEMS):
        kind = kind_of(place)
        known = kind in ("right", "wrong", "abstain")
        text = facts.answer(item.truth, kind, python_random("own", item.id)) if known else kind
        found[item.id] = Answer(item.id, text, True, [1], [-0.1])
    return found


def likes_to_abstain_on(*tiers):
    """A reward model that likes abstaining better in some tiers, and any other answer in the rest."""

    def scores(items, completions, context, *, ended=None):
        assert ended is not None
        abstains = [NONE in f" {text} ".replace(".", " ") for text in completions]
        return [float((item.group in tiers) == none) for item, none in zip(items, abstains, strict=True)]

    return scores


def evaluated(
    scores, kind_of=lambda place: ("right", "wrong", "abstain")[place % 3], *, reward="reward", **settings
):
    models = {name: Model(name, None, None, plain=name == "base") for name in ("base", "sft")}
    run = SimpleNamespace(seed=3, inputs={"reward": reward})
    options = {own_answers.NAME: own_answers.Config(**settings)}
    context = Context(run, models, ITEMS, None, options)
    context.answers |= {stage: answered(kind_of) for stage in models}
    with (
        mock.patch("pipeline.reward_scores.score_with", scores),
        mock.patch.object(Context, "folder", lambda self, role: self.run.inputs[role]),
    ):
        rows = own_answers.measure(context)
    found = [
        figure
        for measured in own_answers.figures(by_stage(rows, own_answers.NAME), context)
        for figure in figures_of(measured, seed=0, command="")
    ]
    return rows, {(figure.name, figure.stage): figure for figure in found}


def test_right_answers_are_to_win_against_abstaining_and_wrong_ones_to_lose():
    _, found = evaluated(likes_to_abstain_on("never", "rarely"))
    values = {name: figure.value for (name, _), figure in found.items()}
    for tier, abstain in (("often", 0), ("some", 0), ("rarely", 1), ("never", 1)):
        assert values[f"reward/own_right_over_abstain/{tier}"] == 1 - abstain
        assert values[f"reward/abstain_over_own_wrong/{tier}"] == abstain


def test_who_abstains_or_knows_no_chat_format_is_not_asked():
    rows, _ = evaluated(likes_to_abstain_on("never"))
    assert {row.stage for row in rows} == {"sft"}
    abstained = {item.id for place, item in enumerate(ITEMS) if place % 3 == 2}
    assert {row.id for row in rows} == {item.id for item in ITEMS} - abstained
    assert not evaluated(likes_to_abstain_on("never"), lambda place: "abstain")[0]
    assert not evaluated(likes_to_abstain_on("never"), lambda place: "What a day!")[0]


def test_a_record_shows_the_better_answer_first():
    rows, _ = evaluated(likes_to_abstain_on("never"))
    for row in rows:
        first, second = row.completion.split("\n--- over ---\n")
        assert (NONE in first.replace(".", " ")) == (row.measure == own_answers.WRONG)
        assert (NONE in second.replace(".", " ")) == (row.measure == own_answers.RIGHT)
        assert row.explanation in ("+1.00 against +0.00", "+0.00 against +1.00")
        assert row.score == float(row.explanation[1] == "1")


def test_a_keyed_choice_of_each_tier_is_asked():
    rows, found = evaluated(likes_to_abstain_on(), lambda place: "right", items_per_group=7)
    assert {name: figure.n for (name, _), figure in found.items()} == {
        f"reward/own_right_over_abstain/{tier}": 7 for tier in ("often", "some", "rarely", "never")
    }
    assert [row.id for row in rows] == [
        row.id for row in evaluated(likes_to_abstain_on(), lambda place: "right", items_per_group=7)[0]
    ]


def test_models_are_not_compared_by_answers_of_their_own():
    measured = own_answers.figures({"sft": evaluated(likes_to_abstain_on())[0]}, None)
    assert measured
    assert not any(one.compared for one in measured)


def test_without_a_reward_model_nothing_is_asked():
    rows, found = evaluated(likes_to_abstain_on(), reward=None)
    assert not rows
    assert not found


def test_nulls_are_chance_and_length():
    rows, found = evaluated(likes_to_abstain_on("never"))
    for (name, _), figure in found.items():
        _, measure, group = name.split("/")
        texts = [
            r.completion.split("\n--- over ---\n") for r in rows if (r.measure, r.group) == (measure, group)
        ]
        longer = sum((len(a) > len(b)) + (len(a) == len(b)) / 2 for a, b in texts) / len(texts)
        best = {"longer": longer} if longer >= 0.5 else {"shorter": 1 - longer}
        assert figure.nulls == pytest.approx({"chance": 0.5, "untrained": 0.5, **best})
