"""The maths of reinforcement learning from a reward on completions: pure functions, no state, no randomness.

Sources: Schulman et al. 2016 (GAE, arXiv 1506.02438), Schulman et al. 2017 (PPO, 1707.06347), Schulman 2020
("Approximating KL divergence"), Ziegler et al. 2019 (1909.08593), Huang et al. 2024 (2403.17031).

Notation: everything per token is (batch, time) and aligned with the token that it belongs to; `mask` is True
where a token counts. What is not counted changes no result and comes back as 0. Logarithms are natural.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Log-ratios are clamped before they are exponentiated: e^20 is beyond any healthy ratio, far below overflow.
MAX_LOG_RATIO = 20.0


class Advantages(NamedTuple):
    """Advantages and the returns that the value function is fitted to."""

    advantages: Float[Tensor, "batch time"]
    returns: Float[Tensor, "batch time"]


class PolicyLoss(NamedTuple):
    """The clipped policy loss and what to watch; all but `loss` are detached.

    `clipfrac` is the share of counted tokens where the clipped term is the larger loss, `approx_kl` the mean
    k3 estimate of KL(old || new) per token, `max_ratio_deviation` the largest |ratio - 1|.
    """

    loss: Float[Tensor, ""]
    clipfrac: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    max_ratio_deviation: Float[Tensor, ""]


class ValueLoss(NamedTuple):
    """The clipped value loss, and the share of counted tokens whose clipped term is the larger (detached)."""

    loss: Float[Tensor, ""]
    clipfrac: Float[Tensor, ""]


# --- log-probabilities -----------------------------------------------------------------------------------


def logprobs_of(
    logits: Float[Tensor, "*batch vocabulary"], tokens: Int[Tensor, "*batch"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Log-probability of each token, always in float32: `log_softmax(logits / temperature)[token]`.

    `temperature` > 0 must be the one that the tokens were sampled at, in every pass over them.
    """
    assert temperature > 0, f"temperature is {temperature}; it divides the logits"
    normalised = torch.log_softmax(logits.float() / temperature, dim=-1)
    return normalised.gather(-1, tokens.unsqueeze(-1).long()).squeeze(-1)


def entropy_of(
    logits: Float[Tensor, "*batch vocabulary"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Entropy `-sum p log p` of the distribution that tokens are sampled from, in nats, in float32."""
    assert temperature > 0, f"temperature is {temperature}; it divides the logits"
    normalised = torch.log_softmax(logits.float() / temperature, dim=-1)
    # A banned token has logit -inf: its term is 0, not 0 * -inf.
    return -(normalised.exp() * normalised.clamp(min=torch.finfo(torch.float32).min)).sum(dim=-1)


# --- averages over counted tokens ------------------------------------------------------------------------


def masked_mean(values: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """Mean over the counted tokens of the whole batch; 0 where none counts."""
    return values.where(mask, 0).sum() / mask.sum().clamp(min=1)


def masked_var(values: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """Population variance (divided by n) over the counted tokens; 0 where none counts."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whiten(
    values: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"], *, shift_mean: bool = True
) -> Float[Tensor, "batch time"]:
    """Scale the counted values to variance 1, and shift them to mean 0 unless `shift_mean` is off.

    Off, the mean is kept as it was (not scaled), as for rewards in Ziegler et al. 2019.
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask) + 1e-8)
    return (whitened if shift_mean else whitened + mean).where(mask, 0)


def explained_variance(
    values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> float:
    """Share of the returns' variance that the values predict: `1 - Var(returns - values) / Var(returns)`.

    1 is perfect, 0 a constant, below 0 worse than a constant; nan where the returns do not vary.
    """
    total = masked_var(returns, mask).item()
    return 1 - masked_var(returns - values, mask).item() / total if total > 0 else float("nan")


# --- KL divergence ---------------------------------------------------------------------------------------


def kl_k1(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Estimate KL(policy || reference) from tokens of the policy: `log p - log q`; unbiased, of either sign.

    Schulman 2020, estimator k1. The order of the arguments matters: reversed, drift would be rewarded.
    """
    return logprobs - ref_logprobs


def kl_k2(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Estimate KL(policy || reference) by `(log p - log q)^2 / 2`; biased, never negative.

    Schulman 2020, estimator k2.
    """
    return (logprobs - ref_logprobs) ** 2 / 2


def kl_k3(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Estimate KL(policy || reference) by `q/p - 1 - log(q/p)`; unbiased, never negative.

    Schulman 2020, estimator k3. Differs from the source: log(q/p) is clamped to +-20 in the exponential.
    """
    log_ratio = ref_logprobs - logprobs
    # expm1 keeps what exp(x) - 1 loses for the tiny ratios of a first update.
    return torch.expm1(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)) - log_ratio


def adaptive_kl_coef(kl_coef: float, kl: float, *, target: float, horizon: float, num_episodes: int) -> float:
    """Steer the KL coefficient: `kl_coef (1 + e num_episodes / horizon)`, e = clip(kl/target - 1, -0.2, 0.2).

    `kl` and `target` are nats per completion, `num_episodes` the completions since the last call, `horizon`
    is in completions. Ziegler et al. 2019, section 2.2 (there horizon = num_episodes / K_beta).
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_episodes / horizon)


# --- rewards and advantages ------------------------------------------------------------------------------


def replace_unended_scores(
    scores: Float[Tensor, " batch"], ended: Bool[Tensor, " batch"], *, unended_score: float
) -> Float[Tensor, " batch"]:
    """Replace (not lower) the score of each completion without an end by a constant.

    Ziegler et al. 2019, section 3.1.1.
    """
    return scores.where(ended, unended_score)


def token_rewards(
    logprobs: Float[Tensor, "batch time"],
    ref_logprobs: Float[Tensor, "batch time"],
    scores: Float[Tensor, " batch"],
    mask: Bool[Tensor, "batch time"],
    *,
    kl_coef: float,
) -> Float[Tensor, "batch time"]:
    """Rewards per token: `-kl_coef (logprob - ref_logprob)`, plus the score once, at the last counted token.

    Every row must have a counted token, else its score would be lost.
    """
    assert bool(mask.any(dim=1).all()), "a completion without a counted token has nowhere to put its score"
    penalty = (-kl_coef * kl_k1(logprobs, ref_logprobs)).where(mask, 0)
    return penalty + scores.unsqueeze(1).where(_last_counted(mask), 0)


def gae(
    rewards: Float[Tensor, "batch time"],
    values: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    gamma: float,
    lam: float,
) -> Advantages:
    """Generalised advantage estimation over the counted tokens, without a bootstrap after the last of them.

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  return_t = A_t + V_t, where
    t + 1 is the next counted token and everything after the last one is 0. Schulman et al. 2016, equation 16.
    """
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        counts = mask[:, t]
        advantages[:, t] = advantage.where(counts, 0)
        # A token that does not count hands on what came after it.
        next_advantage = advantage.where(counts, next_advantage)
        next_value = values[:, t].where(counts, next_value)
    return Advantages(advantages, (advantages + values).where(mask, 0))


def monte_carlo_returns(
    rewards: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"], *, gamma: float
) -> Float[Tensor, "batch time"]:
    """Discounted sum of the rewards from each counted token on: the returns of GAE at lambda 1."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0).returns


# --- losses ----------------------------------------------------------------------------------------------


def policy_loss(
    logprobs: Float[Tensor, "batch time"],
    old_logprobs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    clip_range: float,
) -> PolicyLoss:
    """Clipped surrogate loss: the mean of `max(-A ratio, -A clip(ratio, 1 - clip_range, 1 + clip_range))`.

    ratio = exp(logprob - old_logprob), its exponent clamped to +-20. Schulman et al. 2017, equation 7,
    negated to be minimised; the mean is over the counted tokens of the batch.
    """
    log_ratio = (logprobs - old_logprobs).where(mask, 0)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = masked_mean(torch.maximum(unclipped, clipped), mask)
    with torch.no_grad():
        clipfrac = masked_mean((clipped > unclipped).float(), mask)
        approx_kl = masked_mean(kl_k3(old_logprobs, logprobs), mask)
        deviation = (ratio - 1).abs().where(mask, 0).max()
    return PolicyLoss(loss, clipfrac, approx_kl, deviation)


def value_loss(
    values: Float[Tensor, "batch time"],
    old_values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    clip_range_value: float,
) -> ValueLoss:
    """Clipped value loss: `0.5 * mean(max((V - R)^2, (clip(V, V_old +- clip_range_value) - R)^2))`.

    As in lm-human-preferences (Ziegler et al. 2019) and Huang et al. 2024.
    """
    clipped_values = torch.clamp(values, min=old_values - clip_range_value, max=old_values + clip_range_value)
    unclipped = (values - returns) ** 2
    clipped = (clipped_values - returns) ** 2
    loss = 0.5 * masked_mean(torch.maximum(unclipped, clipped), mask)
    with torch.no_grad():
        clipfrac = masked_mean((clipped > unclipped).float(), mask)
    return ValueLoss(loss, clipfrac)


def _last_counted(mask: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """True at the last counted token of each row."""
    counted_from_here = mask.flip(1).cumsum(1).flip(1)
    return mask & (counted_from_here == 1)
