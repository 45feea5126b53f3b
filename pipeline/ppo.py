"""The steps of PPO for language models: experience, update and control.

`pipeline/stages/ppo.py` is the algorithm that calls them. The maths is in `pipeline/rl.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.chat import decode
from data.collate import pad_right
from data.randomness import torch_generator
from data.rows import Item
from data.sampler import indices
from pipeline import ppo_checks, rl, rollout
from pipeline.actor_critic import token_logprobs
from pipeline.episodes import Scored, UnusableScores
from pipeline.optimizers import rate, set_rate
from pipeline.ppo_learner import Learner
from reward.role_adapters import POLICY


@dataclass(frozen=True)
class Experience:
    """One batch of completions with all that an update needs; arrays are (batch, time)."""

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    old_logprobs: Float[Tensor, "batch time"]
    old_values: Float[Tensor, "batch time"]
    advantages: Float[Tensor, "batch time"]
    returns: Float[Tensor, "batch time"]
    scores: Float[Tensor, " batch"]
    measured: dict[str, float] = field(default_factory=dict)

    def tensors(self, rows: Int[Tensor, " rows"] | slice = slice(None)) -> dict[str, Tensor]:
        """All arrays of these rows by name."""
        named = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {name: value[rows] for name, value in named.items()}


class Sampled(NamedTuple):
    """Completions of one batch, and what the models say of them before they learn."""

    items: list[Item]
    completions: list[list[int]]
    texts: list[str]
    ended: list[bool]
    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    before: Before
    measured: dict[str, float]

    def tensors(self) -> dict[str, Tensor]:
        """Its arrays by the names that they have in `Experience`."""
        return {
            "tokens": self.tokens,
            "mask": self.mask,
            "old_logprobs": self.before.logprobs,
            "old_values": self.before.values,
        }


def experience(learner: Learner, step: int) -> Experience:
    """Sample one batch with the present policy, score it, and compute advantages and returns."""
    config = learner.config
    got = _roll_out(learner, step)
    mask, before = got.mask, got.before
    started = time.perf_counter()
    earned = _score(learner, step, got)
    scored = time.perf_counter()
    rewards = rl.token_rewards(
        before.logprobs, before.reference, earned.scores, mask, kl_coef=learner.kl_coef
    )
    if config.whiten_rewards:
        rewards = rl.whiten(rewards, mask, shift_mean=False)
    advantages, returns = rl.gae(rewards, before.values, mask, gamma=config.gamma, lam=config.lam)
    if config.whiten_advantages:
        advantages = rl.whiten(advantages, mask)
    measured = {
        **earned.means(),
        **got.measured,
        "kl_coef": learner.kl_coef,
        "explained_variance": rl.explained_variance(before.values, returns, mask),
        "score_seconds": scored - started,
    }
    batch = Experience(
        got.tokens, mask, before.logprobs, before.values, advantages, returns, earned.scores, measured
    )
    ppo_checks.check_batch(learner.run, step, batch, got.completions, whitened=config.whiten_advantages)
    return batch


def _score(learner: Learner, step: int, got: Sampled) -> Scored:
    """Score completions; scores that nothing can be learned from stop the run, and their batch is kept."""
    try:
        return learner.rewards.score(
            got.items, got.texts, got.ended, where=f"PPO at step {step}", first=step == 0
        )
    except UnusableScores as fault:
        ppo_checks.stop(learner.run, fault.cause, fault.remedy, got.tensors() | {"scores": fault.scores})


def final_kl(learner: Learner) -> float:
    """KL of the policy after the last update from its start, nats per completion, on a batch of its own."""
    return _roll_out(learner, learner.config.num_steps).measured["kl"]


def _roll_out(learner: Learner, step: int) -> Sampled:
    """Sample the batch of a step with the present policy, and let policy, critic and reference read it."""
    config, run = learner.config, learner.run
    started = time.perf_counter()
    rows = indices(run.seed, step * config.batch_size, config.batch_size, len(learner.items)).tolist()
    prompts = [learner.prompts[row] for row in rows]
    drawn = sample(learner, prompts, keys=[run.key("rollout", step, b) for b in range(config.batch_size)])
    sampled = time.perf_counter()
    completions = drawn.completions()
    tokens, mask = join(prompts, completions, learner.pad_id)
    before = _before(learner, tokens, mask, minibatches(learner, mask, step, epoch=0))
    got = Sampled(
        [learner.items[row] for row in rows],
        completions,
        [decode(learner.tokenizer, completion) for completion in completions],
        drawn.ended.tolist(),
        tokens,
        mask,
        before,
        {
            "kl": ((before.logprobs - before.reference) * mask).sum(dim=1).mean().item(),
            "entropy": rl.masked_mean(before.entropy, mask).item(),
            "length": mask.sum(dim=1).float().mean().item(),
            "ends": drawn.ended.float().mean().item(),
            "sample_seconds": sampled - started,
            "evaluate_seconds": time.perf_counter() - sampled,
        },
    )
    gap = ppo_checks.check_sampling(
        run, step, before.logprobs[mask], drawn.logprobs[drawn.mask], got.tensors()
    )
    got.measured["sampling_gap"] = gap
    return got


def update(learner: Learner, step: int, batch: Experience) -> dict[str, float]:
    """Take `num_epochs` passes of clipped updates over a batch; returns the means of the last pass."""
    config = learner.config
    started = time.perf_counter()
    num_warmup = round(config.warmup_share * config.num_steps)
    multiple = rate("linear", step, num_steps=config.num_steps, num_warmup=num_warmup)
    set_rate(learner.optimizer.param_groups, learner.rate_scale * multiple)
    passes: list[dict[str, float]] = []
    for epoch in range(config.num_epochs):
        updates = [
            _minibatch(learner, batch, chunks, step=step, place=(epoch, number))
            for number, chunks in enumerate(minibatches(learner, batch.mask, step, epoch))
            if not (passes and passes[-1]["approx_kl"] > config.stop_approx_kl)
        ]
        if not updates:
            break
        passes.append({name: sum(u[name] for u in updates) / len(updates) for name in updates[0]})
    return {
        **{name: value for name, value in passes[-1].items() if name != "ratio_deviation"},
        "epochs": float(len(passes)),
        "learning_rate": learner.optimizer.param_groups[0]["lr"],
        "update_seconds": time.perf_counter() - started,
    }


def minibatches(
    learner: Learner, mask: Bool[Tensor, "batch time"], step: int, epoch: int
) -> list[list[Int[Tensor, " rows"]]]:
    """Rows of each minibatch of one pass, freshly permuted, as micro-batches of rows of like length."""
    config = learner.config
    order = torch.randperm(len(mask), generator=torch_generator(learner.run.key("epoch", step, epoch)))
    ends = _ends(mask)
    return [
        list(rows[ends[rows].argsort(stable=True)].split(config.micro_batch_size))
        for rows in order.chunk(config.num_minibatches)
    ]


def _ends(mask: Bool[Tensor, "batch time"]) -> Int[Tensor, " batch"]:
    """One past the last counted token of each row."""
    return mask.shape[1] - mask.flip(1).long().argmax(dim=1)


def _minibatch(
    learner: Learner, batch: Experience, chunks: list[Tensor], *, step: int, place: tuple[int, int]
) -> dict[str, float]:
    """One optimizer step on the micro-batches of a minibatch; `place` is its pass and its number in that."""
    config = learner.config
    rows = torch.cat(chunks)
    total = batch.mask[rows].sum()
    parts: list[tuple[float, dict[str, float]]] = []
    learner.model.eval()  # as when the old log-probabilities were computed: no dropout of any kind
    learner.optimizer.zero_grad(set_to_none=True)
    for chunk in chunks:
        share = (batch.mask[chunk].sum() / total).item()
        measured: dict[str, float] = {}
        for loss, found in _losses(learner, batch, chunk):
            (loss * share).backward()
            measured |= found
        parts.append((share, measured))
    means = {name: sum(share * measured[name] for share, measured in parts) for name in parts[0][1]}
    means["ratio_deviation"] = max(measured["ratio_deviation"] for _, measured in parts)
    if learner.pretrain_rows is not None:
        loss = _pretrain_loss(learner, ("pretrain", step, *place))
        (config.pretrain_coef * loss).backward()
        means["pretrain_loss"] = loss.item()
    norm = torch.nn.utils.clip_grad_norm_(
        learner.model.parameters(), config.max_grad_norm, foreach=True
    ).item()
    means["grad_norm"] = norm
    ppo_checks.check_update(learner.run, means, batch, rows, step=step, first=place == (0, 0))
    learner.optimizer.step()
    return means


def _losses(learner: Learner, batch: Experience, rows: Tensor) -> Iterator[tuple[Tensor, dict[str, float]]]:
    """PPO's loss of one micro-batch, the clipped policy loss plus the clipped value loss, part by part.

    A critic with a pass of its own gives a part of its own, so that the activations of one pass are in memory.
    """
    config, model = learner.config, learner.model
    width = int(_ends(batch.mask[rows]).max())
    tokens, mask, old_logprobs, old_values, advantages, returns = (
        array[rows, :width].to(learner.device)
        for array in (
            batch.tokens,
            batch.mask,
            batch.old_logprobs,
            batch.old_values,
            batch.advantages,
            batch.returns,
        )
    )
    with _autocast(learner):
        said = model.say(tokens, mask, temperature=config.temperature)
    policy = rl.policy_loss(said.logprobs, old_logprobs, advantages, mask, clip_range=config.clip_range)
    measured = {
        "policy_loss": policy.loss.item(),
        "clipfrac": policy.clipfrac.item(),
        "approx_kl": policy.approx_kl.item(),
        "ratio_deviation": policy.max_ratio_deviation.item(),
    }
    if model.value_model is not None:
        yield policy.loss, measured
    with _autocast(learner):
        values = model.values(tokens, mask, said.hidden)
    value = rl.value_loss(values, old_values, returns, mask, clip_range_value=config.clip_range_value)
    loss = config.value_coef * value.loss
    shared = model.value_model is None
    yield (policy.loss + loss if shared else loss), {**measured, "value_loss": value.loss.item()}


def keep_first_score(learner: Learner, batch: Experience) -> None:
    """Keep mean and standard deviation of the scores of the first batch, where they are not kept yet."""
    if learner.first_score is None:
        learner.first_score = (batch.measured["score"], batch.measured["score_std"])


def harm(learner: Learner, kl: float, batch: Experience | None) -> str:
    """What a policy has come to that calls for the governor, in words; empty where it is healthy.

    Its KL (nats per completion) is past the limit, or its mean score is further below that of the first batch
    than `max_score_drop` standard deviations and three standard errors of the difference: a policy that
    unlearned what it could may stay near its start. Without a batch the KL alone is judged.
    """
    config = learner.config
    if kl > config.max_kl:
        return f"the policy is {kl:.1f} nats per completion from its start, above max_kl {config.max_kl:g}"
    if batch is None or learner.first_score is None:
        return ""
    mean, (first, spread) = batch.measured["score"], learner.first_score
    chance = 3 * spread * (2 / config.batch_size) ** 0.5
    if first - mean <= config.max_score_drop * spread + chance:
        return ""
    return (
        f"the mean score fell from {first:.2f} to {mean:.2f}, by more than max_score_drop "
        f"{config.max_score_drop:g} of the first batch's standard deviations of {spread:.2f} and chance"
    )


def control_kl(learner: Learner, kl: float) -> None:
    """Steer `kl_coef` after a batch, where the control is adaptive (Ziegler et al. 2019, section 2.2)."""
    config = learner.config
    if config.kl_control == "adaptive":
        learner.kl_coef = rl.adaptive_kl_coef(
            learner.kl_coef,
            kl,
            target=config.kl_target,
            horizon=config.kl_horizon,
            num_episodes=config.batch_size,
        )


def join(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Right-padded prompt + completion with a mask of the completions' tokens."""
    tokens, _ = pad_right([[*p, *c] for p, c in zip(prompts, completions, strict=True)], pad_id)
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    ends = starts + torch.tensor([len(c) for c in completions])[:, None]
    positions = torch.arange(tokens.shape[1])[None]
    return tokens, (positions >= starts) & (positions < ends)


class Before(NamedTuple):
    """What policy, critic and reference say of each counted token before the update; 0 elsewhere."""

    logprobs: Float[Tensor, "batch time"]
    values: Float[Tensor, "batch time"]
    entropy: Float[Tensor, "batch time"]
    reference: Float[Tensor, "batch time"]


def _before(learner: Learner, tokens: Tensor, mask: Tensor, first_pass: list[list[Tensor]]) -> Before:
    """One pass of policy, critic and reference without gradients, in the micro-batches of the first update."""
    temperature = learner.config.temperature
    before = Before(*(torch.zeros(mask.shape) for _ in Before._fields))
    learner.model.eval()
    for rows in (rows for chunks in first_pass for rows in chunks):
        width = int(_ends(mask[rows]).max())
        inputs = tokens[rows, :width].to(learner.device), mask[rows, :width].to(learner.device)
        with torch.no_grad(), _autocast(learner):
            now = learner.model(*inputs, temperature=temperature, entropy=True)
            reference = token_logprobs(learner.reference, *inputs, temperature=temperature)
        for array, part in zip(before, (*now, reference), strict=True):
            array[rows, :width] = part.float().cpu()
    return before


def sample(learner: Learner, prompts: Sequence[Sequence[int]], keys: Sequence[int]) -> rollout.Rollout:
    """Sample with the present weights, in the run's precision."""
    itself = learner.sampler is learner.model.policy
    if learner.trunk is not None and not itself:
        learner.trunk.merge_into(learner.sampler, POLICY)
    elif not itself:
        learner.sampler.load_state_dict(learner.model.policy.state_dict())
    with _autocast(learner) if itself else nullcontext():
        return rollout.sample(
            learner.sampler,
            prompts,
            keys=keys,
            max_new_tokens=learner.config.max_new_tokens,
            stop_ids=learner.end_ids,
            pad_id=learner.pad_id,
            temperature=learner.config.temperature,
        )


def _pretrain_loss(learner: Learner, purpose: tuple[int | str, ...]) -> Tensor:
    """Mean next-token loss on a keyed draw of packed pretraining rows, nats per token."""
    rows, next_token = learner.pretrain_rows, learner.pretrain_loss
    assert rows is not None
    assert next_token is not None
    num = max(1, learner.config.pretrain_tokens // rows.shape[1])
    chosen = rows[torch.randint(len(rows), (num,), generator=torch_generator(learner.run.key(*purpose)))]
    with _autocast(learner):
        return next_token(chosen.to(learner.device))


def _autocast(learner: Learner) -> AbstractContextManager[Any]:
    return torch.autocast(learner.device.type, torch.bfloat16, enabled=learner.run.precision == "bfloat16")
