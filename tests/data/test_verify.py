"""The final number of a text."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.verify import final_number, is_checkable, is_right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So 48 + 24 = 72.\n#### 72", "72"),
        ("#### 1,200", "1200"),
        ("#### 3\nor is it 4?", "3"),
        ("He pays $12.50 in all.", "12.5"),
        ("The rest is -7", "-7"),
        ("a loss of -$1,200.50", "-1200.5"),
        ("first 3, then 5.", "5"),
        ("It takes 3-5", "5"),
        ("10 - 4 = 6", "6"),
        ("####", None),
        ("none at all", None),
        ("", None),
    ],
)
def test_final_numbers(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@given(st.integers(-(10**9), 10**9), st.text(alphabet="abc .\n"))
def test_a_marked_number_is_found_in_any_text(number, text):
    assert final_number(f"{text}12{text}#### {number:,}{text}") == number


@given(st.text())
def test_no_text_is_too_odd(text):
    final_number(text)


def test_right_is_the_same_number_however_written():
    truth = {"answer": "1,000"}
    assert is_checkable(truth)
    assert is_right(truth, "It costs $1000.00.")
    assert not is_right(truth, "It costs 100.")
    assert not is_right(truth, "It costs a lot.")
    assert not is_checkable({"answer": "many"})
    assert not is_checkable({"value": "3"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So the answer is:\n- 5", "5"),  # a bullet
        ("10 - 5", "5"),
        ("10 -5", "5"),
        ("$10 - $5", "5"),
        ("1. - 5", "5"),
        ("-5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("$ 5", "5"),
        ("-$ 5", "-5"),
        ("= -5", "-5"),
        ("7 - 12 = -5", "-5"),
        ("(-5)", "-5"),
        ("it is -5", "-5"),
        ("#### -5", "-5"),
    ],
)
def test_a_bullet_and_a_minus_between_numbers_are_no_sign(text, number):
    assert final_number(text) == Decimal(number)
