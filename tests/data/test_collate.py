"""Padding, packing and capping on shapes of different primes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chat import EncodedChat
from data.collate import cap_chats, pack, pad_chats, pad_left, pad_right


def test_padding_keeps_tokens_and_marks_them():
    rows = [[5, 6, 7], [], [8, 9, 10, 11, 12]]
    for pad in (pad_right, pad_left):
        tokens, mask = pad(rows, 3)
        assert tokens.shape == mask.shape == (3, 5)
        assert [tokens[r][mask[r]].tolist() for r in range(3)] == rows
        assert (tokens[~mask] == 3).all()
    assert pad_right(rows, 3).mask[0].tolist() == [True] * 3 + [False] * 2
    assert pad_left(rows, 3).mask[0].tolist() == [False] * 2 + [True] * 3
    assert pad_right([], 3).tokens.shape == (0, 0)


def test_chats_are_padded_with_what_the_assistant_says():
    tokens, mask, said = pad_chats([EncodedChat([1, 2], [False, True]), EncodedChat([3], [True])], 0)
    assert tokens.tolist() == [[1, 2], [3, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert said.tolist() == [[False, True], [True, False]]


@given(st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=11), st.integers(1, 13))
@settings(max_examples=100, deadline=None)
def test_packing_wastes_nothing(documents, length):
    stream = [token for document in documents for token in document]
    if not stream:
        with pytest.raises(ValueError, match="nothing to pack"):
            pack(documents, length)
        return
    rows = pack(documents, length)
    assert rows.shape == (-(-len(stream) // length), length)
    flat = rows.flatten().tolist()
    assert flat[: len(stream)] == stream
    # What fills the last row is the beginning again.
    assert all(token == stream[place % len(stream)] for place, token in enumerate(flat))


def test_packing_order_is_a_function_of_the_seed():
    documents = [[place] * 3 for place in range(29)]
    first, again, other = (pack(documents, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.flatten().sort().values, other.flatten().sort().values)


def test_rows_without_a_target_are_dropped_and_counted():
    fits = EncodedChat([1, 2, 3], [False, False, True])
    long_answer = EncodedChat([1, 2, 3, 4, 5], [False, False, True, True, True])
    long_prompt = EncodedChat([1, 2, 3, 4], [False, False, False, True])
    silent = EncodedChat([1, 2], [False, False])
    chats, places, counts = cap_chats([long_prompt, fits, silent, long_answer], 3)
    assert chats == [fits, EncodedChat([1, 2, 3], [False, False, True])]
    assert places == [1, 3]
    assert counts == {"cut to the context": 1, "prompt longer than the context": 1, "no target": 1}
