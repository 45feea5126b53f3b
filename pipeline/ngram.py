"""An interpolated n-gram model over token ids: the floor beside a language model's held-out loss.

Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1999, section 2.4): with `c` counts and `T(h)` the
number of different tokens seen after the history `h`,

    p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h))

where `h'` is `h` without its oldest token, and below the empty history stands the uniform distribution. It has
nothing to tune. A history never seen gives the estimate of the shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Tokens = Int[np.ndarray, " tokens"]


@dataclass(frozen=True)
class _Table:
    """Counts of one order: n-grams and histories as sorted codes."""

    grams: np.ndarray
    counts: np.ndarray
    histories: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray


@dataclass(frozen=True)
class NGram:
    """Counts of every order up to the longest that fits 63 bits; `num_tokens` is the vocabulary's size."""

    num_tokens: int
    tables: tuple[_Table, ...]

    @property
    def order(self) -> int:
        """Length of the longest n-gram."""
        return len(self.tables)


def train(stream: Tokens, num_tokens: int, *, order: int = 5) -> NGram:
    """Count the n-grams of a token stream, documents joined end to end as in packing.

    `order` is lowered where n-grams of that length do not fit 63 bits (5 for 2,048 tokens, 3 for 50,000).
    """
    assert int(stream.max(initial=0)) < num_tokens, "tokens of another vocabulary"
    longest = min(order, 63 // max(1, (num_tokens - 1).bit_length()), len(stream))
    tables = []
    for length in range(1, longest + 1):
        grams, counts = np.unique(_codes(stream, length, num_tokens), return_counts=True)
        # Equal histories stand together, since the newest token is the lowest digit.
        histories, first = np.unique(grams // num_tokens, return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(grams)))
        tables.append(_Table(grams, counts, histories, totals, kinds))
    return NGram(num_tokens, tuple(tables))


def logprobs(model: NGram, stream: Tokens) -> Float[np.ndarray, "orders tokens"]:
    """Log-probability of every token given those before it, nats, by the model cut at each order.

    Row k uses at most k tokens of history; the first tokens of the stream have less of it.
    """
    share = np.full(len(stream), 1.0 / model.num_tokens)
    rows = []
    for length, table in enumerate(model.tables, 1):
        codes = _codes(stream, length, model.num_tokens)
        count = _look_up(table.grams, table.counts, codes)
        total = _look_up(table.histories, table.totals, codes // model.num_tokens)
        kinds = _look_up(table.histories, table.kinds, codes // model.num_tokens)
        longer = share.copy()
        known = total > 0
        tail = longer[length - 1 :]  # a view: the first tokens keep the estimate of a shorter history
        tail[known] = ((count + kinds * tail) / np.maximum(total + kinds, 1))[known]
        share = longer
        rows.append(np.log(share))
    return np.stack(rows)


def _codes(stream: Tokens, length: int, num_tokens: int) -> np.ndarray:
    """Each n-gram of a stream as one number, its newest token the lowest digit in base `num_tokens`."""
    num = max(0, len(stream) - length + 1)
    codes = np.zeros(num, dtype=np.int64)
    for place in range(length):
        codes = codes * num_tokens + stream[place : place + num]
    return codes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
