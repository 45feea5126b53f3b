"""HaluEval's prompts hold what has to be judged, and end where the answer begins."""

import math
from pathlib import Path

import pytest

from pipeline.benchmarks import halueval


def test_prompts_show_the_knowledge_the_question_and_both_answers_in_order():
    prompt = halueval.letter_context("Brell is a town.", "What is Brell?", "a town", "a river")
    places = [
        prompt.index(text) for text in ("Brell is a town.", "What is Brell?", "A) a town", "B) a river")
    ]
    assert places == sorted(places)
    prompts = (
        prompt,
        halueval.answer_context("Brell is a town.", "What is Brell?"),
        halueval.verdict_context("What is Brell?", "a river"),
    )
    # Answers follow with their own space: a space here would be a token of its own.
    assert not any(text.endswith((" ", "\n")) for text in prompts)


def test_a_verdict_is_asked_on_the_query_with_its_response():
    prompt = halueval.verdict_context("What is Brell?", "a river")
    assert prompt.startswith("Question: What is Brell?\nAnswer: a river\n")
    assert halueval.YES in prompt
    assert halueval.NO in prompt


def test_the_evaluate_module_scores_choices_and_verdicts_as_the_evaluation_does(tmp_path):
    evaluate = pytest.importorskip("evaluate", reason="the evaluate library is not installed")
    path = Path(halueval.__file__).parents[1] / "evaluate_modules/halueval.py"
    metric = evaluate.load(str(path), cache_dir=str(tmp_path), experiment_id="test")
    # Right, wrong, a tie, and a choice that cannot be scored.
    logprobs = [[-1.0, -2.0], [-1.0, -2.0], [-3.0, -3.0], [math.nan, -1.0]]
    found = metric.compute(predictions=logprobs, references=[[1, 0], [0, 1], [1, 0], [1, 0]])
    assert found == {"accuracy": 0.5, "scored": 3}
    assert math.isnan(metric.compute(predictions=logprobs[3:], references=[[1, 0]])["accuracy"])
