"""Padding, packing and capping of token rows: pure functions from lists of ids to tensors.

A mask is True where a token counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data.chat import EncodedChat
from data.sampler import order


class Padded(NamedTuple):
    """Token rows of one length, and a mask that is True where a token counts."""

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> Padded:
    """Pad rows behind their last token to the length of the longest."""
    return _pad(rows, pad_id, left=False)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> Padded:
    """Pad rows before their first token to the length of the longest, so that all end together."""
    return _pad(rows, pad_id, left=True)


def _pad(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> Padded:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)[:, None]
    longest = int(lengths.max()) if len(rows) else 0
    places = torch.arange(longest)
    mask = places >= longest - lengths if left else places < lengths
    tokens = torch.full(mask.shape, pad_id, dtype=torch.int64)
    tokens[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return Padded(tokens, mask)


def pad_chats(
    chats: Sequence[EncodedChat], pad_id: int
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Pad conversations on the right; returns tokens, their mask, and the mask of what the assistant says."""
    tokens, mask = pad_right([chat.tokens for chat in chats], pad_id)
    said, _ = pad_right([chat.mask for chat in chats], 0)
    return tokens, mask, said.bool()


def pack(
    documents: Sequence[Sequence[int]], length: int, *, seed: int | None = None
) -> Int[Tensor, "rows length"]:
    """Join documents end to end and cut them into rows of `length` tokens, without padding.

    With a `seed` the documents are joined in its order, else as they come. The last row is filled up from the
    beginning of the stream: no token is lost, and fewer than `length` stand there twice (more only where all
    documents together are shorter than one row).

    Raises:
        ValueError: there is no token at all.
    """
    places = range(len(documents)) if seed is None else order(seed, 0, len(documents)).tolist()
    stream = [token for place in places for token in documents[place]]
    if not stream:
        raise ValueError("there is nothing to pack: the documents hold no token")
    num_rows = -(-len(stream) // length)
    tokens = torch.tensor(stream, dtype=torch.int64)
    repeats = -(-num_rows * length // len(stream))
    return tokens.repeat(repeats)[: num_rows * length].view(num_rows, length)


class Capped(NamedTuple):
    """Conversations that fit, where each stood before, and how many were cut or dropped, by reason."""

    chats: list[EncodedChat]
    places: list[int]
    counts: dict[str, int]


def cap_chats(chats: Sequence[EncodedChat], max_tokens: int) -> Capped:
    """Cut conversations to `max_tokens`, and drop those in which the assistant then says nothing.

    A row without a target would train nothing and still count in the batch.
    """
    kept: list[EncodedChat] = []
    places: list[int] = []
    counts = {"cut to the context": 0, "prompt longer than the context": 0, "no target": 0}
    for place, chat in enumerate(chats):
        if not any(chat.mask[:max_tokens]):
            counts["prompt longer than the context" if any(chat.mask) else "no target"] += 1
            continue
        counts["cut to the context"] += len(chat.tokens) > max_tokens
        kept.append(EncodedChat(chat.tokens[:max_tokens], chat.mask[:max_tokens]))
        places.append(place)
    return Capped(kept, places, {reason: count for reason, count in counts.items() if count})
