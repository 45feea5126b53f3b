"""Passes of a Llama-type model for sampling in few, large operations, for CPUs: of prompts, then token by token.

transformers' own step is made of some fifty small operations a layer, and of attention whose key-value cache has
gaps that matrix products in bfloat16 must copy away. Here the projections of queries, keys and values are one
product, as are gate and up projection; weights are laid out for the products once; the cache has no gaps; the
residual stream is in float32, as in training under autocast; and what lies between the products is done by
`pipeline/decoder_kernel.c` where it can be compiled. A model qualifies by its parts, and by a trial on which
both forms must agree.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from pipeline import decoder_kernel
from pipeline.decoder_operations import Heads, Kept, Norm, Operations, Place
from pipeline.packed_linear import PackedLinear

BLOCK = 32  # positions that the cache grows by
# The fused weights are copies, which would double the memory of a large model.
MOST_PARAMETERS = 10**8
# Largest distance of a trial's log-probabilities, nats: the order of sums differs (by 2e-6 where seen).
TRIAL_BOUND = 1e-4
CHANGING_TURNS = ("dynamic", "longrope")  # rotary embeddings that turn a position otherwise in a longer text
DTYPES = (torch.float32, torch.bfloat16)

_QUALIFIES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass
class Layer:
    """One decoder layer with fused weights."""

    before_attention: Norm
    query_key_value: PackedLinear
    heads: Heads
    output: PackedLinear
    before_mlp: Norm
    gate_up: PackedLinear
    down: PackedLinear
    activation: Any


class LeanDecoder:
    """Reads the prompts of a batch, and goes on from them token by token."""

    def __init__(
        self, model: Any, mask: Bool[Tensor, "batch time"], num_steps: int, like: LeanDecoder | None = None
    ) -> None:
        """Take the mask of left-padded prompts, and copies of the weights or those of `like`.

        There is room for the prompts and `num_steps` tokens; for more it is made as they come.
        """
        trunk = model.model
        self.embedding, self.rotary = trunk.embed_tokens.weight, trunk.rotary_emb
        self.norm = _norm(trunk.norm)
        self.layers: list[Layer] = like.layers if like else [_layer(layer) for layer in trunk.layers]
        self.head: PackedLinear = like.head if like else _packed(model.lm_head)
        self.turns: tuple[Tensor, Tensor] | None = None
        self.operations = _operations(model, self.layers)
        self.first, self.length = (~mask).sum(dim=1), 0
        capacity = mask.shape[1] + (0 if self.operations.reads_all else num_steps)
        self.kept = [self._allocated(layer.heads, capacity, model.dtype) for layer in self.layers]

    @property
    def capacity(self) -> int:
        """Positions that the cache has room for."""
        return self.kept[0].keys.shape[2]

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
        x, added, do = embedding(tokens, self.embedding).float(), None, self.operations
        cos, sin = (embedding(positions, table) for table in self._turns())
        place = Place(self.length, self.first, cos, sin, self.capacity)
        for layer, kept in zip(self.layers, self.kept, strict=True):
            projected = layer.query_key_value(do.add_norm(x, added, layer.before_attention))
            projected = projected.unflatten(2, (-1, layer.heads.size))
            read = do.attend(projected, layer.heads, kept, place).flatten(2)
            if layer is self.layers[-1]:  # the logits need no other position from here on
                x, read = x[:, -1:].contiguous(), read[:, -1:].contiguous()
            both = layer.gate_up(do.add_norm(x, layer.output(read), layer.before_mlp))
            added = layer.down(do.gated(both, layer.activation))
        self.length += count
        logits: Tensor = self.head(do.add_norm(x, added, self.norm))[:, -1]
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

    def _allocated(self, heads: Heads, capacity: int, dtype: torch.dtype) -> Kept:
        shape = (len(self.first), heads.num_key_heads, capacity, heads.size)
        allocate = torch.zeros if self.operations.reads_all else torch.empty
        return Kept(allocate(shape, dtype=dtype), allocate(shape, dtype=dtype))

    def _turns(self) -> tuple[Float[Tensor, "positions size"], Float[Tensor, "positions size"]]:
        """Cosines and sines of the rotary embedding at all positions that the cache has room for."""
        if self.turns is None or len(self.turns[0]) < self.capacity:
            positions = torch.arange(self.capacity)[None]
            cos, sin = self.rotary(self.embedding[:1].float(), positions)
            self.turns = cos[0].contiguous(), sin[0].contiguous()
        return self.turns

    def _make_room(self, count: int) -> None:
        """Make the cache larger by whole blocks, where the new positions need it."""
        missing = self.length + count - self.capacity
        if missing > 0:
            room = -(-missing // BLOCK) * BLOCK
            for kept in self.kept:
                kept.keys, kept.values = (
                    nn.functional.pad(x, (0, 0, 0, room)) for x in (kept.keys, kept.values)
                )


def _operations(model: Any, layers: list[Layer]) -> Operations:
    """The compiled operations for a model, where there are some and all of its heads have one size."""
    sizes = {layer.heads.size for layer in layers}
    kernel = decoder_kernel.load(model.dtype, sizes.pop()) if len(sizes) == 1 else None
    return kernel or Operations()


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
        and getattr(trunk.rotary_emb, "rope_type", "default") not in CHANGING_TURNS
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
    heads = Heads(
        num_heads=attention.q_proj.out_features // size,
        num_key_heads=attention.k_proj.out_features // size,
        size=size,
        scale=attention.scaling,
        query_norm=None if query_norm is None else _norm(query_norm),
        key_norm=None if key_norm is None else _norm(key_norm),
    )
    return Layer(
        before_attention=_norm(layer.input_layernorm),
        query_key_value=_packed(attention.q_proj, attention.k_proj, attention.v_proj),
        heads=heads,
        output=_packed(attention.o_proj),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=_packed(mlp.gate_proj, mlp.up_proj),
        down=_packed(mlp.down_proj),
        activation=mlp.act_fn,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _packed(*linears: Any) -> PackedLinear:
    """One linear map in place of several of the same input."""
    biases = [part.bias for part in linears]
    # Where some have a bias and some not, `cat` raises TypeError, and the trial fails.
    bias = None if all(bias is None for bias in biases) else torch.cat(biases)
    return PackedLinear(torch.cat([part.weight.data for part in linears]), bias)
