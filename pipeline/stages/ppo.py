"""Proximal policy optimisation with a value function and a KL penalty, from a reward.

Follows Ziegler et al. 2019 (arXiv 1909.08593), Stiennon et al. 2020 (2009.01325), Ouyang et al. 2022
(2203.02155) and the implementation details of Huang et al. 2024 (2403.17031). Each step samples completions,
scores them, and takes several epochs of clipped updates. The rewards of a completion are a KL penalty on every
token and the score on the last one. Gold, where it is known, is measured, and nothing here learns from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.judge_settings import JudgeSettings
from pipeline.recipe import Cost, CostContext, Input
from pipeline.shared_costs import of_episodes
from reward.functions import learned_alone, own_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ppo_audit import Detail
    from pipeline.run import StageRun

INPUTS = {
    "corpus": Input("corpus"),
    "policy": Input("sft"),
    "reward": Input("reward", many=True, optional=True),
}
# An adapter of rank 16 adds .08 of the parameters to quickstart's model and .02 to GPT-2's; for the plan.
ADAPTER_SHARE = 0.05


class Config(Settings):
    """Settings of PPO; a completion is one episode."""

    # What is optimised
    rewards: types.EpisodeRewards = Field(default_factory=learned_alone)
    unended_score: types.UnendedScore = types.UNENDED_SCORE
    kl_coef: Annotated[
        float, Field(ge=0, description="Weight of the KL penalty per token, score per nat")
    ] = 0.05
    kl_control: Annotated[
        Literal["fixed", "adaptive", "budget"],
        Field(
            description="Hold kl_coef, steer it towards kl_target, or end with the last policy within kl_target"
        ),
    ] = "fixed"
    kl_target: Annotated[
        float, Field(gt=0, description="KL from the starting policy, nats per completion")
    ] = 6.0
    kl_horizon: Annotated[int, Field(gt=0, description="Horizon of the adaptive control, episodes")] = 10_000
    pretrain_coef: Annotated[
        float, Field(ge=0, description="Weight of the language-model loss on pretraining text (PPO-ptx)")
    ] = 0.0
    pretrain_tokens: Annotated[int, Field(gt=0, description="Pretraining tokens mixed into one update")] = (
        2_048
    )
    # Rollout
    num_episodes: types.NumEpisodes = 8_192
    batch_size: types.EpisodeBatch = 256
    temperature: types.SamplingTemperature = 0.7
    max_new_tokens: types.MaxNewTokens = 64
    # Advantages
    gamma: Annotated[float, Field(gt=0, le=1, description="Discount per token")] = 1.0
    lam: Annotated[float, Field(ge=0, le=1, description="Lambda of generalised advantage estimation")] = 0.95
    whiten_advantages: Annotated[bool, Field(description="Scale advantages to mean 0 and variance 1")] = True
    whiten_rewards: Annotated[
        bool, Field(description="Scale token rewards to variance 1, keeping the mean")
    ] = False
    # Update
    value_model: Annotated[
        Literal["separate", "head", "adapters"],
        Field(
            description="A critic of its own, started from the first reward model, or from the policy where none "
            "is learned; a head on the policy; or one frozen trunk with a low-rank adapter for policy and "
            "critic, and none for the reference"
        ),
    ] = "separate"
    lora_rank: types.LoraRank = 16
    lora_alpha: types.LoraAlpha = 32.0
    num_epochs: types.BatchEpochs = 4
    num_minibatches: Annotated[int, Field(gt=0, description="Updates in one pass")] = 1
    micro_batch_size: types.EpisodeMicroBatch = 64
    learning_rate: Annotated[
        float, Field(gt=0, description="Of Adam at its highest; decays linearly to 0")
    ] = 1e-5
    warmup_share: types.WarmupShare = 0.0
    value_head_rate: Annotated[
        float, Field(gt=0, description="Learning rate of the value head, which starts at 0, as a multiple")
    ] = 1.0
    adam_eps: Annotated[float, Field(gt=0, description="Epsilon of Adam")] = 1e-5
    max_grad_norm: types.MaxGradNorm = 1.0
    clip_range: Annotated[
        float, Field(gt=0, lt=1, description="Largest rewarded change of a token's ratio")
    ] = 0.2
    clip_range_value: Annotated[float, Field(gt=0, description="Largest rewarded change of a value")] = 0.2
    value_coef: Annotated[float, Field(ge=0, description="Weight of the value loss")] = 0.1
    # Watch
    stop_approx_kl: Annotated[
        float,
        Field(gt=0, description="A batch's epochs end when one moves the policy by more, nats per token"),
    ] = 0.1
    max_kl: Annotated[
        float, Field(gt=0, description="KL that rolls the run back once, then stops it, nats per completion")
    ] = 50.0
    max_score_drop: Annotated[
        float,
        Field(
            gt=0,
            description="Standard deviations of the first batch's scores by which a later mean may lie below "
            "theirs, beyond chance; past that it does as max_kl",
        ),
    ] = 0.5
    gate_prompts: Annotated[
        int, Field(ge=0, description="Prompts of the gate before PPO; 0 turns it off")
    ] = 32
    gate_samples: Annotated[int, Field(gt=1, description="n of the gate's best-of-n")] = 16
    gate_judge: Annotated[
        JudgeSettings, Field(description="Who compares completions in the gate where there is no gold")
    ] = JudgeSettings()
    keep_peak: Annotated[
        bool, Field(description="Keep the policy at the peak of gold in peak/; nothing learns from gold")
    ] = False
    checkpoint_every: types.CheckpointEvery = 10

    @model_validator(mode="after")
    def _lora_alone(self) -> Config:
        self.refuse_without_effect(("lora_rank", "lora_alpha"), setting="value_model", value="adapters")
        return self

    @model_validator(mode="after")
    def _adaptive_penalty_can_move(self) -> Config:
        if self.kl_control == "adaptive" and not self.kl_coef:
            raise ValueError(
                "kl_coef 0 stays 0 with kl_control: adaptive, which multiplies it; start above 0"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        if self.num_episodes < self.batch_size:
            raise ValueError(f"num_episodes {self.num_episodes} is less than one batch of {self.batch_size}")
        if self.batch_size % self.num_minibatches:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of num_minibatches {self.num_minibatches}"
            )
        return self

    @property
    def num_steps(self) -> int:
        """Batches sampled in all."""
        return self.num_episodes // self.batch_size


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The rewards in Python files of the user's own."""
    return own_files(config.rewards)


def details() -> Sequence[Detail]:
    """The details that decide whether it works, for `fledge explain ppo`."""
    from pipeline.ppo_audit import DETAILS

    return DETAILS


def cost(config: Config, context: CostContext) -> Cost:
    """One step is one batch of episodes; at most, as passes may end early (`stop_approx_kl`)."""
    parameters, judging, length, note = of_episodes(config, context)
    trained = round(
        parameters * {"separate": 2.0, "head": 1.0, "adapters": 2 * ADAPTER_SHARE}[config.value_model]
    )
    tokens = config.num_steps * config.batch_size * length
    last = config.batch_size * length  # of the published policy, for its KL
    judged = tokens + config.gate_prompts * config.gate_samples * length
    num_updates = config.num_steps * config.num_epochs * config.num_minibatches
    mixed = num_updates * config.pretrain_tokens if config.pretrain_coef else 0
    half = 2 * parameters if context.precision == "bfloat16" else 0  # the copy that samples
    return Cost(
        steps=config.num_steps,
        tokens=tokens,
        parameters=parameters,
        # Weights, gradients and two moments of policy and critic; the reference and what judges.
        memory_bytes=16 * trained + 4 * (parameters + judging) + half,
        # The model, its critic where that has a transformer of its own, and two checkpoints.
        disk_bytes=4 * parameters * (1 if config.value_model == "head" else 2) + 2 * 12 * trained,
        # Sampling (a decoding step takes about three times its operations' worth of time), scores, old and
        # reference log-probabilities with values, and the updates.
        flops=float(judged + last) * 3 * 2 * parameters
        + float(judged) * 2 * judging
        + float(tokens + last) * 2 * (trained + parameters)
        + float(tokens) * config.num_epochs * 6 * trained
        + float(mixed) * 6 * parameters,
        note=note,
    )


def run(config: Config, run: StageRun) -> None:
    """Train the policy against the reward; the result is `model/`, a chat model."""
    from pipeline import ppo, ppo_gate, ppo_learner
    from pipeline.errors import TrainingFault

    # 1. Models, rewards, prompts; the state of a run that stopped.
    learner = ppo_learner.make_learner(config, run)
    step = ppo_learner.resume(learner)

    # 2. Can the reward help at all? The best of n must beat a single sample by gold, or by a judge.
    if step == 0 and config.gate_prompts:
        ppo_gate.best_of_n_gate(learner)

    with run.progress("ppo", total=config.num_steps * config.batch_size, unit="episodes") as progress:
        progress.advance(step * config.batch_size)
        saved = step
        while True:
            # 3. Sample completions, score them, compute advantages; after the last update measure its KL alone.
            batch = ppo.experience(learner, step) if step < config.num_steps else None
            kl = batch.measured["kl"] if batch else ppo.final_kl(learner)
            if batch:
                ppo.keep_first_score(learner, batch)

            # 4. The governor: past the limit of KL or score, back to the last healthy checkpoint once, then stop;
            # past a budget, end with the last policy inside it.
            harm = ppo.harm(learner, kl, batch)
            if harm:
                if learner.rolled_back:
                    raise TrainingFault(
                        f"PPO at step {step}: {harm}, after one roll-back. Raise kl_coef (now "
                        f"{learner.kl_coef:g}) or lower learning_rate"
                    )
                run.say(f"PPO at step {step}: {harm}; back to the last healthy policy, more gently")
                saved = step = ppo_learner.roll_back(learner)
                continue
            if config.kl_control == "budget":
                if kl > config.kl_target:
                    ppo_learner.return_inside(learner)
                    run.note(
                        stopped=f"KL budget of {config.kl_target:g} nats per completion spent at step {step}; "
                        "the policy before it is the result"
                    )
                    break
                ppo_learner.keep_inside(learner)
            if batch is None:
                run.note(final_kl=kl)
                break

            # 5. Save a policy that has just shown a healthy KL, and leave when asked to.
            if step != saved and (step % config.checkpoint_every == 0 or run.stop_requested()):
                ppo_learner.save(learner, step)
                saved = step
            run.check_stop()

            # 6. The policy at the peak of gold, for the laboratory of over-optimisation.
            if config.keep_peak and "gold" in batch.measured:
                ppo_learner.keep_peak(learner, step, gold=batch.measured["gold"], kl=kl)

            # 7. Several epochs of clipped updates.
            updated = ppo.update(learner, step, batch)
            ppo.control_kl(learner, kl)
            step += 1
            run.log(step, **batch.measured, **updated)
            progress.advance(config.batch_size, score=batch.measured["score"], kl=kl)

    # 8. The chat model, and what it expected of itself.
    ppo_learner.publish(learner)
    ppo_learner.publish_adapter(learner)
    ppo_learner.publish_critic(learner)
