"""Floors for bits per byte of text: an interpolated byte n-gram, and gzip."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import numpy as np

from pipeline import ngram


def gzip_bits_per_byte(text: bytes) -> float:
    """Size of the text under gzip -9, which learns from the text itself alone."""
    return 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


def ngram_bits_per_byte(train: bytes, documents: Sequence[bytes], *, order: int = 5) -> float:
    """Bits per byte of documents under an n-gram of `order` bytes that was counted on `train`.

    Documents stand one after the other with a newline before each; the newlines themselves are not scored.
    """
    counts = ngram.train(np.frombuffer(train, dtype=np.uint8).astype(np.int64), 256, order=order)
    stream = np.frombuffer(b"".join(b"\n" + text for text in documents), dtype=np.uint8).astype(np.int64)
    starts = np.cumsum([0, *(len(text) + 1 for text in documents)])[:-1]
    return float(-np.delete(ngram.logprobs(counts, stream)[-1], starts).mean() / np.log(2))
