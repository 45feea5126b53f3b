"""Causal attention over short sequences as batched matrix products, for CPUs.

PyTorch's kernel for CPUs computes attention block by block, which saves memory on long sequences. On short ones
two plain products with a softmax between are faster, above all backwards in bfloat16, whose matrix units the
kernel leaves idle. The attention weights are kept for the gradient: `heads * time` numbers a token.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from pipeline.fused import autocast_dtype

NAME = "short"  # as transformers knows this attention
LONGEST = 256  # tokens of a sequence that is short: its weights are at most four times a head's numbers of 64


def attend(
    module: Any,
    query: Float[Tensor, "batch heads time size"],
    key: Float[Tensor, "batch key_heads keys size"],
    value: Float[Tensor, "batch key_heads keys size"],
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Float[Tensor, "batch time heads size"], None]:
    """Attention as transformers calls it: by `causal_attention` where that is faster, else by `sdpa`."""
    if attention_mask is None and _is_short(module, query, key, value, settings):
        scale = settings.get("scaling")
        output = causal_attention(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
        return output, None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


def _is_short(module: Any, query: Tensor, key: Tensor, value: Tensor, settings: dict[str, Any]) -> bool:
    """Whether this is plain causal attention of a short sequence to itself."""
    causal = settings.get("is_causal")
    return (
        1 < query.shape[2] == key.shape[2] <= LONGEST
        and key.shape == value.shape
        and query.device.type == "cpu"
        and not settings.get("dropout")
        and settings.get("position_bias") is None
        and settings.get("softcap") is None
        and settings.get("cache") is None
        and bool(getattr(module, "is_causal", True) if causal is None else causal)
    )


def causal_attention(
    query: Float[Tensor, "batch heads time size"],
    key: Float[Tensor, "batch key_heads time size"],
    value: Float[Tensor, "batch key_heads time size"],
    scale: float,
) -> Float[Tensor, "batch time heads size"]:
    """Compute `softmax(scale * query @ key.T) @ value` over each position and those before it.

    `heads` is a multiple of `key_heads`, each of which serves as many heads in a row (Ainslie et al. 2023, arXiv
    2305.13245). Under autocast the products are in its type, like those of `sdpa`.
    """
    output: Tensor = _CausalAttention.apply(query, key, value, scale)
    return output


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        dtype = autocast_dtype(query) or query.dtype
        batch, heads, time, size = query.shape
        groups = batch * key.shape[1]
        q, k, v = (_contiguous(x, dtype).view(groups, -1, size) for x in (query, key, value))
        future = _future(time, heads // key.shape[1], dtype)
        weights = torch.softmax(torch.baddbmm(future, q, k.mT, alpha=scale), dim=-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.like = scale, [(x.shape, x.dtype) for x in (query, key, value)]
        return (weights @ v).view(batch, heads, time, size).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, weights = ctx.saved_tensors
        gradient = _contiguous(gradients[0].transpose(1, 2), v.dtype).view(q.shape)
        d_value = weights.mT @ gradient
        d_scores = torch._softmax_backward_data(gradient @ v.mT, weights, -1, weights.dtype)
        d_query = (d_scores @ k).mul_(ctx.scale)
        d_key = (d_scores.mT @ q).mul_(ctx.scale)
        found = zip((d_query, d_key, d_value), ctx.like, strict=True)
        return *(x.view(shape).to(dtype) for x, (shape, dtype) in found), None


def _contiguous(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in a type and without gaps, in one pass over it."""
    if x.dtype == dtype and x.is_contiguous():
        return x
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)


@lru_cache(maxsize=LONGEST)
def _future(time: int, repeats: int, dtype: torch.dtype) -> Float[Tensor, "rows time"]:
    """Minus infinity where a key comes after its query, else 0; once for each head of a group."""
    with torch.inference_mode(False):  # where it is asked for first, it serves for gradients later
        return torch.full((time, time), -torch.inf, dtype=dtype).triu(1).repeat(repeats, 1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
