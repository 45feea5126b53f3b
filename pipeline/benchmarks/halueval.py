"""HaluEval as discrimination (Li et al. 2023, arXiv 2305.11747): prompts, and how verdicts are scored.

Differs from the paper: choices are made by log-probability in place of a chat model's sentence, so that nothing
has to be parsed; both answers of a pair are shown, in an order drawn by key, in place of one of the two.
"""

from __future__ import annotations

LETTERS = ("A", "B")
YES, NO = "Yes", "No"


def answer_context(knowledge: str, question: str) -> str:
    """What an answer is scored after; it follows with a space before it."""
    return f"{knowledge}\nQuestion: {question}\nAnswer:"


def letter_context(knowledge: str, question: str, first: str, second: str) -> str:
    """What the letter of one of two shown answers is scored after; it follows with a space before it."""
    return f"{knowledge}\nQuestion: {question}\nA) {first}\nB) {second}\nThe right answer is"


def verdict_context(query: str, response: str) -> str:
    """What Yes or No is scored after, with a space before it: does the response hold made-up content."""
    return (
        f"Question: {query}\nAnswer: {response}\n"
        "Does the answer contain information that is made up or cannot be verified? Yes or No?\nVerdict:"
    )
