"""Group relative policy optimisation: learns from a reward by its z-score among completions of one prompt.

Follows Shao et al. 2024 (arXiv 2402.03300) by TRL's GRPOTrainer: the advantage of every token is the completion's
score less its group's mean, over the group's deviation; the KL penalty is part of the loss. A control for PPO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.group_settings import INPUTS, GroupSettings, cost, files

if TYPE_CHECKING:
    from pipeline.run import StageRun

__all__ = ["INPUTS", "Config", "cost", "files", "run"]


class Config(GroupSettings):
    """Settings of GRPO: its ratios and its KL penalty are those of single tokens, in nats."""

    loss: Annotated[
        Literal["grpo", "dr_grpo", "dapo"],
        Field(description="Mean over each completion's tokens, over the longest length, or over all tokens"),
    ] = "grpo"
    scale: Annotated[
        Literal["group", "batch", "none"], Field(description="Whose deviation divides the advantages")
    ] = "group"


def run(config: Config, run: StageRun) -> None:
    """Train the policy against the reward; the result is `model/`, a chat model."""
    from trl import GRPOConfig, GRPOTrainer

    from pipeline import trl_online

    trl_online.train(config, run, GRPOTrainer, GRPOConfig, loss_type=config.loss, scale_rewards=config.scale)
