"""Pretrains a causal language model of any transformers architecture on the corpus' documents, from scratch.

The documents, each from its begin token to its end token, are packed without padding into rows of one context,
in an order drawn anew for every epoch; attention stays within a document, and the loss is the mean over all
tokens. At the end the held-out loss stands beside an n-gram model and two compressors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"corpus": Input("corpus"), "tokenizer": Input("tokenizer")}
ROTARY_ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "olmo2")  # over the whole head
# Checked with the recipe, without loading transformers; other names are looked up there.
KNOWN_ARCHITECTURES = ("llama", "gpt2", "qwen2", "qwen3", "mistral", "olmo2", "gpt_neox")


class Config(Settings):
    """Settings of pretraining."""

    # The model
    architecture: Annotated[
        str, Field(description="Model type of transformers: llama, gpt2, qwen2, qwen3, mistral, ...")
    ] = "llama"
    width: Annotated[int, Field(gt=0, le=65_536, description="Size of the hidden states")] = 256
    layers: Annotated[int, Field(gt=0, le=1_000, description="Number of layers")] = 4
    heads: Annotated[int, Field(gt=0, le=1_024, description="Attention heads; they divide the width")] = 4
    feed_forward: Annotated[
        int | None,
        Field(
            gt=0, description="Inner size of the feed-forward layers; null: 8/3 of the width, gpt2: 4 times"
        ),
    ] = None
    context: Annotated[int, Field(gt=1, le=1_048_576, description="Longest sequence, tokens")] = 256
    tie_embeddings: Annotated[bool, Field(description="Use the input embeddings as output head")] = True
    architecture_settings: Annotated[
        dict[str, bool | int | float | str | None],
        Field(
            default_factory=dict,
            description="Any other setting of the architecture's own configuration, by its name there",
        ),
    ]
    # Data
    epochs: Annotated[
        float, Field(gt=0, le=1_000, description="Passes over the text, also a part of one")
    ] = 2.0
    batch_tokens: Annotated[
        int, Field(gt=0, description="Tokens of one step over all processes, rounded down to whole rows")
    ] = 4_096
    micro_batch_tokens: Annotated[
        int, Field(gt=0, description="Tokens of one forward and backward pass; halved when memory runs out")
    ] = 16_384
    # Optimisation
    optimizer: Annotated[
        Literal["muon", "adamw"], Field(description="Muon on the matrices and AdamW on the rest, or AdamW")
    ] = "muon"
    learning_rate: Annotated[
        float,
        Field(
            gt=0, le=1, description="At its highest, of AdamW and of Muon; AdamW alone wants about a third"
        ),
    ] = 1e-2
    embedding_rate: Annotated[
        float,
        Field(gt=0, le=100, description="Beside Muon: learning rate of embeddings and norms, as a multiple"),
    ] = 3.0
    weight_decay: types.WeightDecay = 0.1
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "warmup_stable_decay"],
        Field(description="How the learning rate falls after the warm-up"),
    ] = "linear"
    warmup_share: types.WarmupShare = 0.02
    decay_share: Annotated[
        float, Field(gt=0, le=1, description="Share of the steps at the end of warmup_stable_decay")
    ] = 0.2
    final_rate: Annotated[
        float, Field(ge=0, le=1, description="Learning rate at the end, as a multiple of the highest")
    ] = 0.0
    max_grad_norm: types.MaxGradNorm = 1.0
    checkpoint_every: types.CheckpointEvery = 100
    # What is measured at the end
    held_out_tokens: Annotated[
        int, Field(ge=0, description="Held-out text measured, whole documents up to so many tokens; 0: none")
    ] = 100_000
    ngram_order: Annotated[
        int, Field(gt=0, le=8, description="Tokens of the longest n-gram of the floor")
    ] = 5
    num_samples: Annotated[
        int, Field(ge=0, le=1_000, description="Held-out beginnings that are continued")
    ] = 8
    sample_tokens: Annotated[int, Field(gt=0, description="Longest continuation, tokens")] = 48

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} does not divide width {self.width}: {self.width} / {self.heads} = "
                f"{self.width / self.heads:.4g}"
            )
        if self.architecture in ROTARY_ARCHITECTURES and self.width // self.heads % 2:
            raise ValueError(
                f"width {self.width} / heads {self.heads} = {self.width // self.heads} is odd, and "
                f"{self.architecture} turns the numbers of a head in pairs; choose other sizes"
            )
        if self.batch_tokens < self.context:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is less than one row of context {self.context}"
            )
        if self.schedule == "warmup_stable_decay" and self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"warmup_share {self.warmup_share:g} + decay_share {self.decay_share:g} is more than all steps"
            )
        # A resolved recipe writes every default out: only another value was meant to have an effect.
        changed = {
            name for name, info in type(self).model_fields.items() if getattr(self, name) != info.default
        }
        if "embedding_rate" in changed and self.optimizer != "muon":
            raise ValueError(f"embedding_rate has no effect with optimizer: {self.optimizer}")
        if "decay_share" in changed and self.schedule != "warmup_stable_decay":
            raise ValueError(f"decay_share has no effect with schedule: {self.schedule}")
        return self

    @property
    def batch_rows(self) -> int:
        """Rows of one step."""
        return self.batch_tokens // self.context

    @property
    def inner_size(self) -> int:
        """Size of the feed-forward layers: by default 8/3 of the width (Touvron et al. 2023), rounded down."""
        unit = 64 if self.width >= 96 else 8
        return self.feed_forward or max(unit, 8 * self.width // 3 // unit * unit)


def check(config: Config, upstream: Mapping[str, Any]) -> None:
    """Refuse an architecture that transformers has no causal language model of, and settings it lacks."""
    if config.architecture not in KNOWN_ARCHITECTURES or config.architecture_settings:
        from pipeline.pretraining import check_architecture

        check_architecture(config)


def num_steps(config: Config, num_tokens: int) -> int:
    """Steps over a text of so many tokens; the last batch is filled from the following epoch."""
    rows = -(-num_tokens // (config.context + 1))
    return max(1, math.ceil(config.epochs * rows / config.batch_rows - 1e-9))


def num_parameters(config: Config, vocab_size: int) -> int:
    """Weights of a Llama-type model; other architectures differ by some percent."""
    width, inner = config.width, config.inner_size
    layer = 4 * width * width + 3 * width * inner + 2 * width
    return vocab_size * width * (1 if config.tie_embeddings else 2) + config.layers * layer + width


def cost(config: Config, context: CostContext) -> Cost:
    """Steps and tokens follow from the corpus' announced tokens, where it announces them."""
    corpus, vocabulary = context.costs.get("corpus"), context.configs.get("tokenizer")
    parameters = num_parameters(config, getattr(vocabulary, "vocab_size", 2048))
    text_tokens = corpus.tokens if corpus is not None else 0
    steps = num_steps(config, text_tokens) if text_tokens else 0
    tokens = steps * config.batch_rows * config.context
    # Of each token's activations a backward pass needs about 24 widths and 6 inner sizes per layer.
    at_once = min(config.micro_batch_tokens, config.batch_tokens)
    activations = 4 * at_once * config.layers * (24 * config.width + 6 * config.inner_size)
    attention = 12 * config.layers * config.width * config.context // 2
    about = "" if config.architecture == "llama" else "parameters are those of llama of this size"
    return Cost(
        steps=steps,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=16 * parameters + activations,
        disk_bytes=4 * parameters * (1 + 2 * 3),  # the model, and two checkpoints with the optimizer's state
        flops=float(tokens) * (6 * parameters + attention),
        note=about,
        probe=(lambda: _probe(config, context, steps)) if steps else None,
    )


def _probe(config: Config, context: CostContext, steps: int) -> float:
    from pipeline.pretraining import seconds_per_step

    vocabulary = getattr(context.configs.get("tokenizer"), "vocab_size", 2048)
    return steps * seconds_per_step(config, vocabulary, context.precision)


def run(config: Config, run: StageRun) -> None:
    """Pretrain; the result is `model/`, a base model that continues text."""
    from pipeline import pretraining
    from pipeline.fit import fit
    from pipeline.language_model import publish_model
    from pipeline.next_token import NextToken
    from pipeline.optimizers import make_optimizer, rate

    # 1. Documents as tokens, and a model with keyed weights.
    tokenizer, documents = pretraining.load(run)
    model = pretraining.make_model(config, tokenizer, seed=run.key("weights")).to(run.device)
    text = pretraining.PackedText(documents, config.context, seed=run.key("order"))
    steps = num_steps(config, text.num_tokens)
    module = NextToken(model)
    run.note(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        text_tokens=text.num_tokens,
        num_steps=steps,
        trained_tokens=steps * config.batch_rows * config.context,
        attention_within_documents=module.apart,
    )

    # 2. Training from the newest checkpoint.
    trained = fit(
        module,
        lambda step: {"tokens": text.rows(step * config.batch_rows, config.batch_rows)},
        make_optimizer(
            model,
            config.optimizer,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            embedding_rate=config.embedding_rate,
            precision=run.precision,
        ),
        run,
        num_steps=steps,
        rate=lambda step: rate(
            config.schedule,
            step,
            num_steps=steps,
            num_warmup=round(config.warmup_share * steps),
            final=config.final_rate,
            decay_share=config.decay_share,
        ),
        checkpoint_every=config.checkpoint_every,
        micro_batch=max(1, config.micro_batch_tokens // config.context),
        max_grad_norm=config.max_grad_norm,
        units_per_step=config.batch_rows * config.context,
    )

    # 3. The base model.
    publish_model(run, model, tokenizer)

    # 4. Held-out loss beside its floors, and what the model writes.
    if config.held_out_tokens:
        run.note(held_out=pretraining.held_out(config, run, trained, tokenizer, documents))
    if config.num_samples:
        pretraining.write_samples(config, run)
