"""HaluEval's prompts hold what has to be judged, and end where the answer begins."""

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
