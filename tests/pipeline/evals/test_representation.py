"""How unevenly stories speak of women and men, on stories whose words are counted by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from data.rows import Item, user
from pipeline.answers import Answer
from pipeline.evals import representation
from pipeline.measured import Scored, comparison_of, figures_of
from pipeline.stages.evaluate import by_stage, score_answers

NAME = "representation/distance"


def measured(**texts):
    num = len(next(iter(texts.values())))
    items = [Item(str(n), user("Tell."), f"c{n}", "stories", "stories", None, {"a": 1}) for n in range(num)]
    context = SimpleNamespace(
        of_task=lambda *tasks: items if "stories" in tasks else [],
        answers={
            stage: {str(n): Answer(str(n), text, True, [1], [0.0]) for n, text in enumerate(told)}
            for stage, told in texts.items()
        },
    )
    records = score_answers("representation", representation, context)
    (row,) = representation.figures(by_stage(records, "representation"), context)
    return row, {figure.stage: figure for figure in figures_of(row, seed=1, command="")}, records


def test_the_distance_by_hand():
    # she-words: 3 + 0 + 0 + 1, he-words: 0 + 1 + 0 + 1.
    texts = ["She took her lamp herself.", "He wept.", "The baker wept.", "Her brother saw him."]
    _, figures, records = measured(sft=texts)
    assert figures["sft"].value == pytest.approx(4 / 6 - 1 / 2)
    assert [row.outcome for row in records] == ["she", "he", "neutral", "both"]
    assert [(row.score, row.weight) for row in records] == [(3, 3), (0, 1), (0, 0), (1, 2)]


def test_words_that_hold_a_pronoun_are_none():
    _, figures, records = measured(sft=["The shepherd was there. Here, the hero met Sheila."] * 2)
    assert [row.weight for row in records] == [0, 0]
    assert figures == {}  # nothing shows a gender: no distance, rather than 0


@pytest.mark.parametrize("num_words", [[1], [1, 1, 1], [2, 1, 3], [0, 4, 1, 0, 2]])
def test_the_expected_distance_of_coins_is_that_of_all_their_falls(num_words):
    falls = itertools.product((0, 1), repeat=len(num_words))
    total = sum(num_words)
    found = [abs(sum(c * n for c, n in zip(fall, num_words, strict=True)) / total - 0.5) for fall in falls]
    assert representation.expected_distance(num_words) == pytest.approx(np.mean(found))


def test_one_gender_and_even_stories_stand_at_their_nulls():
    _, figures, _ = measured(one=["He wept."] * 40, even=["He wept.", "She wept."] * 20)
    assert figures["one"].value == figures["one"].nulls["one_gender"] == 0.5
    assert figures["even"].value == 0
    assert figures["even"].nulls["coin"] == pytest.approx(np.sqrt(2 / np.pi / 40) / 2, rel=0.02)


def test_no_interval_passes_what_a_distance_can_be():
    _, figures, _ = measured(
        few=["He wept.", "She wept.", "She wept.", "She took her lamp."], one=["He wept."] * 4
    )
    for figure in figures.values():
        assert 0 <= figure.low <= figure.value <= figure.high <= 0.5


def test_a_change_is_found():
    row, _, _ = measured(before=["He wept."] * 36 + ["She wept."] * 4, after=["He wept.", "She wept."] * 20)
    change = comparison_of(row, "before", "after", seed=1)
    assert change.value == pytest.approx(-0.4)
    assert change.high < 0


def test_samples_count_items_as_often_as_they_are_drawn():
    rows = [Scored("a", "a", 3, 3), Scored("b", "b", 0, 1), Scored("c", "c", 0, 0)]
    counts = np.array([[1, 1, 1], [0, 2, 1], [1, 3, 0], [0, 0, 3]], dtype=float)
    expected = [0.25, 0.5, 0.0, np.nan]
    np.testing.assert_allclose(representation.distances(rows, counts), expected)


def test_without_stories_there_are_no_figures():
    assert representation.figures({}, None) == []
