"""Implicit reward: the log-ratio of a DPO-trained model to its start, normalised and measured as a reward model.

No training of its own: what DPO learned from the pairs is read as a score (Rafailov et al. 2023, arXiv
2305.18290, equation 5). PPO, best-of-n and the evaluations take it wherever they take a trained reward model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from data.settings import Settings
from pipeline import setting_types as types
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"preferences": Input("preferences", many=True), "policy": Input("sft"), "tuned": Input("dpo")}


class Config(Settings):
    """Settings of the implicit reward."""

    beta: Annotated[float, Field(gt=0, description="Score before normalisation of one nat of log-ratio")] = (
        0.1
    )
    max_length: types.MaxPairLength = None
    normalise_prompts: types.NormalisePrompts = 256
    temperature: types.NormaliseTemperature = 0.7
    max_new_tokens: types.NormaliseTokens = 64


def cost(config: Config, context: CostContext) -> Cost:
    """Two models are kept, and read a few hundred completions."""
    policy: Any = context.costs.get("policy")
    parameters = policy.parameters if policy is not None else 0
    return Cost(parameters=parameters, memory_bytes=8 * parameters, disk_bytes=8 * parameters)


def run(config: Config, run: StageRun) -> None:
    """Normalise and measure; the result is `model/` and records.jsonl of the held-out pairs."""
    from pipeline import reward_training as training
    from pipeline.language_model import LanguageModel
    from pipeline.pairs import read_pairs
    from pipeline.reward_report import report
    from reward.implicit import ImplicitReward
    from reward.stored import check_same_tokenizer

    # 1. The tuned model and the one it started from.
    policy = training.load_policy(run)
    tuned = LanguageModel.load(run.inputs["tuned"], device=run.device)
    check_same_tokenizer(tuned.tokenizer, policy.tokenizer, what=f"{run.name}: tuned and policy")
    model = ImplicitReward(tuned.model.requires_grad_(False), policy.model, beta=config.beta)
    model.to(run.device).eval()
    pairs = read_pairs(config, run, policy)

    # 2. Normalise by the SFT model's own completions, and store that with the model.
    training.normalise(config, run, model, policy, pairs)
    with run.publish("model") as folder:
        model.save(folder, policy.tokenizer)

    # 3. Held-out accuracy.
    held_out = training.score_held_out(run, model, pairs)
    report(run, pairs.held_out, pairs.held_out_rows, held_out, None, scale=float(model.scale))
