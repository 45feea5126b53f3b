"""Loss on held-out pretraining text, per token and in bits per byte, beside a byte n-gram and gzip."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from data.randomness import key
from data.rows import TextRow
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.measured import Measured, Plain
from pipeline.records import Record

KIND = "measure"
SUITE = "language"
PER_TOKEN = Plain("loss/held_out", "nats", kind="ratio", better=-1)
PER_BYTE = Plain("loss/bits_per_byte", "bits", kind="ratio", better=-1)
PAIRED = (PER_BYTE,)  # not the loss per token: tokens differ where tokenizers do
SHOWN_CHARACTERS = 200  # of each document, in its record


class Config(Settings):
    """How much text is scored."""

    num_documents: int = Field(400, gt=0, description="held-out documents, chosen by keyed order")
    num_train_bytes: int = Field(
        3_000_000, gt=0, description="training text that the n-gram floor is counted on"
    )
    batch_size: int = Field(16, gt=0, description="documents scored together")


def measure(context: Context) -> list[Record]:
    """Score every document under every model: nats, with its tokens as weight, and again with its bytes.

    A document longer than the context of a model is cut for all of them, so that all read the same text.
    """
    rows = _documents(context, "valid")[: _config(context).num_documents]
    texts = _readable_by_all(context, [row.text for row in rows])
    records: list[Record] = []
    for stage in context.models if rows else ():
        found = context.model(stage).logprobs([""] * len(rows), texts, batch_size=_config(context).batch_size)
        for row, text, logprobs in zip(rows, texts, found, strict=True):
            if not logprobs:
                continue
            common = (row.id, row.cluster, stage, "held_out_loss")
            nats = -sum(logprobs)
            records.append(
                Record(*common, "nats", "", text[:SHOWN_CHARACTERS], nats, weight=float(len(logprobs)))
            )
            bits = nats / math.log(2)
            records.append(Record(*common, "bits", "", "", bits, weight=float(len(text.encode()))))
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Nats per token and bits per byte; less is better."""
    floors = _floors(context, records) if records else {}

    def uniform(stage: str) -> dict[str, float]:
        return {"uniform": math.log(context.model(stage).model.config.get_text_config().vocab_size)}

    return [
        PER_TOKEN.measured(records, uniform, unit="nats per token"),
        PER_BYTE.measured(records, lambda stage: floors, unit="bits per byte"),
    ]


def _config(context: Context) -> Config:
    found: Config = context.options["held_out_loss"]
    return found


def _documents(context: Context, split: str) -> list[TextRow]:
    """The documents of a split in keyed order, with something to score."""
    from data.rows import read_jsonl

    folder = context.folder("corpus")
    path = folder / f"text.{split}.jsonl" if folder else None
    if path is None or not path.exists():
        return []
    rows = [row for row in read_jsonl(path, TextRow) if row.text.strip()]
    return sorted(rows, key=lambda row: key("held out", row.id))


def _readable_by_all(context: Context, texts: list[str]) -> list[str]:
    """The beginnings of the texts that fit into the context of every model."""
    before: list[str] = []
    while texts != before:  # a shorter text may have more tokens
        before = texts
        for stage in context.models:
            model = context.model(stage)
            texts = [_fitting(model, text) for text in texts]
    return texts


def _fitting(model: Any, text: str) -> str:
    """The beginning of a text that fits into the model's context."""
    longest = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    while longest is not None and (num := len(model.encode(text))) > longest:
        text = text[: max(1, int(len(text) * longest / num) - 1)]
    return text


def _floors(context: Context, records: Records) -> dict[str, float]:
    """Bits per byte of the same texts without a model."""
    from pipeline.byte_ngram import gzip_bits_per_byte, ngram_bits_per_byte

    config = _config(context)
    sizes = {row.id: int(row.weight) for rows in records.values() for row in rows if row.measure == "bits"}
    rows = _documents(context, "valid")[: config.num_documents]
    scored = [row.text.encode()[: sizes.get(row.id)] for row in rows]
    train = "\n".join(row.text for row in _documents(context, "train")).encode()[: config.num_train_bytes]
    floors = {"gzip": gzip_bits_per_byte(b"\n".join(scored))}
    if train:
        floors["byte_5_gram"] = ngram_bits_per_byte(train, scored)
    return floors
