"""What a pass of a Llama-type decoder computes between its matrix products, in PyTorch's operations.

`pipeline/decoder_kernel.py` computes the same in fewer passes over memory, where a C compiler is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Norm:
    """Weight and epsilon of an RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    weight: Float[Tensor, " width"]
    eps: float

    def __call__(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Norm the last dimension of a float32 tensor, into the type of the weight."""
        inverse = x.square().mean(dim=-1, keepdim=True).add_(self.eps).rsqrt_()
        return (x * inverse).to(self.weight.dtype) * self.weight


@dataclass(frozen=True)
class Heads:
    """How a layer attends: so many heads of queries over so many of keys and values, of `size` numbers each.

    Each key serves as many heads in a row (Ainslie et al. 2023, arXiv 2305.13245). Queries and keys may be normed
    head by head before they are turned to their positions.
    """

    num_heads: int
    num_key_heads: int
    size: int
    scale: float
    query_norm: Norm | None
    key_norm: Norm | None


@dataclass
class Kept:
    """Keys and values of a layer so far, each (batch, key heads, capacity, size) without gaps."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Place:
    """New positions of each row: where in the cache they come, where their row begins, how they are turned."""

    length: int
    first: Int[Tensor, " batch"]
    cos: Float[Tensor, "batch count size"]
    sin: Float[Tensor, "batch count size"]
    capacity: int

    @property
    def end(self) -> int:
        """How many positions of the cache are filled then."""
        return self.length + self.cos.shape[1]

    @cached_property
    def visible(self) -> Bool[Tensor, "batch 1 count capacity"]:
        """Which positions of the cache each new one attends to; a position of padding attends to itself."""
        positions = torch.arange(self.capacity)
        new = torch.arange(self.length, self.end)[:, None]
        read = (positions >= self.first[:, None, None]) & (positions <= new) | (positions == new)
        return read[:, None]


SEARCHED = 64  # tokens of a block in which a draw is searched
LARGEST_UNIFORM = 1 - 2**-22  # times a float32 sum it stays below the sum, whatever the rounding


class Operations:
    """The operations of `LeanDecoder`; those of a stream of the batch are in float32."""

    reads_all = True  # a step computes over all that the cache has allocated, which must hold numbers then

    def add_norm(
        self, stream: Float[Tensor, "*rows width"], added: Float[Tensor, "*rows width"] | None, norm: Norm
    ) -> Float[Tensor, "*rows width"]:
        """Add to the stream in place; returns its norm."""
        return norm(stream if added is None else stream.add_(added))

    def gated(
        self, both: Float[Tensor, "*rows twice_width"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*rows width"]:
        """Compute `activation(gate) * up` of the two halves of each row."""
        gate, up = both.chunk(2, dim=-1)
        return activation(gate).mul_(up)

    def attend(
        self, projected: Float[Tensor, "batch count all_heads size"], heads: Heads, kept: Kept, place: Place
    ) -> Float[Tensor, "batch count heads size"]:
        """Causal attention of new positions, whose keys and values join the cache in place.

        `projected` holds the heads of queries, then of keys, then of values.
        """
        query, key, value = projected.split(
            (heads.num_heads, heads.num_key_heads, heads.num_key_heads), dim=2
        )
        if heads.query_norm is not None and heads.key_norm is not None:
            query, key = heads.query_norm(query.float()), heads.key_norm(key.float())
            plain = torch.cat((query, key), dim=2)
        else:
            plain = projected[:, :, : heads.num_heads + heads.num_key_heads]
        half = heads.size // 2
        crossed = torch.cat((-plain[..., half:], plain[..., :half]), dim=-1)
        turned = plain * place.cos[:, :, None] + crossed * place.sin[:, :, None]
        query, key = turned.split((heads.num_heads, heads.num_key_heads), dim=2)
        kept.keys[:, :, place.length : place.end] = key.transpose(1, 2)
        kept.values[:, :, place.length : place.end] = value.transpose(1, 2)
        query = query.to(kept.keys.dtype)
        if projected.shape[1] == 1:
            return _attend_once(query, kept, place, heads.scale)
        keys, values = (x[:, :, : place.end] for x in (kept.keys, kept.values))
        visible = place.visible[..., : place.end]
        return scaled_dot_product_attention(
            query.transpose(1, 2), keys, values, visible, scale=heads.scale, enable_gqa=True
        ).transpose(1, 2)

    def draw(
        self, logits: Float[Tensor, "batch vocabulary"], uniform: Float[Tensor, " batch"], temperature: float
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Draw a token a row where its cumulative distribution passes `uniform`, with its log-probability (nats).

        A token without a share is never drawn. Without any number among its logits a row has no log-probability.
        """
        shares = torch.softmax(logits.float() / temperature, dim=-1)
        tokens = _inverted(shares, uniform)
        return tokens, shares.gather(1, tokens[:, None]).squeeze(1).log()


def _attend_once(
    query: Float[Tensor, "batch 1 heads size"], kept: Kept, place: Place, scale: float
) -> Float[Tensor, "batch 1 heads size"]:
    """Attention of one position as two products over all of the cache; `sdpa` is slow there."""
    batch, key_heads, capacity, size = kept.keys.shape
    keys, values = kept.keys.flatten(0, 1), kept.values.flatten(0, 1)
    query = query.reshape(batch * key_heads, -1, size)
    # The faster of two equal products: by rows of keys in bfloat16, by the query in float32.
    by_rows = keys.dtype == torch.bfloat16
    scores = (keys @ query.mT).mT if by_rows else query @ keys.mT
    scores = scores.float().mul_(scale).view(batch, -1, capacity)
    weights = scores.masked_fill_(~place.visible[:, 0], -torch.inf).softmax(dim=-1).to(values.dtype)
    return (weights.view(len(keys), -1, capacity) @ values).view(batch, 1, -1, size)


def _inverted(
    shares: Float[Tensor, "batch vocabulary"], uniform: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Where the cumulative distribution passes `uniform`: the block first, then the place in it.

    Two short cumulative sums in place of one along the vocabulary, which is slow.
    """
    missing = -shares.shape[-1] % SEARCHED
    blocks = torch.nn.functional.pad(shares, (0, missing)) if missing else shares
    blocks = blocks.view(len(shares), -1, SEARCHED)
    block, inside = _passed(blocks.sum(dim=-1), uniform)
    place, _ = _passed(blocks[torch.arange(len(blocks), device=blocks.device), block], inside)
    return (block * SEARCHED + place).clamp(max=shares.shape[-1] - 1)  # beyond it are no numbers alone


def _passed(
    shares: Float[Tensor, "batch places"], uniform: Float[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The place whose share of the sum `uniform` falls into, never one without a share; and how far into it."""
    cumulative = shares.cumsum(dim=-1)
    target = uniform[:, None].clamp(max=LARGEST_UNIFORM) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True).clamp(max=shares.shape[-1] - 1)
    share = shares.gather(1, place)
    return place[:, 0], ((target - cumulative.gather(1, place) + share) / share)[:, 0].clamp(min=0)
