"""Preference pairs: the SFT model's own samples and an annotator's variants, ordered by gold with label noise.

In the closed world the candidates of a prompt are what the SFT model says and contrasting answers that the
annotator writes; pairs are drawn from them and labelled by gold, with a share of the labels flipped (Gao et al.
2022 call such an annotator a gold reward model). Pairs that the corpus holds already, of people's judgements, are
taken as they are. Whole clusters (people, dialogues) are held out for testing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from data.settings import Settings
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"corpus": Input("corpus"), "policy": Input("sft")}

# Of the closed world, for the plan: tokens of a prompt with its answer, file sizes of a prompt and of a pair.
TOKENS_PER_SAMPLE = 35
BYTES_PER_PROMPT, BYTES_PER_PAIR = 1_750, 450

Weight = Annotated[float, Field(ge=0, le=1)]


class Config(Settings):
    """Settings of the preference pairs."""

    num_prompts: Annotated[
        int | None, Field(gt=0, description="Prompts of the closed world that get candidates; null: all")
    ] = None
    samples_per_prompt: Annotated[
        int, Field(ge=0, le=64, description="Completions sampled from the policy for each prompt")
    ] = 4
    temperature: Annotated[float, Field(gt=0, le=10, description="Of these samples")] = 1.0
    max_new_tokens: Annotated[
        int, Field(gt=0, description="Longest sample, tokens; one without an end is no candidate")
    ] = 64
    variants: Annotated[
        bool, Field(description="Add the annotator's right, wrong, abstaining, off-topic, ... answers")
    ] = True
    pairs_per_prompt: Annotated[
        int, Field(gt=0, le=100, description="Pairs drawn for each prompt, at most")
    ] = 3
    label_noise: Annotated[
        float, Field(ge=0, lt=0.5, description="Share of pairs whose label is flipped")
    ] = 0.12
    test_share: Annotated[
        float, Field(gt=0, lt=1, description="Share of the clusters (people, ...) whose pairs are held out")
    ] = 0.1
    keep: Annotated[
        dict[str, Weight],
        Field(
            description="Share kept of the corpus' own training pairs, by kind or its first part; else all"
        ),
    ] = {}  # noqa: RUF012 - settings are immutable

    @model_validator(mode="after")
    def _has_candidates(self) -> Config:
        if not self.variants and self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt {self.samples_per_prompt} without variants makes no pair; use 2 or more"
            )
        return self


def cost(config: Config, context: CostContext) -> Cost:
    """One step is one prompt of the closed world; pairs of people's judgements cost nothing."""
    corpus: Any = context.configs.get("corpus")
    policy: Any = context.costs.get("policy")
    prompts = corpus.scaled(corpus.rl_items) if hasattr(corpus, "rl_items") else 0
    prompts = min(prompts, config.num_prompts or prompts)
    tokens = prompts * config.samples_per_prompt * TOKENS_PER_SAMPLE
    parameters = policy.parameters if policy is not None else 0
    # A decoding step reads every weight for few rows: about three times its operations' worth of time.
    return Cost(
        steps=prompts,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=4 * parameters,
        disk_bytes=prompts * (BYTES_PER_PROMPT + config.pairs_per_prompt * BYTES_PER_PAIR),
        flops=3 * 2.0 * parameters * tokens,
    )


def run(config: Config, run: StageRun) -> None:
    """Write train.jsonl, test.jsonl and, in the closed world, candidates.jsonl."""
    from pipeline import preferences

    # 1. Pairs of people's judgements, where the corpus has them.
    train, test = preferences.of_corpus(config, run)

    # 2. Candidates for the closed world's prompts: samples of the policy, variants of the annotator.
    items = preferences.items(config, run)
    if items:
        candidates = preferences.candidates(config, run, items)
        labelled = preferences.pairs(config, run, items, candidates)
        held_out = preferences.held_out_clusters(config, run, labelled)
        train += [row for row in labelled if row.cluster not in held_out]
        test += [row for row in labelled if row.cluster in held_out]

    # 3. Files and counts.
    preferences.publish(run, train, test)
