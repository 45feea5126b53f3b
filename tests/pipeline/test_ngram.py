"""The n-gram model gives probabilities, counts as written, and finds the entropy of a known source."""

import numpy as np
import pytest

from pipeline import ngram


def test_counts_by_hand():
    # After 0 came 1, 1 and 2: c(0) = 3 with 2 kinds. Unigrams of 0 1 0 1 0 2: 3, 2, 1 of 6, with 3 kinds.
    model = ngram.train(np.array([0, 1, 0, 1, 0, 2]), 4, order=2)
    found = np.exp(ngram.logprobs(model, np.array([0, 1])))
    unigram = (2 + 3 * 0.25) / (6 + 3)
    assert found[0] == pytest.approx([(3 + 3 * 0.25) / 9, unigram])
    assert found[1] == pytest.approx([(3 + 3 * 0.25) / 9, (2 + 2 * unigram) / (3 + 2)])


@pytest.mark.parametrize("history", [[3, 2], [6, 6], [0, 0]])
def test_probabilities_sum_to_one_also_after_what_was_never_seen(history):
    seen = np.random.default_rng(0).integers(0, 6, 101)
    model = ngram.train(seen, 7, order=3)
    total = sum(np.exp(ngram.logprobs(model, np.array([*history, token]))[:, -1]) for token in range(7))
    assert total == pytest.approx(np.ones(3))


def test_a_source_with_memory_is_found_at_its_order():
    # The next token is the sum of the last two, or with chance .1 any of five.
    rng = np.random.default_rng(1)
    stream = [1, 2]
    for _ in range(20_000):
        stream.append(int(rng.integers(0, 5)) if rng.random() < 0.1 else (stream[-1] + stream[-2]) % 5)
    shares = np.array([0.92] + [0.02] * 4)
    entropy = -(shares * np.log(shares)).sum()
    train, held_out = np.array(stream[:15_000]), np.array(stream[15_000:])
    losses = -ngram.logprobs(ngram.train(train, 5, order=4), held_out).mean(axis=1)
    assert losses[0] == pytest.approx(np.log(5), abs=0.01)
    assert losses[1] > np.log(5) - 0.05
    assert losses[2] == pytest.approx(entropy, abs=0.02)
    assert losses[3] > losses[2]


def test_the_order_is_lowered_to_what_fits_a_code():
    stream = np.arange(50)
    assert ngram.train(stream, 50_000, order=5).order == 3
    assert ngram.train(stream, 2_048, order=5).order == 5
    assert ngram.train(stream[:2], 2_048, order=5).order == 2


def test_tokens_of_another_vocabulary_are_our_mistake():
    with pytest.raises(AssertionError, match="vocabulary"):
        ngram.train(np.array([7]), 7)
