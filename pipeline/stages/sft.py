"""Supervised fine-tuning on conversations: teaches the pretrained model to answer, and to stop.

The loss counts what the assistant says, its end token included, and nothing else (Ouyang et al. 2022, section
3.5); pretraining documents can be mixed in, of which every token counts. Trains all weights, the last layer, or
low-rank adapters (Hu et al. 2021), by TRL's SFTTrainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"corpus": Input("corpus"), "policy": Input(("pretrain", "pretrained"))}
TOKENS_PER_CHAT = 34  # of the closed world's conversations, for the plan


class Config(Settings):
    """Settings of supervised fine-tuning."""

    trainable: Annotated[
        Literal["all", "last_layer", "lora"],
        Field(
            description="Which weights learn: all, the last layer with what follows it, or low-rank adapters"
        ),
    ] = "all"
    epochs: Annotated[int, Field(gt=0, le=1000, description="Passes over the conversations")] = 3
    batch_size: Annotated[int, Field(gt=0, description="Rows in one step, over all processes")] = 32
    micro_batch_size: Annotated[
        int, Field(gt=0, description="Rows in one pass of one process; halved when memory runs out")
    ] = 32
    max_length: Annotated[
        int | None, Field(gt=1, description="Longest row, tokens; longer ones are dropped; null: the context")
    ] = None
    pretrain_share: Annotated[
        float, Field(ge=0, lt=1, description="Share of the tokens that come from pretraining documents")
    ] = 0.0
    optimizer: types.Optimizer = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1, description="At its highest, of AdamW and of Muon")] = (
        1e-4
    )
    warmup_share: types.WarmupShare = 0.03
    schedule: types.Schedule = "cosine"
    weight_decay: types.WeightDecay = 0.0
    max_grad_norm: types.MaxGradNorm = 1.0
    lora_rank: types.LoraRank = 16
    lora_alpha: types.LoraAlpha = 32.0
    max_new_tokens: Annotated[
        int, Field(gt=0, description="Longest answer in the end-token gate, tokens")
    ] = 96
    gate_prompts: Annotated[
        int, Field(ge=0, description="Held-out prompts answered for the end-token gate; 0 turns it off")
    ] = 64
    min_end_rate: Annotated[
        float, Field(ge=0, le=1, description="Share of those answers that have to end")
    ] = 0.9
    checkpoint_every: types.CheckpointEvery = 50

    @model_validator(mode="after")
    def _lora_alone(self) -> Config:
        self.refuse_without_effect(("lora_rank", "lora_alpha"), setting="trainable", value="lora")
        return self


def cost(config: Config, context: CostContext) -> Cost:
    """Steps and tokens of the closed world's conversations; of other corpora they are not known before."""
    corpus: Any = context.configs.get("corpus")
    policy: Any = context.costs.get("policy")
    chats = corpus.scaled(corpus.demonstrations) if hasattr(corpus, "demonstrations") else 0
    tokens = round(config.epochs * chats * TOKENS_PER_CHAT / (1 - config.pretrain_share))
    parameters = policy.parameters if policy is not None else 0
    return Cost(
        steps=round(tokens / (config.batch_size * TOKENS_PER_CHAT)),
        tokens=tokens,
        parameters=parameters,
        memory_bytes=16 * parameters,
        disk_bytes=4 * parameters * (1 + 2 * 3),  # the model, and two checkpoints with the optimizer's state
        flops=6.0 * parameters * tokens,
        note="" if chats else "the number of conversations is known when the corpus is there",
    )


def run(config: Config, run: StageRun) -> None:
    """Fine-tune; the result is `model/`, a chat model, and with `trainable: lora` also `adapter/`."""
    from pipeline import sft

    # 1. The pretrained model and the rows, encoded; what is too long or has no target is counted.
    model, tokenizer = sft.load(config, run)
    rows = sft.encode(config, run, model, tokenizer)
    plan = sft.plan(config, run, rows)
    run.note(num_steps=plan.num_steps, tokens_per_step=plan.counted_after(plan.num_steps) / plan.num_steps)

    # 2. Training from the newest checkpoint, on the assistant's tokens.
    if run.checkpoints.latest() is None:
        run.log(0, held_out_loss=sft.held_out_loss(model, tokenizer, run))
    trained = sft.train(config, run, plan, rows, model, tokenizer)

    # 3. The chat model; adapters are merged into it and kept beside it.
    sft.publish(config, run, trained, tokenizer)

    # 4. Gates: held-out loss of the answers, and whether greedy answers end.
    sft.gates(config, run, plan.num_steps)
