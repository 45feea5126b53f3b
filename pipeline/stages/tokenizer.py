"""Trains a byte-level BPE tokenizer on the corpus, with control tokens that text can never forge.

The vocabulary is the six control tokens (ids 0 to 5), the 256 bytes and merges (Sennrich, Haddow and Birch,
2016, over bytes as in GPT-2). The text is that of the corpus' training splits, conversations and prompts
included, so that every word of a later stage has been seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from data.chat import BEGIN, CHAT_TEMPLATE, CONTROL_TOKENS, END, PAD, SYSTEM, encode_texts
from data.errors import InputError
from data.rows import AnyRow, ChatRow, Item, PreferenceRow, TextRow, read_jsonl
from data.settings import Settings
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from pipeline.run import StageRun

INPUTS = {"corpus": Input("corpus")}
IGNORES_PRECISION = True
SMALLEST = len(CONTROL_TOKENS) + 256
MEASURED_CHARACTERS = 1_000_000  # bytes per token are measured on the beginning of each kind of text
# For a plan (measured): size of a saved tokenizer without merges and of a merge; memory for a token of text.
SMALLEST_FILE, BYTES_PER_MERGE, MEMORY_PER_TOKEN = 7_000, 66, 80


class Config(Settings):
    """Settings of the tokenizer stage."""

    vocab_size: int = Field(
        2048, ge=SMALLEST, le=1_000_000, description="Number of tokens, control tokens and bytes included."
    )
    min_frequency: int = Field(
        2, ge=1, le=1_000_000, description="A pair is merged only where it occurs this often in the text."
    )
    max_characters: int = Field(
        20_000_000, ge=1, description="Train on at most this many characters, taken evenly over the text."
    )


def cost(config: Config, context: CostContext) -> Cost:
    """One step is one merge; memory follows from the corpus' announced tokens."""
    corpus = context.costs.get("corpus")
    merges = config.vocab_size - SMALLEST
    return Cost(
        steps=merges,
        memory_bytes=MEMORY_PER_TOKEN * corpus.tokens if corpus is not None else 0,
        disk_bytes=SMALLEST_FILE + BYTES_PER_MERGE * merges,
    )


def run(config: Config, run: StageRun) -> None:
    """Train on the corpus' training text, save to model/, and measure bytes per token."""
    # 1. The text: every kind of row of the training side, thinned evenly to the bound.
    corpus: Path = run.inputs["corpus"]
    texts = _training_texts(corpus)
    joined = [text for of_kind in texts.values() for text in of_kind]
    if not joined:
        raise InputError(f"{corpus.name}: the corpus holds no training text; give it a source that has some")
    num_characters = sum(map(len, joined))
    stride = max(1, -(-num_characters // config.max_characters))

    # 2. Training, and the same vocabulary under the name that plain transformers loads.
    with run.progress("train the tokenizer", 1, "vocabulary") as progress:
        inner = train(joined[::stride], vocab_size=config.vocab_size, min_frequency=config.min_frequency)
        tokenizer = wrap(inner)
        progress.advance(1)
    with run.publish("model") as folder:
        tokenizer.save_pretrained(folder)

    # 3. How much text a token holds.
    measures = {
        f"bytes_per_token_{kind}": bytes_per_token(tokenizer, of_kind) for kind, of_kind in texts.items()
    }
    run.note(vocab_size=len(tokenizer), num_characters=num_characters, trained_on_every=stride, **measures)


def _training_texts(corpus: Path) -> dict[str, list[str]]:
    """Texts by kind: documents, conversations, prompts of RL, preference pairs; those that exist."""

    def rows(name: str, row_type: type[AnyRow]) -> list[AnyRow]:
        path = corpus / f"{name}.jsonl"
        return read_jsonl(path, row_type) if path.exists() else []

    chats = rows("chat.train", ChatRow)
    items = rows("items.rl", Item)
    pairs = rows("preferences.train", PreferenceRow)
    texts = {
        "text": [row.text for row in rows("text.train", TextRow)],
        "chat": [message["content"] for row in chats for message in row.messages],
        "prompts": [message["content"] for row in items for message in row.prompt],
        "preferences": [text for row in pairs for text in (row.chosen, row.rejected)],
    }
    return {kind: of_kind for kind, of_kind in texts.items() if of_kind}


def train(texts: list[str], *, vocab_size: int, min_frequency: int = 2) -> Tokenizer:
    """Train byte-level BPE; the same texts give the same vocabulary, whatever the number of threads.

    Raises:
        InputError: the text cannot give that many tokens; says how many it can.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    achieved = tokenizer.get_vocab_size()
    if achieved < vocab_size:
        raise InputError(
            f"vocab_size is {vocab_size:,}, but the text gives {achieved:,} tokens at most (from pairs "
            f"that occur {min_frequency} times or more); set it to {achieved} or less, or give more text"
        )
    return tokenizer


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Give a trained tokenizer the control tokens' roles and the template, as plain transformers reads them.

    Plain transformers puts the begin token before a text, as pretraining did, and parses special tokens in text,
    as everywhere; `data.chat` never does.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    begin = CONTROL_TOKENS[BEGIN]
    tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, BEGIN)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=CONTROL_TOKENS[PAD],
        bos_token=CONTROL_TOKENS[BEGIN],
        eos_token=CONTROL_TOKENS[END],
        extra_special_tokens=list(CONTROL_TOKENS[SYSTEM:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def bytes_per_token(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """UTF-8 bytes of text for each token that encodes it, on at most `MEASURED_CHARACTERS` of it."""
    measured: list[str] = []
    left = MEASURED_CHARACTERS
    for text in texts:
        if left <= 0:
            break
        measured.append(text[:left])
        left -= len(text)
    num_tokens = sum(map(len, encode_texts(tokenizer, measured)))
    return sum(len(text.encode()) for text in measured) / max(1, num_tokens)
