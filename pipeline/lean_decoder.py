"""Passes of a Llama-type model for sampling in few, large operations, for CPUs: of prompts, then token by token.

transformers' own step is made of some fifty small operations a layer, and of attention whose key-value cache has
gaps that matrix products in bfloat16 must copy away. Here the projections of queries, keys and values are one
product, as are gate and up projection; the cache has no gaps; the residual stream is in float32, as in training
under autocast; and what lies between the products is done by `pipeline/decoder_kernel.c` where it can be
compiled. A model qualifies by its parts, and by a trial on which both forms must agree.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from pipeline.decoder_kernel import HeadNorms, Kernel, load

BLOCK = 32  # positions that the cache grows by
# The fused weights are copies, which would double the memory of a large model.
MOST_PARAMETERS = 10**8
# Largest distance of a trial's log-probabilities, nats: the order of sums differs (by 2e-6 where seen).
TRIAL_BOUND = 1e-4
# New positions that the kernel, which takes them one by one, attends from faster than `sdpa`.
MOST_AT_ONCE = 256
DTYPES = (torch.float32, torch.bfloat16)

_QUALIFIES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Norm:
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) of a float32 stream, into the type of the weights."""

    weight: Float[Tensor, " width"]
    eps: float

    def __call__(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Norm the last dimension."""
        inverse = x.square().mean(dim=-1, keepdim=True).add_(self.eps).rsqrt_()
        return (x * inverse).to(self.weight.dtype) * self.weight


@dataclass
class Layer:
    """One decoder layer with fused weights."""

    before_attention: Norm
    query_key_value: tuple[Tensor, Tensor | None]
    query_norm: Norm | None
    key_norm: Norm | None
    output: tuple[Tensor, Tensor | None]
    before_mlp: Norm
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    activation: Any
    scale: float
    heads: int
    key_heads: int
    size: int

    @property
    def head_norms(self) -> HeadNorms | None:
        """The norms of queries and keys as the kernel takes them."""
        query, key = self.query_norm, self.key_norm
        return None if query is None or key is None else HeadNorms(query.weight, key.weight, query.eps)


@dataclass
class Kept:
    """Keys and values of a layer so far, each (batch, key heads, capacity, size)."""

    keys: Tensor
    values: Tensor


class LeanDecoder:
    """Reads the prompts of a batch, and goes on from them token by token."""

    def __init__(
        self, model: Any, mask: Bool[Tensor, "batch time"], num_steps: int, like: LeanDecoder | None = None
    ) -> None:
        """Take the mask of left-padded prompts, and copies of the weights or those of `like`.

        There is room for the prompts and `num_steps` tokens; for more it is made as they come.
        """
        trunk = model.model
        self.embedding, self.head = trunk.embed_tokens.weight, model.lm_head
        self.norm, self.rotary = _norm(trunk.norm), trunk.rotary_emb
        self.layers: list[Layer] = like.layers if like else [_layer(layer) for layer in trunk.layers]
        self.kernel = _kernel(model, self.layers)
        self.first, self.length = (~mask).sum(dim=1), 0
        # Without the kernel a step computes over all that is allocated.
        capacity = mask.shape[1] + (num_steps if self.kernel else 0)
        self.kept = [
            Kept(
                *(torch.zeros(len(mask), x.key_heads, capacity, x.size, dtype=model.dtype) for _ in range(2))
            )
            for x in self.layers
        ]

    def step(
        self, tokens: Int[Tensor, " batch"], positions: Int[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logits after one more token of each row."""
        return self.read(tokens[:, None], positions)

    def read(
        self, tokens: Int[Tensor, "batch count"], positions: Int[Tensor, "batch count"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logits after some more tokens of each row; `positions` are those of the rotary embedding."""
        count = tokens.shape[1]
        self._make_room(count)
        x, added = self.embedding[tokens].float(), None
        cos, sin = (part.contiguous() for part in self.rotary(x, positions))
        attend = self._attend_by_kernel if self.kernel and count <= MOST_AT_ONCE else self._attend
        visible = self._visible(count)
        for layer, kept in zip(self.layers, self.kept, strict=True):
            projected = linear(self._add_norm(x, added, layer.before_attention), *layer.query_key_value)
            projected = projected.view(*tokens.shape, layer.heads + 2 * layer.key_heads, layer.size)
            heads = attend(layer, kept, projected, cos, sin, visible).flatten(2)
            if layer is self.layers[-1]:  # the logits need no other position from here on
                x, heads = x[:, -1:].contiguous(), heads[:, -1:].contiguous()
            both = linear(self._add_norm(x, linear(heads, *layer.output), layer.before_mlp), *layer.gate_up)
            added = linear(self._gated(layer, both), *layer.down)
        self.length += count
        logits: Tensor = self.head(self._add_norm(x, added, self.norm))[:, -1]
        return logits

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all rows but these."""
        self.first = self.first[rows]
        for kept in self.kept:
            kept.keys, kept.values = kept.keys[rows], kept.values[rows]

    def trim(self) -> None:
        """Drop the first positions that no row needs."""
        unused = int(self.first.min())
        if unused:
            self.first, self.length = self.first - unused, self.length - unused
            for kept in self.kept:
                kept.keys, kept.values = (x[:, :, unused:].contiguous() for x in (kept.keys, kept.values))

    def join(self, other: LeanDecoder) -> None:
        """Take the rows of another decoder of the same model behind its own; the ends of both meet."""
        length = max(self.length, other.length)
        self.first = torch.cat([x.first + (length - x.length) for x in (self, other)])
        for mine, its in zip(self.kept, other.kept, strict=True):
            mine.keys, mine.values = (
                torch.cat([at_end(first, self.length, length), at_end(second, other.length, length)])
                for first, second in ((mine.keys, its.keys), (mine.values, its.values))
            )
        self.length = length

    @property
    def joins(self) -> bool:
        """Whether rows can join: always."""
        return True

    def _add_norm(self, x: Tensor, added: Tensor | None, norm: Norm) -> Tensor:
        """The norm of the stream, to which is added in place."""
        if self.kernel:
            flat = None if added is None else added.flatten(0, 1)
            return self.kernel.add_norm(x.flatten(0, 1), flat, norm.weight, norm.eps).view_as(x)
        return norm(x if added is None else x.add_(added))

    def _gated(self, layer: Layer, both: Tensor) -> Tensor:
        if self.kernel and isinstance(layer.activation, SiLUActivation | nn.SiLU):
            return self.kernel.gated(both.flatten(0, 1)).unflatten(0, both.shape[:2])
        gate, up = both.chunk(2, dim=-1)
        product: Tensor = layer.activation(gate).mul_(up)
        return product

    def _attend_by_kernel(
        self, layer: Layer, kept: Kept, projected: Tensor, cos: Tensor, sin: Tensor, visible: Tensor
    ) -> Tensor:
        assert self.kernel is not None
        return self.kernel.attend(
            projected,
            cos,
            sin,
            self.first,
            kept.keys,
            kept.values,
            self.length,
            layer.scale,
            layer.head_norms,
        )

    def _attend(
        self, layer: Layer, kept: Kept, projected: Tensor, cos: Tensor, sin: Tensor, visible: Tensor
    ) -> Tensor:
        """What the heads read at the new positions, which join the cache: (batch, count, heads, size)."""
        heads, key_heads = layer.heads, layer.key_heads
        query, key, value = projected.split((heads, key_heads, key_heads), dim=2)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = layer.query_norm(query.float()), layer.key_norm(key.float())
            turned = torch.cat((query, key), dim=2)
        else:
            turned = projected[:, :, : heads + key_heads]
        half = layer.size // 2
        crossed = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
        query, key = (turned * cos[:, :, None] + crossed * sin[:, :, None]).split((heads, key_heads), dim=2)
        end = self.length + projected.shape[1]
        kept.keys[:, :, self.length : end] = key.transpose(1, 2)
        kept.values[:, :, self.length : end] = value.transpose(1, 2)
        query = query.to(kept.keys.dtype)
        if projected.shape[1] == 1:
            return _attend_once(query, kept, visible, layer.scale)
        keys, values = kept.keys[:, :, :end], kept.values[:, :, :end]
        return scaled_dot_product_attention(
            query.transpose(1, 2), keys, values, visible, scale=layer.scale, enable_gqa=True
        ).transpose(1, 2)

    def _visible(self, count: int) -> Bool[Tensor, "batch 1 count positions"]:
        """Which positions of the cache each new one attends to; a position of padding attends to itself.

        A single new position is given all that is allocated, more of them what is filled then.
        """
        end = self.kept[0].keys.shape[2] if count == 1 else self.length + count
        positions = torch.arange(end)
        new = torch.arange(self.length, self.length + count)[:, None]
        read = (positions >= self.first[:, None, None]) & (positions <= new) | (positions == new)
        return read[:, None]

    def _make_room(self, count: int) -> None:
        """Make the cache larger by whole blocks, where the new positions need it."""
        missing = self.length + count - self.kept[0].keys.shape[2]
        if missing > 0:
            room = -(-missing // BLOCK) * BLOCK
            for kept in self.kept:
                kept.keys, kept.values = (
                    nn.functional.pad(x, (0, 0, 0, room)) for x in (kept.keys, kept.values)
                )


def _attend_once(
    query: Float[Tensor, "batch 1 heads size"],
    kept: Kept,
    visible: Bool[Tensor, "batch 1 1 capacity"],
    scale: float,
) -> Float[Tensor, "batch 1 heads size"]:
    """Attention of one position as two products over all of the cache; `sdpa` is slow there."""
    batch, key_heads, capacity, size = kept.keys.shape
    keys, values = kept.keys.flatten(0, 1), kept.values.flatten(0, 1)
    query = query.reshape(batch * key_heads, -1, size)
    # The faster of two equal products: by rows of keys in bfloat16, by the query in float32.
    by_rows = keys.dtype == torch.bfloat16
    scores = (keys @ query.mT).mT if by_rows else query @ keys.mT
    scores = scores.float().mul_(scale).view(batch, -1, capacity).masked_fill_(~visible[:, 0], -torch.inf)
    weights = scores.softmax(dim=-1).to(values.dtype).view(len(keys), -1, capacity)
    return (weights @ values).view(batch, 1, -1, size)


def _kernel(model: Any, layers: list[Layer]) -> Kernel | None:
    """The kernel for a model's format and head size, where all of its layers have the same."""
    sizes = {layer.size for layer in layers}
    return load(model.dtype, sizes.pop()) if len(sizes) == 1 else None


def at_end(
    x: Float[Tensor, "batch heads time size"], num: int, length: int
) -> Float[Tensor, "batch heads length size"]:
    """The first `num` positions of keys or values as the last of `length`, after zeros that a mask must hide."""
    return nn.functional.pad(x[:, :, :num], (0, 0, length - num, 0))


def qualifies(model: Any) -> bool:
    """Whether a model's steps can be made here; the trial is made once for each model."""
    if not isinstance(model, PreTrainedModel) or not _is_llama_type(model):
        return False
    if torch.is_autocast_enabled(model.device.type):
        return False
    if model not in _QUALIFIES:
        _QUALIFIES[model] = _agrees(model)
    return _QUALIFIES[model]


def _is_llama_type(model: Any) -> bool:
    """Whether a model on a CPU has the parts of a Llama, plain ones, and attends to all that came before."""
    trunk: Any = getattr(model, "model", None)
    names = ("embed_tokens", "rotary_emb", "norm", "layers")
    if not all(hasattr(trunk, name) for name in names) or len(trunk.layers) == 0:
        return False
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        model.device.type == "cpu"
        and model.dtype in DTYPES
        and all(part.dtype == model.dtype for part in model.parameters())
        and model.num_parameters() <= MOST_PARAMETERS
        and type(trunk.embed_tokens) is nn.Embedding
        and type(model.lm_head) is nn.Linear
        and all(kind == "full_attention" for kind in kinds)
        and getattr(config, "sliding_window", None) is None
        and all(_is_llama_layer(layer) for layer in trunk.layers)
    )


def _is_llama_layer(layer: Any) -> bool:
    parts = {
        "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
    }
    linears = [
        getattr(getattr(layer, part, None), name, None) for part, names in parts.items() for name in names
    ]
    norms = [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]
    return (
        all(type(part) is nn.Linear for part in linears)
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
        and hasattr(layer.mlp, "act_fn")
    )


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether a padded prompt and two steps after it give the log-probabilities of transformers' whole pass.

    The trial is in float32, where rounding hides no difference of form.
    """
    model = copy.deepcopy(model).float().eval()
    tokens = torch.arange(14).view(2, 7) % model.config.get_text_config().vocab_size
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :2] = False
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    try:
        whole = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
        decoder = LeanDecoder(model, mask[:, :5], num_steps=2)
        found = [decoder.read(tokens[:, :5], positions[:, :5])]
        found += [decoder.step(tokens[:, at], positions[:, at : at + 1]) for at in (5, 6)]
    except (AttributeError, TypeError, RuntimeError):
        return False
    distance = whole[:, 4:].log_softmax(-1) - torch.stack(found, 1).log_softmax(-1)
    return bool(distance.abs().max() < TRIAL_BOUND)


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    size = attention.head_dim
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return Layer(
        before_attention=_norm(layer.input_layernorm),
        query_key_value=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=None if query_norm is None else _norm(query_norm),
        key_norm=None if key_norm is None else _norm(key_norm),
        output=(attention.o_proj.weight, attention.o_proj.bias),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=_joined(mlp.gate_proj, mlp.up_proj),
        down=(mlp.down_proj.weight, mlp.down_proj.bias),
        activation=mlp.act_fn,
        scale=attention.scaling,
        heads=attention.q_proj.out_features // size,
        key_heads=attention.k_proj.out_features // size,
        size=size,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _joined(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one linear map in place of several of the same input."""
    weight, biases = torch.cat([part.weight.data for part in linears]), [part.bias for part in linears]
    # Where some have a bias and some not, `cat` raises TypeError, and the trial fails.
    return weight, None if all(bias is None for bias in biases) else torch.cat(biases)
