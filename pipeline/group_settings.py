"""Settings and costs that the stages share which sample groups of completions and learn by a TRL trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.recipe import Cost, CostContext, Input
from pipeline.shared_costs import of_episodes
from reward.functions import learned_alone, own_files

INPUTS = {
    "corpus": Input("corpus"),
    "policy": Input("sft"),
    "reward": Input("reward", many=True, optional=True),
}


class GroupSettings(Settings):
    """Settings of a stage that learns from groups of completions; a completion is one episode."""

    rewards: types.EpisodeRewards = Field(default_factory=learned_alone)
    unended_score: types.UnendedScore = types.UNENDED_SCORE
    kl_coef: Annotated[float, Field(ge=0, description="Weight of the KL penalty")] = 0.05
    num_episodes: types.NumEpisodes = 8_192
    batch_size: types.EpisodeBatch = 256
    group_size: Annotated[int, Field(gt=1, description="Completions of one prompt")] = 4
    temperature: types.SamplingTemperature = 0.7
    max_new_tokens: types.MaxNewTokens = 64
    num_epochs: types.BatchEpochs = 1
    micro_batch_size: types.EpisodeMicroBatch = 64
    clip_range: Annotated[float, Field(gt=0, lt=1, description="Largest rewarded change of a ratio")] = 0.2
    optimizer: types.Optimizer = "adamw"
    learning_rate: types.SmallModelRate = 1e-6
    warmup_share: types.WarmupShare = 0.0
    schedule: types.Schedule = "linear"
    weight_decay: types.WeightDecay = 0.0
    max_grad_norm: types.MaxGradNorm = 1.0
    checkpoint_every: Annotated[
        int, Field(gt=0, description="Steps from checkpoint to checkpoint; a multiple of num_epochs")
    ] = 10

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.num_episodes < self.batch_size:
            raise ValueError(f"num_episodes {self.num_episodes} is less than one batch of {self.batch_size}")
        for name in ("group_size", "micro_batch_size"):
            if self.batch_size % getattr(self, name):
                raise ValueError(
                    f"batch_size {self.batch_size} is not a multiple of {name} {getattr(self, name)}"
                )
        if self.checkpoint_every % self.num_epochs:
            raise ValueError(
                f"checkpoint_every {self.checkpoint_every} is not a multiple of num_epochs {self.num_epochs}: a "
                "checkpoint between two passes would lose the batch"
            )
        return self


def files(config: GroupSettings, data_root: Path | None) -> list[Path]:
    """The rewards in Python files of the user's own."""
    return own_files(config.rewards)


def cost(config: GroupSettings, context: CostContext) -> Cost:
    """One step is one pass over a batch of episodes."""
    parameters, judging, length, note = of_episodes(config, context)
    num_batches = config.num_episodes // config.batch_size
    tokens = num_batches * config.batch_size * length
    return Cost(
        steps=num_batches * config.num_epochs,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=20 * parameters + 4 * judging,
        disk_bytes=4 * parameters * (1 + 2 * 3),
        # Sampling, scores, old and reference log-probabilities, and the updates.
        flops=float(tokens)
        * (3 * 2 * parameters + 2 * judging + (2 * 2 + config.num_epochs * 6) * parameters),
        note=note,
    )
