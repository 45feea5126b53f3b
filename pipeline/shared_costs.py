"""What a stage of preference pairs costs, and what every stage that samples episodes knows of its costs."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.recipe import Cost, CostContext

# Of the closed world's prompts with their completions, for the plan.
TOKENS_PER_PAIR, TOKENS_PER_EPISODE = 2 * 35, 35
# For each prompt, beside the drawn ones: on stories and small talk, and on each sample that answers a fact.
PAIRS_BESIDE, PAIRS_OF_SAMPLE = 0.5, 0.3


class Episodes(NamedTuple):
    """Parameters of the policy and of what judges, tokens of a completion, and what the plan says of them."""

    parameters: int
    judging: int
    length: int
    note: str


def of_pairs(
    config: Any, context: CostContext, *, num_models: int, num_control: int = 0, num_readings: int = 1
) -> Cost:
    """Cost of `config.epochs` over the closed world's pairs; of other pairs it is not known before.

    `num_models` of the policy's size are written at the end; a control sees `num_control` pairs at most. Before
    training the pairs are read `num_readings` times.
    """
    policy: Any = context.costs.get("policy")
    configs: Any = context.configs.get("preferences") or ()
    asked: Any = context.costs.get("preferences") or ()
    rounds = list(zip(configs, asked, strict=True))
    known = all(config is not None and cost is not None for config, cost in rounds)
    pairs = sum(_pairs(config, cost.steps) for config, cost in rounds) if known else 0
    tokens = TOKENS_PER_PAIR * (config.epochs * pairs + min(num_control, pairs))
    parameters = policy.parameters if policy is not None else 0
    return Cost(
        steps=config.epochs * pairs // config.batch_size,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=20 * parameters,  # weights, gradients, two moments, and the reference
        disk_bytes=4 * parameters * (num_models + 2 * 3),
        flops=(6.0 + 2.0 * num_readings) * parameters * tokens,
        note="" if pairs else "the number of pairs is known when the preferences are there",
    )


def _pairs(preferences: Any, num_prompts: int) -> int:
    """Training pairs of one round: those drawn, and those beside them."""
    beside = PAIRS_BESIDE + PAIRS_OF_SAMPLE * preferences.samples_per_prompt
    return round(num_prompts * (preferences.pairs_per_prompt + beside) * (1 - preferences.test_share))


def of_episodes(config: Any, context: CostContext) -> Episodes:
    """What is known of the models and completions of a stage with `rewards` and `max_new_tokens`."""
    policy: Any = context.costs.get("policy")
    rewards: Any = context.costs.get("reward") if "learned" in config.rewards else None
    known = hasattr(context.configs.get("corpus"), "rl_items")
    return Episodes(
        policy.parameters if policy is not None else 0,
        # Every reward model has its reference.
        sum(2 * reward.parameters for reward in rewards or () if reward is not None),
        TOKENS_PER_EPISODE if known else config.max_new_tokens,
        "" if known else "counts completions of max_new_tokens without their prompts",
    )
