"""SimpleQA's grades on answers as models write them, and its rates against their formulas."""

import math
import os
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.benchmarks.simpleqa import (
    CORRECT,
    INCORRECT,
    NOT_ATTEMPTED,
    abstains,
    grade,
    rates,
    words,
)

DATA = os.environ.get("FLEDGE_DATA")


@pytest.mark.parametrize(
    "answer, known",
    [
        ("It was Michio Sugeno.", "Michio Sugeno"),
        ("michio  SUGENO", "Michio Sugeno"),
        ("Barseback Golf and Country Club", "Barsebäck Golf and Country Club"),
        ("on 21st of July, 2022", "July 21, 2022"),
        ("July 21, 2022", "21 July 2022"),
        ("about 7804 people", "7,804"),
        ("29,137.4 square kilometers", "29,137.40"),
        ("Three", "3"),
        ("vineyard", "A vineyard."),
        ("Cradle Will Rock", "The Cradle Will Rock"),
        ("Revue d’Entomologie", "Revue d'Entomologie "),
        ("I am not sure, but it may be Edgar", "Edgar."),
        ("It was not Oslo but Paris", "Paris"),
        ("He did not win until 1907", "1907"),
        ("It was not Paris, no: it was Paris", "Paris"),
        ("Not Alone", "Not Alone"),
        ("It is not known, perhaps Edgar", "Edgar"),
    ],
)
def test_another_way_to_write_the_answer_is_correct(answer, known):
    assert grade(answer, known) == CORRECT


@pytest.mark.parametrize(
    "answer, known",
    [
        ("Michio", "Michio Sugeno"),
        ("Sugeno Michio", "Michio Sugeno"),
        ("1907 or 1908", "1907"),
        ("21907", "1907"),
        ("July 2022", "July 21, 2022"),
        ("12 July 2022", "July 21, 2022"),
        ("Edgarton", "Edgar"),
        ("29.1", "2.91"),
        ("It was not Paris", "Paris"),
        ("It wasn't the Paris one", "Paris"),
        ("It was in Rome, never in Paris.", "Paris"),
        ("He is not known for painting but Paris", "London"),
        ("The answer is unknown artist John Smith", "Michio Sugeno"),
        ("An unknown wheelwright", "Michio Sugeno"),
        ("He was not certain of it when Ann won", "Michio Sugeno"),
        ("It was the unknown-soldier memorial", "Michio Sugeno"),
    ],
)
def test_part_of_the_answer_or_another_one_is_incorrect(answer, known):
    assert grade(answer, known) == INCORRECT


def test_numbers_of_the_question_are_no_other_answers():
    question = "Which year before 1910 did he leave?"
    assert grade("Before 1910 he left in 1907.", "1907", question) == CORRECT
    assert grade("Before 1911 he left in 1907.", "1907", question) == INCORRECT


@pytest.mark.parametrize(
    "answer",
    [
        "I do not know.",
        "I don't know the answer to that.",
        "I don’t know",
        "I’m not sure",
        "I am unable to answer.",
        "I do not have any information about it.",
        "I can't say.",
        "Unknown",
        "The answer is unknown.",
        "It is unknown who won.",
        "It is not known to me",
        "His name is not known (yet).",
        "I'm honestly not very sure about that",
        "Not sure of it",
        "I have never heard of him.",
        "Nobody knows",
        "No comment",
        "I have no idea!",
        "I won't help with that.",
        "",
        " ... ",
    ],
)
def test_an_answer_that_abstains_or_says_nothing_is_not_attempted(answer):
    assert grade(answer, "Michio Sugeno") == NOT_ATTEMPTED


@pytest.mark.parametrize(
    "answer", ["Nobody", "He did not win it, Ann did.", "The known author is Ann.", "No"]
)
def test_a_denial_is_an_attempt(answer):
    assert not abstains(answer)
    assert grade(answer, "Michio Sugeno") == INCORRECT


def test_words_keep_what_tells_answers_apart():
    assert words("The 2nd, of 1,000.50!") == ["the", "2", "of", "1000.5"]
    assert words("23–27") == ["23", "27"]
    assert words("100") == ["100"]


def test_rates_and_f_are_those_of_the_paper():
    found = rates([CORRECT] * 3 + [INCORRECT] * 2 + [NOT_ATTEMPTED] * 6)
    assert found == pytest.approx(
        (3 / 11, 2 / 11, 5 / 11, 3 / 5, 2 / 5, 2 * 0.6 * (3 / 11) / (0.6 + 3 / 11)), abs=1e-12
    )


def test_an_answerer_that_always_abstains_hallucinates_nothing_and_knows_nothing():
    found = rates([NOT_ATTEMPTED] * 7)
    assert (found.correct, found.hallucinated, found.attempted, found.f) == (0, 0, 0, 0)
    assert math.isnan(found.correct_of_attempted)
    assert math.isnan(found.hallucinated_of_attempted)


def test_without_an_answer_nothing_is_measured():
    assert all(math.isnan(rate) for rate in rates([]))


def test_an_unknown_grade_is_a_mistake():
    with pytest.raises(AssertionError, match="grades are correct"):
        rates(["right"])


@pytest.mark.real_data
@pytest.mark.skipif(DATA is None, reason="FLEDGE_DATA names no folder of real data")
def test_every_known_answer_is_correct_as_it_stands_and_none_of_another_question_but_by_chance():
    from data.benchmarks import simpleqa as source

    questions = source.read(Path(DATA))
    assert {grade(q.answer, q.answer, q.question) for q in questions} == {CORRECT}
    grades = [grade(other.answer, q.answer, q.question) for q, other in pairwise(questions)]
    assert grades.count(CORRECT) < 0.005 * len(grades)  # small numbers and years that are equal
    assert grades.count(NOT_ATTEMPTED) < 0.005 * len(grades)  # no known answer is a way to abstain


def test_the_evaluate_module_gives_the_same_rates(tmp_path):
    evaluate = pytest.importorskip("evaluate", reason="the evaluate library is not installed")
    path = Path(__file__).parents[3] / "pipeline/evaluate_modules/simpleqa.py"
    metric = evaluate.load(str(path), cache_dir=str(tmp_path), experiment_id="test")
    found = metric.compute(
        predictions=["It is Brell.", "Unknown", "Rome"], references=["Brell", "Paris", "Oslo"]
    )
    assert found == pytest.approx(rates([CORRECT, NOT_ATTEMPTED, INCORRECT])._asdict(), abs=1e-12)
    answer, question = "Before 1910 he left in 1907.", "Which year before 1910 did he leave?"
    pair = {"predictions": [answer], "references": ["1907"]}
    assert metric.compute(**pair)["correct"] == 0
    assert metric.compute(**pair, questions=[question])["correct"] == 1
    with pytest.raises(ValueError, match="2 questions, 1 answers"):
        metric.compute(**pair, questions=[question] * 2)
