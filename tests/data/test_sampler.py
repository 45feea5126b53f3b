"""The order of data is a function of seed, epoch and position."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sampler import batches_by_length, indices, order, position_index, share_of_rank


@given(st.integers(0, 9), st.integers(0, 5), st.integers(1, 97))
@settings(max_examples=50, deadline=None)
def test_an_epoch_visits_every_row_once(seed, epoch, num_rows):
    assert sorted(order(seed, epoch, num_rows)) == list(range(num_rows))


def test_the_order_is_pinned_and_changes_with_seed_and_epoch():
    assert order(0, 0, 7).tolist() == [0, 4, 6, 3, 1, 2, 5]
    assert len({tuple(order(seed, epoch, 31)) for seed in range(3) for epoch in range(3)}) == 9


@given(st.integers(0, 200), st.integers(0, 100), st.integers(1, 23))
@settings(max_examples=80, deadline=None)
def test_a_stream_can_be_entered_anywhere(start, num, num_rows):
    assert indices(3, start, num, num_rows).tolist() == [
        position_index(3, position, num_rows) for position in range(start, start + num)
    ]


def test_a_batch_larger_than_the_data_takes_from_the_next_epochs():
    taken = indices(0, 0, 11, 5).tolist()
    assert sorted(taken[:5]) == sorted(taken[5:10]) == list(range(5))


def test_no_rows_have_no_order():
    with pytest.raises(ValueError, match="empty"):
        indices(0, 0, 1, 0)


def test_batches_by_length_hold_every_row_once_with_little_padding():
    lengths = [(place * 37) % 101 for place in range(1000)]
    batches = batches_by_length(lengths, 7, seed=0, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches == batches_by_length(lengths, 7, seed=0, epoch=0)
    assert batches != batches_by_length(lengths, 7, seed=0, epoch=1)
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts != sorted(firsts)


def test_shares_of_processes_make_up_the_batch():
    batch = list(range(13))
    assert sorted(row for rank in range(3) for row in share_of_rank(batch, rank, 3)) == batch
