"""REINFORCE leave-one-out: learns from a reward without a value function, by groups of completions of one prompt.

Follows Ahmadian et al. 2024 (arXiv 2402.14740) by TRL's RLOOTrainer: each completion's baseline is the mean score
of the others of its group, and the KL penalty is part of the score. A control for PPO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.group_settings import INPUTS, GroupSettings, cost, files

if TYPE_CHECKING:
    from pipeline.run import StageRun

__all__ = ["INPUTS", "Config", "cost", "files", "run"]


class Config(GroupSettings):
    """Settings of RLOO: its ratios and its KL penalty are those of whole completions, in nats."""


def run(config: Config, run: StageRun) -> None:
    """Train the policy against the reward; the result is `model/`, a chat model."""
    from trl import RLOOConfig, RLOOTrainer

    from pipeline import trl_online

    trl_online.train(config, run, RLOOTrainer, RLOOConfig)
