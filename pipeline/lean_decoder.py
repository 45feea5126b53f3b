"""Decoding steps of a Llama-type model in few, large operations, for CPUs.

transformers' own step is made of some fifty small operations a layer, and of attention whose key-value cache has
gaps that matrix products in bfloat16 must copy away. Here the projections of queries, keys and values are one
product, as are gate and up projection; the cache has no gaps; and the residual stream is in float32, as in
training under autocast. A model qualifies by its parts, and by a trial on which both forms must agree.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import Cache, DynamicCache, PreTrainedModel

BLOCK = 32  # positions that the cache grows by
# The fused weights are copies, which would double the memory of a large model.
MOST_PARAMETERS = 10**8
# Largest distance of a trial's log-probabilities, nats: the order of sums differs (by 2e-6 where seen).
TRIAL_BOUND = 1e-4
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


@dataclass
class Kept:
    """Keys and values of a layer so far, each (batch, key heads, capacity, size)."""

    keys: Tensor
    values: Tensor


class LeanDecoder:
    """Decoding steps that go on from a cache which transformers has filled with the prompts."""

    def __init__(
        self, model: Any, cache: Cache, mask: Bool[Tensor, "batch time"], like: LeanDecoder | None = None
    ) -> None:
        """Take the cache, the mask of its left-padded prompts, and copies of the weights or those of `like`."""
        trunk = model.model
        self.embedding, self.head = trunk.embed_tokens.weight, model.lm_head
        self.norm, self.rotary = _norm(trunk.norm), trunk.rotary_emb
        self.length = mask.shape[1]
        self.layers: list[Layer] = like.layers if like else [_layer(layer) for layer in trunk.layers]
        self.kept = [Kept(layer.keys.contiguous(), layer.values.contiguous()) for layer in cache.layers]
        self.bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)

    def step(
        self, tokens: Int[Tensor, " batch"], positions: Int[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logits after one more token of each row."""
        if self.length == self.bias.shape[1]:
            self._grow()
        self.bias[:, self.length] = 0
        x = self.embedding[tokens].float()
        cos, sin = self.rotary(x[:, None], positions)
        for layer, kept in zip(self.layers, self.kept, strict=True):
            x += linear(self._attend(layer, kept, layer.before_attention(x), cos, sin), *layer.output)
            gate, up = linear(layer.before_mlp(x), *layer.gate_up).chunk(2, dim=-1)
            x += linear(layer.activation(gate).mul_(up), *layer.down)
        self.length += 1
        logits: Tensor = self.head(self.norm(x))
        return logits

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all rows but these."""
        self.bias = self.bias[rows]
        for kept in self.kept:
            kept.keys, kept.values = kept.keys[rows], kept.values[rows]

    def trim(self) -> None:
        """Drop the first positions that no row needs."""
        used = (self.bias[:, : self.length] == 0).any(dim=0).nonzero()
        first = int(used[0]) if len(used) else 0
        if first:
            self.bias, self.length = self.bias[:, first:], self.length - first
            for kept in self.kept:
                kept.keys, kept.values = (x[:, :, first:].contiguous() for x in (kept.keys, kept.values))

    def join(self, other: LeanDecoder) -> None:
        """Take the rows of another decoder of the same model behind its own; the ends of both meet."""
        length = max(self.length, other.length)
        biases = [
            nn.functional.pad(x.bias[:, : x.length], (length - x.length, 0), value=-torch.inf)
            for x in (self, other)
        ]
        self.bias = torch.cat(biases)
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

    def _attend(self, layer: Layer, kept: Kept, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What the heads read at the new position, which joins the cache."""
        batch, heads, key_heads = len(x), layer.heads, layer.key_heads
        projected = linear(x, *layer.query_key_value).view(batch, heads + 2 * key_heads, -1)
        query, key, value = projected.split((heads, key_heads, key_heads), dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = layer.query_norm(query.float()), layer.key_norm(key.float())
            turned = torch.cat((query, key), dim=1)
        else:
            turned = projected[:, : heads + key_heads]
        half = turned.shape[-1] // 2
        crossed = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
        query, kept.keys[:, :, self.length] = (turned * cos + crossed * sin).split((heads, key_heads), dim=1)
        kept.values[:, :, self.length] = value

        keys, values = kept.keys.flatten(0, 1), kept.values.flatten(0, 1)
        query = query.to(keys.dtype).reshape(len(keys), heads // key_heads, -1)
        # The faster of two equal products: by rows of keys in bfloat16, by the query in float32.
        by_rows = keys.dtype == torch.bfloat16
        scores = (keys @ query.mT).mT if by_rows else query @ keys.mT
        scores = scores.float().mul_(layer.scale).view(batch, heads, -1).add_(self.bias[:, None])
        weights = scores.softmax(dim=-1).to(values.dtype).view(len(keys), heads // key_heads, -1)
        return (weights @ values).view(batch, -1)

    def _grow(self) -> None:
        """Make room for a block of positions, masked until they are filled."""
        self.bias = nn.functional.pad(self.bias, (0, BLOCK), value=-torch.inf)
        for kept in self.kept:
            kept.keys, kept.values = (
                nn.functional.pad(x, (0, 0, 0, BLOCK)) for x in (kept.keys, kept.values)
            )


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
    """Whether two steps after a padded prompt give the log-probabilities of transformers' whole pass.

    The trial is in float32, where rounding hides no difference of form.
    """
    model = copy.deepcopy(model).float().eval()
    tokens = torch.arange(14).view(2, 7) % model.config.get_text_config().vocab_size
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :2] = False
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    try:
        whole = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
        cache = DynamicCache(config=model.config)
        model(
            input_ids=tokens[:, :5],
            attention_mask=mask[:, :5],
            position_ids=positions[:, :5],
            past_key_values=cache,
            use_cache=True,
        )
        decoder = LeanDecoder(model, cache, mask[:, :5])
        steps = [decoder.step(tokens[:, at], positions[:, at : at + 1]) for at in (5, 6)]
    except (AttributeError, TypeError, RuntimeError):
        return False
    expected, found = whole[:, 5:].log_softmax(-1), torch.stack(steps, 1).log_softmax(-1)
    return bool((expected - found).abs().max() < TRIAL_BOUND)


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
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _joined(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one linear map in place of several of the same input."""
    weight, biases = torch.cat([part.weight.data for part in linears]), [part.bias for part in linears]
    # Where some have a bias and some not, `cat` raises TypeError, and the trial fails.
    return weight, None if all(bias is None for bias in biases) else torch.cat(biases)
