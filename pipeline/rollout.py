"""Fast sampling with log-probabilities from any transformers causal language model.

What makes it fast on a CPU: one plain decoding loop, the lean steps of `pipeline/lean_decoder.py` for Llama-type
models, eager attention for single queries of others (`sdpa` with one query is slow there) on a key-value cache
that is allocated once instead of grown by copies, inverse-CDF sampling in place of `torch.multinomial`, and rows
that have ended leave the batch.

Every row draws from its own keyed stream, so a completion does not depend on what else is in the batch, but
for the rounding of matrix products of another shape. Log-probabilities are those of the distribution that the
token was drawn from (temperature, top-k and top-p included), in nats, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from data.collate import pad_left
from data.randomness import uniforms
from pipeline import lean_decoder
from pipeline.decoder_operations import Operations

COMPACT_BELOW = 0.8  # copy the cache to its live rows once fewer than this share of the rows live
GREEDY = 0.0
PLAIN = Operations()


class Rollout(NamedTuple):
    """Completions of a batch of prompts; counted tokens include the token that ended the completion."""

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    logprobs: Float[Tensor, "batch time"]
    ended: Bool[Tensor, " batch"]

    def completions(self) -> list[list[int]]:
        """The counted tokens of each row as lists."""
        return [row[kept].tolist() for row, kept in zip(self.tokens, self.mask, strict=True)]


class Step(NamedTuple):
    """One decoded token for each live row."""

    rows: Int[Tensor, " live"]
    tokens: Int[Tensor, " live"]
    logprobs: Float[Tensor, " live"]
    stopped: Bool[Tensor, " live"]


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    batch_size: int = 256,
) -> Rollout:
    """Sample one completion for each prompt.

    Args:
        model: any causal language model; it is used in evaluation mode.
        prompts: token ids, each of one token or more.
        keys: one key of a random stream for each prompt (see `data.randomness.key`).
        max_new_tokens: the longest completion, in tokens.
        stop_ids: a completion ends with the first of these tokens, which is counted.
        pad_id: fills what is not counted.
        temperature: divides the logits; 0 takes the most likely token (and reports it at temperature 1).
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with this probability; 1 keeps all.
        batch_size: rows decoded together; prompts of like length share a batch.
    """
    num = len(prompts)
    tokens = torch.full((num, max_new_tokens), pad_id, dtype=torch.long)
    mask = torch.zeros((num, max_new_tokens), dtype=torch.bool)
    logprobs = torch.zeros((num, max_new_tokens))
    ended = torch.zeros(num, dtype=torch.bool)
    by_length = sorted(range(num), key=lambda row: (len(prompts[row]), row))
    for start in range(0, num, batch_size):
        rows = torch.tensor(by_length[start : start + batch_size])
        steps = decode(
            model,
            [prompts[row] for row in rows.tolist()],
            keys=[keys[row] for row in rows.tolist()],
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            pad_id=pad_id,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        for position, step in enumerate(steps):
            live = rows[step.rows]
            tokens[live, position] = step.tokens
            mask[live, position] = True
            logprobs[live, position] = step.logprobs
            ended[live] = step.stopped
    width = int(mask.any(dim=0).sum())
    return Rollout(tokens[:, :width], mask[:, :width], logprobs[:, :width], ended)


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator[Step]:
    """Decode one batch token by token; yields the tokens of the rows still live, on the CPU."""
    device = model.device
    draws = torch.from_numpy(uniforms(keys, max_new_tokens)).to(device, torch.float32)
    stops = torch.tensor(sorted(stop_ids), device=device)
    rows = torch.arange(len(prompts), device=device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    was_training = model.training
    model.eval()
    try:
        steps, logits, positions = begin(model, prompts, pad_id=pad_id, num_steps=max_new_tokens - 1)
        for position in range(max_new_tokens):
            drawn, logprob = draw(
                logits,
                draws[rows, position],
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                operations=steps.operations,
            )
            stopped = torch.isin(drawn, stops)
            kept = alive.nonzero().squeeze(1)
            yield Step(rows[kept].cpu(), drawn[kept].cpu(), logprob[kept].cpu(), stopped[kept].cpu())
            alive = alive & ~stopped
            num_alive = int(alive.sum())
            if num_alive == 0 or position + 1 == max_new_tokens:
                return
            positions = positions + 1
            if num_alive < COMPACT_BELOW * len(rows):
                kept = alive.nonzero().squeeze(1)
                steps.keep(kept)
                rows, positions, drawn, alive = (x[kept] for x in (rows, positions, drawn, alive))
            logits = steps.step(drawn, positions)
    finally:
        model.train(was_training)


class Begun(NamedTuple):
    """A batch whose prompts were read: what goes on from them, their last logits and their last positions."""

    decoder: Decoder
    logits: Float[Tensor, "batch vocabulary"]
    positions: Int[Tensor, "batch 1"]


def begin(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    num_steps: int,
    like: Decoder | None = None,
) -> Begun:
    """Read the prompts of a batch, and make room for so many steps after them; `num_steps` 0 takes none.

    `like` is an earlier decoder of the same weights, whose copies of them are taken instead of new ones.
    """
    tokens, mask = (tensor.to(model.device) for tensor in pad_left([list(x) for x in prompts], pad_id))
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    if num_steps and lean_decoder.qualifies(model):
        known = like if isinstance(like, lean_decoder.LeanDecoder) else None
        lean = lean_decoder.LeanDecoder(model, mask.bool(), num_steps, known)
        return Begun(lean, lean.read(tokens, positions), positions[:, -1:])
    cache = _allocated_cache(model, tokens.shape[1] + num_steps)
    logits = _forward(model, tokens, mask, positions, cache, prefill=True)
    return Begun(_Decoder(model, cache, mask), logits, positions[:, -1:])


class Decoder(Protocol):
    """Goes on from a cache that holds the prompts, token by token."""

    @property
    def operations(self) -> Operations:
        """What draws from its logits."""

    def step(
        self, tokens: Int[Tensor, " batch"], positions: Int[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logits after one more token of each row."""

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all rows but these."""

    def trim(self) -> None:
        """Drop the first positions that no row needs, where rows can join."""

    def join(self, other: Self) -> None:
        """Take the rows of another decoder of the same model behind its own; the other is used up."""

    @property
    def joins(self) -> bool:
        """Whether rows can join: a cache of all that came before, not of a window."""


class _Decoder:
    """Steps by transformers itself, for any architecture."""

    operations = PLAIN

    def __init__(self, model: PreTrainedModel, cache: Cache, mask: Tensor) -> None:
        self.model, self.cache, self.mask = model, cache, mask

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        return _forward(self.model, tokens[:, None], self.mask, positions, self.cache, prefill=False)

    def keep(self, rows: Tensor) -> None:
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def trim(self) -> None:
        used = self.mask.bool().any(dim=0).nonzero()
        if self.joins and len(used) and int(used[0]):
            self.mask = self.mask[:, int(used[0]) :]
            for layer in self.cache.layers:
                layer.drop_first(int(used[0]))

    def join(self, other: _Decoder) -> None:
        length = max(self.mask.shape[1], other.mask.shape[1])
        masks = (self.mask, other.mask)
        self.mask = torch.cat([torch.nn.functional.pad(x, (length - x.shape[1], 0)) for x in masks])
        for layer, joining in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.join(joining)

    @property
    def joins(self) -> bool:
        return all(isinstance(layer, _AllocatedLayer) for layer in self.cache.layers)


def draw(
    logits: Float[Tensor, "batch vocabulary"],
    uniform: Float[Tensor, " batch"],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    operations: Operations = PLAIN,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Draw a token from each row by inverting its cumulative distribution at `uniform` in [0, 1).

    Returns the tokens and their log-probabilities in nats. Temperature 0 takes the most likely token.
    `operations` are those of the decoder that the logits are from.
    """
    if temperature == GREEDY:
        logits = logits.float()
        tokens = logits.argmax(dim=-1)
        return tokens, torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None]).squeeze(1)
    if 0 < top_k < logits.shape[-1] or top_p < 1.0:
        logits, temperature = _filtered(logits.float() / temperature, top_k, top_p), 1.0
    return operations.draw(logits, uniform, temperature)


def _filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set what top-k and top-p drop to minus infinity."""
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def _forward(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache, *, prefill: bool
) -> Tensor:
    """Logits of the last position; single queries go through eager attention."""
    with _attention(model, None if prefill else "eager"):
        output = model(
            input_ids=tokens,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return output.logits[:, -1]


@contextmanager
def _attention(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Use another attention implementation for a while.

    The model's own is kept on accelerators, and where it does not take its attention from transformers: there
    the name may change more than the order of sums.
    """
    own = model.config._attn_implementation
    if name is None or model.device.type != "cpu" or not getattr(model, "_supports_attention_backend", False):
        yield
        return
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = own


class _AllocatedLayer(DynamicLayer):
    """A cache layer that reserves its length in blocks, so that a step writes one column and copies nothing."""

    _all_keys: Tensor
    _all_values: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._reserve(key_states[:, :, :0], value_states[:, :, :0])
        end = self.length + key_states.shape[-2]
        if end > self.capacity:
            self.capacity = end + lean_decoder.BLOCK
            self._reserve(self.keys, self.values)
        self._all_keys[:, :, self.length : end] = key_states
        self._all_values[:, :, self.length : end] = value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._show(self.length)

    def drop_first(self, num: int) -> None:
        """Drop the first columns."""
        self._reserve(self.keys[:, :, num:], self.values[:, :, num:])

    def join(self, other: _AllocatedLayer) -> None:
        """Take the rows of another layer behind its own; the ends of both meet."""
        length = max(self.length, other.length)
        self.capacity = length + lean_decoder.BLOCK
        keys, values = (
            torch.cat(
                [
                    lean_decoder.at_end(mine, self.length, length),
                    lean_decoder.at_end(its, other.length, length),
                ]
            )
            for mine, its in ((self.keys, other.keys), (self.values, other.values))
        )
        self._reserve(keys, values)

    def _reserve(self, keys: Tensor, values: Tensor) -> None:
        """Allocate the capacity and fill in what is kept."""
        self._all_keys, self._all_values = (
            x.new_empty((*x.shape[:2], self.capacity, x.shape[-1])) for x in (keys, values)
        )
        self._all_keys[:, :, : keys.shape[2]], self._all_values[:, :, : keys.shape[2]] = keys, values
        self._show(keys.shape[2])

    def _show(self, length: int) -> None:
        self.length = length
        self.keys, self.values = self._all_keys[:, :, :length], self._all_values[:, :, :length]


def _allocated_cache(model: PreTrainedModel, capacity: int) -> Cache:
    """A cache of reserved layers where all layers attend fully, else the model's own kind of cache."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if any(kind != "full_attention" for kind in kinds):
        return DynamicCache(config=model.config)
    return Cache(layers=[_AllocatedLayer(capacity) for _ in kinds])
