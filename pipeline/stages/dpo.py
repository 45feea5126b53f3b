"""Direct preference optimisation: learns from preference pairs without a reward model or sampling.

Follows Rafailov et al. 2023 (arXiv 2305.18290) by TRL's DPOTrainer: the log-ratio of the policy to the SFT model,
times beta, is a reward of its own, and Bradley-Terry is its loss. A control for PPO at equal preference data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.recipe import Cost, CostContext, Input
from pipeline.shared_costs import of_pairs

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"preferences": Input("preferences", many=True), "policy": Input("sft")}


class Config(Settings):
    """Settings of direct preference optimisation."""

    beta: Annotated[
        float, Field(gt=0, description="Score per nat of log-ratio: larger stays nearer to the SFT model")
    ] = 0.1
    loss: Annotated[
        Literal["sigmoid", "ipo"],
        Field(description="Bradley-Terry, or the squared loss of IPO, which bounds the log-ratio"),
    ] = "sigmoid"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=0.5, description="Share of labels held to be wrong (conservative DPO)")
    ] = 0.0
    epochs: types.PairEpochs = 1
    batch_size: types.PairBatch = 32
    micro_batch_size: types.PairMicroBatch = 32
    max_length: types.MaxPairLength = None
    optimizer: types.Optimizer = "adamw"
    learning_rate: types.SmallModelRate = 1e-6
    warmup_share: types.WarmupShare = 0.1
    schedule: types.Schedule = "linear"
    weight_decay: types.WeightDecay = 0.0
    max_grad_norm: types.MaxGradNorm = 1.0
    checkpoint_every: types.CheckpointEvery = 50


def cost(config: Config, context: CostContext) -> Cost:
    """Cost of the pairs; what is kept is the model."""
    return of_pairs(config, context, num_models=1)


def run(config: Config, run: StageRun) -> None:
    """Train the policy on the pairs; the result is `model/`, a chat model."""
    from pipeline import dpo
    from pipeline.language_model import LanguageModel, publish_model
    from pipeline.pairs import plan, read_pairs

    # 1. The policy and its frozen start, the pairs as tokens.
    policy = LanguageModel.load(run.inputs["policy"], device=run.device)
    reference = LanguageModel.load(run.inputs["policy"], device=run.device)
    pairs = read_pairs(config, run, policy)
    batches = plan(config, run, pairs)
    run.note(num_steps=batches.num_steps)

    # 2. Training from the newest checkpoint.
    trained = dpo.train(config, run, batches, policy, reference, pairs)

    # 3. The chat model, and how it orders the held-out pairs by its own log-ratio.
    publish_model(run, trained, policy.tokenizer)
    dpo.measure(config, run, trained, reference, pairs)
