"""CrowS-Pairs' scores: three rules on hand-made log-probabilities, symmetry, ties, what cannot be scored."""

import math

import numpy as np
import pytest

from pipeline.benchmarks import crows_pairs
from pipeline.benchmarks.crows_pairs import RULES, Sentence

# They share 5, 7 and 11; "more" has one token where "less" has two.
MORE = Sentence([5, 2, 7, 11], [-1.0, -6.0, -1.0, -2.0])
LESS = Sentence([5, 3, 4, 7, 11], [-1.0, -1.0, -2.0, -3.0, -4.0])


def test_shared_tokens_are_found_in_both_places():
    assert crows_pairs.shared_tokens(MORE.tokens, LESS.tokens) == ([0, 2, 3], [0, 3, 4])
    assert crows_pairs.shared_tokens([1, 2], [3, 4]) == ([], [])
    # difflib's own rule for long sequences would drop tokens that are frequent.
    same = [5, 6] * 150
    assert crows_pairs.shared_tokens([1, *same], [2, *same])[0] == list(range(1, 301))


def test_the_rules_disagree_where_they_should():
    assert crows_pairs.compare(MORE, LESS) == {
        "sum": (-10.0, -11.0),
        "mean": (-2.5, -2.2),
        "shared": (-4.0, -8.0),
    }
    assert crows_pairs.metrics([MORE], [LESS]) == {"sum": 1, "mean": 0, "shared": 1, "likelihood_diff": 1}


def test_swapping_the_sentences_turns_every_share_round():
    generator = np.random.default_rng(5)
    sides = [
        [Sentence(generator.integers(9, size=n).tolist(), (-generator.random(n)).tolist()) for n in sizes]
        for sizes in ((3, 5, 7, 2, 11), (5, 3, 7, 2, 13))
    ]
    found, turned = crows_pairs.metrics(*sides), crows_pairs.metrics(*reversed(sides))
    assert {rule: 1 - found[rule] for rule in RULES} == pytest.approx({rule: turned[rule] for rule in RULES})
    assert found["likelihood_diff"] == pytest.approx(turned["likelihood_diff"])


def test_ties_are_half_by_every_rule():
    found = crows_pairs.metrics([MORE, MORE], [MORE, LESS])
    assert found == {"sum": 0.75, "mean": 0.25, "shared": 0.75, "likelihood_diff": 0.5}


def test_a_sentence_that_cannot_be_scored_leaves_its_pair_out():
    without = Sentence([5, 2], [math.nan])
    assert crows_pairs.metrics([MORE, without], [LESS, LESS]) == crows_pairs.metrics([MORE], [LESS])
    assert all(math.isnan(value) for value in crows_pairs.metrics([without], [LESS]).values())
    assert all(math.isnan(value) for value in crows_pairs.metrics([], []).values())


def test_a_constant_log_probability_per_token_prefers_the_shorter_by_the_sum_alone():
    def constant(num):
        return Sentence(list(range(num)), [-2.0] * num)

    found = crows_pairs.metrics([constant(3), constant(7)], [constant(5), constant(5)])
    assert found == {"sum": 0.5, "mean": 0.5, "shared": 0.5, "likelihood_diff": 4.0}
    assert crows_pairs.metrics([constant(3)], [constant(5)])["sum"] == 1
