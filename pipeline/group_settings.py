"""Settings and costs that the stages share which sample groups of completions and learn by a TRL trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline.recipe import Cost, CostContext, Input
from reward.functions import Terms, learned_alone, own_files

INPUTS = {
    "corpus": Input("corpus"),
    "policy": Input("sft"),
    "reward": Input("reward", many=True, optional=True),
}
TOKENS_PER_EPISODE = 35  # of the closed world's prompts with their completions, for the plan


class GroupSettings(Settings):
    """Settings of a stage that learns from groups of completions; a completion is one episode."""

    rewards: Terms = Field(
        default_factory=learned_alone,
        min_length=1,
        description="Rewards by file name in reward/functions, or path; a weight, or `weight` and `settings`",
    )
    unended_score: Annotated[
        float | None,
        Field(description="Replaces the score of a completion without an end; null keeps the score"),
    ] = -1.0
    kl_coef: Annotated[float, Field(ge=0, description="Weight of the KL penalty")] = 0.05
    num_episodes: Annotated[int, Field(gt=0, description="Completions sampled in all")] = 8_192
    batch_size: Annotated[int, Field(gt=1, description="Completions sampled for one step")] = 256
    group_size: Annotated[int, Field(gt=1, description="Completions of one prompt")] = 4
    temperature: Annotated[
        float, Field(gt=0, description="Divides the logits, when sampling and learning")
    ] = 0.7
    max_new_tokens: Annotated[int, Field(gt=0, description="Longest completion, tokens")] = 64
    num_epochs: Annotated[int, Field(gt=0, description="Passes over each batch")] = 1
    micro_batch_size: Annotated[
        int, Field(gt=0, description="Sequences in one forward and backward pass")
    ] = 64
    clip_range: Annotated[float, Field(gt=0, lt=1, description="Largest rewarded change of a ratio")] = 0.2
    optimizer: Annotated[
        Literal["adamw", "muon"], Field(description="AdamW, or Muon on the matrices and AdamW on the rest")
    ] = "adamw"
    learning_rate: Annotated[
        float, Field(gt=0, le=1, description="At its highest; higher for models of a few million parameters")
    ] = 1e-6
    warmup_share: Annotated[float, Field(ge=0, lt=1, description="Share of the steps in which it rises")] = (
        0.0
    )
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], Field(description="How it falls to 0 after the warm-up")
    ] = "linear"
    weight_decay: Annotated[float, Field(ge=0, lt=1, description="Decoupled, of the matrices")] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, description="Gradients are clipped to this norm")] = 1.0
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
    policy: Any = context.costs.get("policy")
    rewards: Any = context.costs.get("reward") if "learned" in config.rewards else None
    known = hasattr(context.configs.get("corpus"), "rl_items")
    length = TOKENS_PER_EPISODE if known else config.max_new_tokens
    parameters = policy.parameters if policy is not None else 0
    # Every reward model has its reference.
    judging = sum(2 * reward.parameters for reward in rewards or () if reward is not None)
    num_batches = config.num_episodes // config.batch_size
    tokens = num_batches * config.batch_size * length
    return Cost(
        steps=num_batches * config.num_epochs,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=20 * parameters + 4 * judging,
        disk_bytes=4 * parameters * (1 + 2 * 3),
        flops=float(tokens)
        * (3 * 2 * parameters + 2 * judging + 2 * 2 * parameters + config.num_epochs * 6 * parameters),
        note="" if known else "counts completions of max_new_tokens without their prompts",
    )
