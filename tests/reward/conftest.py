"""A small tokenizer with control tokens."""

import pytest


@pytest.fixture(scope="session")
def small_tokenizer():
    """A byte-level tokenizer of 275 tokens."""
    from pipeline.stages.tokenizer import train, wrap

    return wrap(train(["red green blue black ?"] * 9, vocab_size=275))
