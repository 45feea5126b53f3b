"""Bits per byte by hand, and on text that cannot be compressed."""

import math
import random

import pytest

from pipeline.byte_ngram import gzip_bits_per_byte, ngram_bits_per_byte


def test_unigram_by_hand():
    # Two of three bytes are a, two kinds: P(a) = (2 + 2/256) / 5, P(b) = (1 + 2/256) / 5.
    expected = -(math.log2((2 + 2 / 256) / 5) + math.log2((1 + 2 / 256) / 5)) / 2
    assert ngram_bits_per_byte(b"aab", [b"ab"], order=1) == pytest.approx(expected)


def test_longer_contexts_help_on_regular_text_and_separators_are_not_scored():
    text = b"abcdefg" * 300
    bits = [ngram_bits_per_byte(text, [b"cdefgabcdefg", b"abc"], order=order) for order in (1, 2, 3)]
    assert bits == sorted(bits, reverse=True)
    assert bits[2] < bits[0] / 3


def test_random_bytes_take_8_bits():
    noise = random.Random(0).randbytes(20_000)
    assert gzip_bits_per_byte(noise) == pytest.approx(8, abs=0.05)
    assert ngram_bits_per_byte(noise, [random.Random(1).randbytes(5000)], order=1) == pytest.approx(
        8, abs=0.05
    )
    assert gzip_bits_per_byte(b"a" * 10_000) < 0.1
