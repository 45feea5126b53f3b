"""Policy and value function of PPO over one batch of prompt + completion sequences.

Sequences are right-padded, so causal attention needs no mask, and only the counted positions go through the
vocabulary. Everything is aligned with the token it belongs to: `logprobs[b, t]` is the log-probability of
`tokens[b, t]`, and `values[b, t]` the value of the state before it. What is not counted is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.fused import TokenLogprobs, linear_logprobs
from pipeline.rl import entropy_of, logprobs_of
from reward.output_head import is_plain, logits_of, width_of


class Evaluated(NamedTuple):
    """What policy and critic say of each counted token."""

    logprobs: Float[Tensor, "batch time"]
    values: Float[Tensor, "batch time"]
    entropy: Float[Tensor, "batch time"] | None


class Said(NamedTuple):
    """The policy's part of `Evaluated`, and its states before the counted tokens."""

    logprobs: Float[Tensor, "batch time"]
    entropy: Float[Tensor, "batch time"] | None
    hidden: Float[Tensor, "counted width"]


class ActorCritic(nn.Module):
    """A policy with a critic: a value head on the policy's trunk, or on a value model of its own.

    The head starts at zero, so that the first advantages are the returns themselves.
    """

    def __init__(self, policy: PreTrainedModel, value_model: PreTrainedModel | None = None) -> None:
        """Take the policy and, for a separate critic, a headless transformer of the same tokenizer."""
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        trunk = policy.base_model if value_model is None else value_model
        self.value_head = nn.Linear(width_of(trunk), 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        *,
        temperature: float,
        entropy: bool = False,
    ) -> Evaluated:
        """Log-probabilities, values and, where asked for, entropy; in nats at the sampling temperature."""
        said = self.say(tokens, mask, temperature=temperature, entropy=entropy)
        return Evaluated(said.logprobs, self.values(tokens, mask, said.hidden), said.entropy)

    def say(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        *,
        temperature: float,
        entropy: bool = False,
    ) -> Said:
        """The policy's pass alone."""
        hidden = before_counted(self.policy.base_model(input_ids=tokens, use_cache=False)[0], mask)
        found = _logprobs(self.policy, hidden, tokens[mask], temperature=temperature, entropy=entropy)
        spread = None if found.entropy is None else at_counted(found.entropy, mask)
        return Said(at_counted(found.logprobs, mask), spread, hidden)

    def values(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        hidden: Float[Tensor, "counted width"],
    ) -> Float[Tensor, "batch time"]:
        """Values by the critic's own pass where it has a model, else read from the policy's states."""
        if self.value_model is not None:
            hidden = before_counted(self.value_model(input_ids=tokens, use_cache=False)[0], mask)
        return at_counted(self.value_head(hidden).squeeze(-1).float(), mask)


def token_logprobs(
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    temperature: float,
) -> Float[Tensor, "batch time"]:
    """Log-probabilities of the counted tokens under any causal language model, in nats."""
    hidden = before_counted(model.base_model(input_ids=tokens, use_cache=False)[0], mask)
    return at_counted(_logprobs(model, hidden, tokens[mask], temperature=temperature).logprobs, mask)


def _logprobs(
    model: Any,
    hidden: Float[Tensor, "counted width"],
    tokens: Int[Tensor, " counted"],
    *,
    temperature: float,
    entropy: bool = False,
) -> TokenLogprobs:
    """What a model says of tokens after states; with a plain linear head without holding all logits."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.bias is None and is_plain(model):
        return linear_logprobs(hidden, head.weight, tokens, temperature=temperature, entropy=entropy)
    logits = logits_of(model, hidden)
    logprobs = logprobs_of(logits, tokens, temperature=temperature)
    return TokenLogprobs(logprobs, entropy_of(logits.detach(), temperature=temperature) if entropy else None)


def before_counted(
    hidden: Float[Tensor, "batch time width"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "counted width"]:
    """The states that predict the counted tokens: those one position before. The first token is never counted."""
    return hidden[:, :-1][mask[:, 1:]]


def at_counted(
    flat: Float[Tensor, " counted"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Lay a flat list of counted tokens out over the batch; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
