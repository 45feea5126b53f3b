"""The order of data: pure functions of (seed, epoch, position), the same for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.randomness import key

POOL_BATCHES = 50  # rows of this many batches are sorted by length together: little padding, still mixed


def order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """The permutation of `num_rows` rows in one epoch, int64 of shape (num_rows,).

    Sorts raw draws of a counter-based generator, whose bits are the same on every machine.
    """
    draws = np.random.Philox(key=key("order", seed, epoch)).random_raw(num_rows)
    return np.argsort(draws, kind="stable").astype(np.int64)


def position_index(seed: int, position: int, num_rows: int) -> int:
    """The row at a position of the endless stream that visits every row once an epoch."""
    return int(indices(seed, position, 1, num_rows)[0])


def indices(seed: int, start: int, num: int, num_rows: int) -> np.ndarray:
    """The rows at positions `start` to `start + num - 1` of the endless stream, over epoch borders.

    A batch larger than the data set is defined: it takes rows of the following epochs.

    Raises:
        ValueError: there are no rows.
    """
    if num_rows < 1:
        raise ValueError("there is no order of no rows: the data set is empty")
    taken = []
    position = start
    while position < start + num:
        epoch, index = divmod(position, num_rows)
        stop = min(num_rows, index + start + num - position)
        taken.append(order(seed, epoch, num_rows)[index:stop])
        position += stop - index
    return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)


def batches_by_length(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Batches of rows of similar length, in shuffled order; every row once, the last batch may be smaller.

    Rows are shuffled, sorted by length within pools of `POOL_BATCHES` batches, and cut into batches.
    """
    rows = order(seed, epoch, len(lengths))
    pool = POOL_BATCHES * batch_size
    ordered: list[int] = []
    for first in range(0, len(rows), pool):
        ordered += sorted(rows[first : first + pool].tolist(), key=lambda row: lengths[row])
    batches = [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]
    return [batches[place] for place in order(key("batches", seed), epoch, len(batches))]


def share_of_rank(batch: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """The rows of one global batch that one process takes; all shares together are the batch."""
    return list(batch[rank::num_ranks])
