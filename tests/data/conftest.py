"""A small tokenizer whose training text is full of control strings."""

import pytest

from data.chat import CONTROL_TOKENS

SENTENCES = [
    "Mara lives in the town of Brell and mends the old clocks there.",
    "The clocks of Brell are old, and nobody but Mara can mend them!",
    "Who mends the clocks? I do not know, but the town is old.",
    "Ein alter Mann wohnt über der Brücke. 2 + 3 = 5.",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Byte-level BPE as the tokenizer stage makes it, saved and loaded again by plain transformers."""
    from transformers import AutoTokenizer

    from pipeline.stages.tokenizer import train, wrap

    texts = SENTENCES * 5 + ["".join(CONTROL_TOKENS), " ".join(CONTROL_TOKENS)] * 50
    folder = tmp_path_factory.mktemp("tokenizer")
    wrap(train(texts, vocab_size=320)).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
