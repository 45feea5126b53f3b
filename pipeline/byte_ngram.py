"""Floors for bits per byte of text: an interpolated byte n-gram, and gzip.

The n-gram is Witten-Bell's (1991, method C): P(c | h) = (n(hc) + t(h) P(c | h')) / (n(h) + t(h)), where t(h)
is the number of different bytes seen after h and h' is h without its first byte; below the shortest context
all 256 bytes are equally likely.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def gzip_bits_per_byte(text: bytes) -> float:
    """Size of the text under gzip -9, which learns from the text itself alone."""
    return 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


def ngram_bits_per_byte(train: bytes, documents: Sequence[bytes], *, order: int = 5) -> float:
    """Bits per byte of documents under an n-gram of `order` bytes that was counted on `train`.

    Each document starts after a newline, with no other context.
    """
    counted = np.frombuffer(b"\n" + train, dtype=np.uint8).astype(np.uint64)
    scored = np.concatenate([np.frombuffer(b"\n" + text, dtype=np.uint8) for text in documents]).astype(
        np.uint64
    )
    starts = np.cumsum([0, *(len(text) + 1 for text in documents)])[:-1]
    since_start = np.arange(len(scored)) - np.repeat(starts, [len(text) + 1 for text in documents])
    probability = np.full(len(scored), 1 / 256)
    for length in range(order):
        probability = _longer(probability, counted, scored, since_start, length)
    return float(-np.log2(probability[since_start > 0]).mean())


def _longer(
    shorter: np.ndarray, counted: np.ndarray, scored: np.ndarray, since_start: np.ndarray, length: int
) -> np.ndarray:
    """Probabilities with contexts of `length` bytes from those with one byte less."""
    contexts, pairs = _hashes(counted, length)
    seen_pairs, num_pairs = np.unique(pairs, return_counts=True)
    first = np.unique(pairs, return_index=True)[1]
    seen_contexts, num_contexts = np.unique(contexts, return_counts=True)
    kinds = np.bincount(np.searchsorted(seen_contexts, contexts[first]), minlength=len(seen_contexts))
    own_contexts, own_pairs = _hashes(scored, length)
    places = np.arange(length, len(scored))
    n_h = _look_up(seen_contexts, num_contexts, own_contexts)
    t_h = _look_up(seen_contexts, kinds, own_contexts)
    n_hc = _look_up(seen_pairs, num_pairs, own_pairs)
    known = (n_h > 0) & (since_start[places] >= length)
    longer = shorter.copy()
    mixed = (n_hc + t_h * shorter[places]) / np.maximum(n_h + t_h, 1)
    longer[places[known]] = mixed[known]
    return longer


def _hashes(text: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of the `length` bytes before each byte (from the first that has them), and with it."""
    num = len(text) - length
    contexts = np.zeros(num, dtype=np.uint64)
    for place in range(length):
        contexts = (contexts + text[place : place + num] + np.uint64(1)) * _MULTIPLIER
    return contexts, (contexts + text[length:] + np.uint64(1)) * _MULTIPLIER


def _look_up(known: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, counts[places], 0)
