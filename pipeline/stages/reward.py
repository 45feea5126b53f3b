"""Reward model: learns from preference pairs which completions people, or gold, like better.

Starts from the SFT weights with a scalar head and is trained by TRL's RewardTrainer on the Bradley-Terry loss,
one epoch by default: more overfits (Ouyang et al. 2022, appendix C.2). The heads, which are new, learn alone
before that (linear probing, then fine-tuning: Kumar et al. 2022). By default it also sees how likely the SFT
model finds each token of the completion, after the prompt and by itself. Its normalisation, by which the SFT
model's completions score 0 on average with variance 1, is stored with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.recipe import Cost, CostContext, Input
from pipeline.shared_costs import of_pairs

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"preferences": Input("preferences", many=True), "policy": Input("sft")}


class Config(Settings):
    """Settings of the reward model."""

    features: Annotated[
        Literal["likelihood", "none"],
        Field(description="What it sees beside the text: the SFT model's likelihoods, or nothing"),
    ] = "likelihood"
    trainable: Annotated[
        Literal["all", "lora"],
        Field(description="All weights, or a low-rank adapter on the frozen SFT model, which PPO can share"),
    ] = "all"
    lora_rank: types.LoraRank = 16
    lora_alpha: types.LoraAlpha = 32.0
    epochs: types.PairEpochs = 1
    batch_size: types.PairBatch = 32
    micro_batch_size: types.PairMicroBatch = 32
    max_length: types.MaxPairLength = None
    learning_rate: Annotated[float, Field(gt=0, le=1, description="Of the backbone, at its highest")] = 1e-4
    head_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="Of the heads, at its highest, where all weights learn")
    ] = 3e-3
    head_epochs: Annotated[
        int,
        Field(
            ge=0, description="Passes over the pairs in which the heads alone learn, before all weights do"
        ),
    ] = 15
    head_epochs_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="Of the heads in these passes, at its highest")
    ] = 1e-2
    warmup_share: types.WarmupShare = 0.05
    schedule: types.Schedule = "cosine"
    weight_decay: types.WeightDecay = 0.0
    max_grad_norm: types.MaxGradNorm = 1.0
    normalise_prompts: types.NormalisePrompts = 256
    temperature: types.NormaliseTemperature = 0.7
    max_new_tokens: types.NormaliseTokens = 64
    control_pairs: Annotated[
        int, Field(ge=0, description="Training pairs of the shuffled-label control; 0 turns it off")
    ] = 512
    checkpoint_every: types.CheckpointEvery = 50

    @model_validator(mode="after")
    def _lora_alone(self) -> Config:
        self.refuse_without_effect(("lora_rank", "lora_alpha"), setting="trainable", value="lora")
        return self


def cost(config: Config, context: CostContext) -> Cost:
    """Cost of the pairs and of the control; what is kept are the model and its reference."""
    readings = 2 if config.head_epochs else 1
    return of_pairs(config, context, num_models=2, num_control=config.control_pairs, num_readings=readings)


def run(config: Config, run: StageRun) -> None:
    """Train and measure; the result is `model/` (see `reward.model`) and records.jsonl of the held-out pairs."""
    from pipeline import reward_training as training
    from pipeline.pairs import plan, read_pairs
    from pipeline.reward_report import report

    # 1. The SFT model, the pairs as tokens, and how likely it found each completion.
    policy = training.load_policy(run)
    pairs = read_pairs(config, run, policy)
    model = training.new_model(config, run)
    known = training.likelihoods(config, run, policy, pairs)
    training.standardise(model, pairs, known)

    # 2. Bradley-Terry over the training pairs: the heads alone, then all weights, from the newest checkpoint.
    batches = plan(config, run, pairs)
    run.note(num_steps=batches.num_steps)
    if run.checkpoints.latest() is None:
        training.fit_heads(config, run, model, pairs, known, range(0, 2 * pairs.num_train, 2))
    training.train(config, run, batches, model, pairs, known, policy.tokenizer)

    # 3. Normalise by the SFT model's own completions, and store that with the model.
    training.attach(model, policy)
    training.normalise(config, run, model, policy, pairs)
    with run.publish("model") as folder:
        model.save(folder, policy.tokenizer)

    # 4. Held-out accuracy, beside what shuffled labels and length alone give.
    held_out = training.score_held_out(run, model, pairs)
    control = training.shuffled_control(config, run, policy, pairs, known)
    report(run, pairs.held_out, pairs.held_out_rows, held_out, control, scale=float(model.scale))
