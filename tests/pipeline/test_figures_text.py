"""What `fledge evaluate` prints: read at the width of a terminal, names and numbers stay whole."""

import io

import pytest
from rich.console import Console

from pipeline.figures_text import print_figures
from pipeline.records import Comparison, Figure, to_json

LONG = "judge/reward_model/length_controlled/sft_over_base"
NULLS = {"answer_to_another_question": 0.008, "guess_a_value": 0.042, "untrained": 0.005}


def printed(width, figures, comparisons=(), unscored=()):
    results = {
        "figures": [to_json(row) for row in figures],
        "comparisons": [to_json(row) for row in comparisons],
        "unscored": list(unscored),
    }
    out = io.StringIO()
    print_figures("a run", results, Console(file=out, width=width))
    return out.getvalue().splitlines()


def figure(name, stage, value, nulls=NULLS, unit="share", n=385):
    return Figure(name, stage, value, value - 0.05, value + 0.05, n, 40, unit, nulls)


def both(name, **settings):
    return [figure(name, "base", 0.95, **settings), figure(name, "sft", 0.9, **settings)]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["kl", "facts/never/hallucinated/unseen_wording", LONG])
def test_a_long_name_stays_whole_and_no_line_is_wider_than_the_terminal(width, name):
    lines = printed(width, both(name))
    assert max(map(len, lines)) <= width
    (head,) = [line for line in lines if line.startswith(name)]
    assert head.split()[0] == name
    assert [line.split() for line in lines if line.startswith("  sft")] == [
        ["sft", "0.900", "0.850", "to", "0.950", "385"]
    ]


def test_the_nulls_of_all_stages_stand_once_and_those_of_one_beside_it():
    own = NULLS | {"answer_to_another_question": 0.019}
    lines = printed(100, [figure("kl", "base", 0.5), figure("kl", "sft", 0.4, own)])
    assert lines[2:] == [
        "kl  share; guess a value 0.042, untrained 0.005",
        "  base   0.500  0.450 to 0.550  385  answer to another question 0.008",
        "  sft    0.400  0.350 to 0.450  385  answer to another question 0.019",
    ]


def test_numbers_stand_below_each_other_over_all_figures():
    rows = [figure("one", "base", -1234.5, {}), figure("two", "a longer name", 0.5, {}, n=7)]
    head, *lines = [line for line in printed(120, rows) if line.startswith("  ")]
    ends = [line.index(n) + len(n) for line, n in zip(lines, ("385", "7"), strict=True)]
    assert ends == [head.index(" n ") + 2] * 2


def test_a_name_of_a_null_keeps_its_value_at_the_end_of_a_line():
    for width in range(50, 90):
        assert not [line for line in printed(width, both("kl")) if line.strip().startswith("0.0")]


def test_a_name_longer_than_the_terminal_takes_a_line_of_its_own_below_which_the_nulls_stand():
    stage = "x" * 50
    lines = printed(80, [figure("kl", stage, 0.5, {"a": 1.0}), figure("kl", "sft", 0.5, {"a": 2.0})])
    assert lines[-4].split() == [stage, "0.500", "0.450", "to", "0.550", "385"]
    assert lines[-3] == " " * 4 + "a 1.000"


def test_a_figure_without_an_interval_and_one_with_unscored_items():
    row = Figure("quiz", "base", 0.5, float("nan"), float("nan"), 23, 5, "share")
    lines = printed(80, [row], unscored=[{"name": "quiz", "stage": "base", "num": 4}])
    assert lines[2:] == ["quiz  share", "  base   0.500         – to –  23 + 4 unscored"]


def test_a_change_that_was_found_is_told_without_ending_a_line_within_a_name():
    row = Comparison(
        f"{LONG}/more", "base", "sft", -0.5, -0.6, -0.4, 9, 9, 1, 0.01, 0.01, 0, 5, 0.1, 0.1, "regressed"
    )
    other = Comparison("kl", "base", "sft", 0, -1, 1, 9, 9, 1, 0.9, 0.9, 0, 0, 1.0, 0.1, "no evidence")
    lines = printed(80, both("kl"), [row, other])
    assert " ".join(" ".join(lines[-2:]).split()) == (
        f"regressed: {LONG}/more, base to sft: -0.500 (-0.600 to -0.400)"
    )
    assert lines[-1].startswith("    ")
