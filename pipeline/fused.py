"""Operations of language models in a form that touches memory less: what a vocabulary needs, and RMSNorm.

They are exact: results differ from the plain form in the order of sums only.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CHUNK_NUMBERS = 2**21  # logits computed at a time: 8 MB in float32 stay in a processor's cache


def linear_cross_entropy(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """Mean cross entropy of `hidden @ weight.T` against targets, nats per row, without holding all logits.

    Rows are taken in chunks; where gradients are wanted they are computed together with the loss, chunk by
    chunk, so that no logits are kept or computed twice. The softmax is in float32, also under autocast.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, torch.is_grad_enabled())
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, wanted: bool) -> Tensor:
        dtype = autocast_dtype(hidden) or weight.dtype
        rows, matrix = hidden.to(dtype), weight.to(dtype)
        d_hidden = torch.empty_like(rows) if wanted and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if wanted and ctx.needs_input_grad[1] else None
        softmax_dtype = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=softmax_dtype, device=hidden.device)
        for part in _chunks(rows, matrix):
            chunk, index = rows[part], targets[part, None]
            log_shares = torch.log_softmax(chunk @ matrix.T, dim=-1, dtype=softmax_dtype)
            total -= log_shares.gather(1, index).sum()
            if d_hidden is None and d_weight is None:
                continue
            d_logits = log_shares.exp_()
            d_logits.scatter_add_(1, index, torch.full_like(index, -1, dtype=d_logits.dtype))
            d_logits = d_logits.to(dtype)
            if d_hidden is not None:
                torch.mm(d_logits, matrix, out=d_hidden[part])
            if d_weight is not None:
                d_weight += d_logits.T @ chunk
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.num_rows, ctx.dtype = len(rows), hidden.dtype
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        d_hidden, d_weight = ctx.saved_tensors
        scale = gradients[0] / ctx.num_rows
        d_hidden = None if d_hidden is None else d_hidden.to(ctx.dtype) * scale
        return d_hidden, None if d_weight is None else d_weight * scale, None, None


class TokenLogprobs(NamedTuple):
    """Log-probability of each row's token, and the entropy of its distribution where asked for; in nats."""

    logprobs: Float[Tensor, " rows"]
    entropy: Float[Tensor, " rows"] | None


def linear_logprobs(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    tokens: Int[Tensor, " rows"],
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> TokenLogprobs:
    """Log-probabilities of tokens under `softmax(hidden @ weight.T / temperature)`, without holding all logits.

    Rows are taken in chunks, whose logits are computed again for the gradient: one product more, in place of
    `rows * vocabulary` numbers kept. The softmax is in float32, also under autocast. `entropy` has no gradient.
    """
    assert temperature > 0, f"temperature is {temperature}; it divides the logits"
    found: tuple[Tensor, Tensor] = _LinearLogprobs.apply(hidden, weight, tokens, temperature, entropy)
    return TokenLogprobs(found[0], found[1] if entropy else None)


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        dtype = autocast_dtype(hidden) or weight.dtype
        rows, matrix, index = (hidden / temperature).to(dtype), weight.to(dtype), tokens.long()[:, None]
        softmax_dtype = torch.promote_types(dtype, torch.float32)
        logprobs, entropies = (hidden.new_zeros(len(rows), dtype=softmax_dtype) for _ in range(2))
        for part in _chunks(rows, matrix):
            log_shares = torch.log_softmax(rows[part] @ matrix.T, dim=-1, dtype=softmax_dtype)
            logprobs[part] = log_shares.gather(1, index[part]).squeeze(1)
            if entropy:
                entropies[part] = torch.special.entr(log_shares.exp_()).sum(dim=-1)
        ctx.save_for_backward(rows, weight, index)
        ctx.temperature, ctx.dtype = temperature, hidden.dtype
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, weight, index = ctx.saved_tensors
        gradient, matrix = gradients[0][:, None], weight.to(rows.dtype)
        d_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for part in _chunks(rows, matrix):
            shares = torch.softmax(rows[part] @ matrix.T, dim=-1, dtype=gradient.dtype)
            d_logits = (
                shares.mul_(-gradient[part]).scatter_add_(1, index[part], gradient[part]).to(rows.dtype)
            )
            if d_rows is not None:
                torch.mm(d_logits, matrix, out=d_rows[part])
            if d_weight is not None:
                d_weight += d_logits.T @ rows[part]
        d_hidden = None if d_rows is None else d_rows.to(ctx.dtype) / ctx.temperature
        return d_hidden, d_weight, None, None, None


def _chunks(rows: Tensor, matrix: Tensor) -> Iterator[slice]:
    """Slices of rows whose logits stay in a processor's cache."""
    size = max(1, CHUNK_NUMBERS // len(matrix))
    for first in range(0, len(rows), size):
        yield slice(first, first + size)


def rms_norm(
    x: Float[Tensor, "*rows width"], weight: Float[Tensor, " width"], eps: float
) -> Float[Tensor, "*rows width"]:
    """Compute `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019, arXiv 1910.07467).

    Under autocast a float32 stream comes out in autocast's type, to which the linear layers behind it would
    cast it anyway.
    """
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.norm(dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        inverse = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        direction = x * inverse
        ctx.save_for_backward(direction, weight, inverse)
        ctx.dtype = x.dtype
        plain = torch.promote_types(x.dtype, weight.dtype)
        return (direction * weight).to(autocast_dtype(x) or plain if x.dtype == torch.float32 else plain)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        direction, weight, inverse = ctx.saved_tensors
        gradient = gradients[0].to(direction.dtype)
        product = (gradient * direction).flatten(0, -2)
        d_weight = product.sum(0).to(weight.dtype)
        along = (product @ weight.to(product.dtype)).view(inverse.shape) / -weight.numel()
        return torch.addcmul(direction * along, gradient, weight).mul_(inverse).to(ctx.dtype), d_weight, None


def fuse_norms(model: nn.Module) -> int:
    """Let a model's RMSNorm modules compute by `rms_norm`; returns how many do.

    A module is taken by its class name and only where both forms agree on a trial input: some architectures
    call a variant RMSNorm.
    """
    count = 0
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor) or eps is None:
            continue
        trial = torch.linspace(-2, 3, 3 * weight.numel(), device=weight.device).view(3, -1)
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            if not torch.allclose(module(trial), rms_norm(trial, weight, eps), rtol=1e-5, atol=1e-6):
                continue
        module.forward = partial(_norm_of, module, eps)
        count += 1
    return count


def _norm_of(module: Any, eps: float, x: Tensor) -> Tensor:
    return rms_norm(x, module.weight, eps)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type that autocast computes products of this tensor's device in, or None where it is off."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
