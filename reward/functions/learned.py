"""What the reward stage learned from preferences: one reward model, or several with a penalty for disagreement.

Several models score by their mean less `disagreement` times their standard deviation, so that a completion that
only one of them likes earns little (Coste et al. 2024, arXiv 2310.02743, there with the variance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from data.errors import InputError
from data.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from data.rows import Item


class Config(Settings):
    """Settings of the learned reward."""

    disagreement: Annotated[
        float, Field(ge=0, description="Standard deviations of several reward models taken from their mean")
    ] = 0.0
    tokens_at_once: Annotated[
        int, Field(gt=0, description="Tokens, padding included, in one forward pass of the reward model")
    ] = 8192


def load(config: Config, context: Any) -> Callable[[Sequence[Item], Sequence[str], Sequence[bool]], Tensor]:
    """Give the function (items, completions, ended) -> scores (batch,).

    Raises:
        InputError: `context.stages` names no directory of a finished reward stage.
    """
    import torch
    from transformers import AutoTokenizer

    from reward.scoring import encode, score_rows
    from reward.stored import load_reward

    if not context.stages:
        raise InputError(
            "the learned reward needs a reward stage; add `reward: {}` to the recipe or use gold or length"
        )
    folders = [stage / "model" for stage in context.stages]
    # A trunk in memory has one place for a reward's adapter.
    trunk = context.trunk if len(folders) == 1 else None
    models = [load_reward(folder, trunk=trunk).to(context.device) for folder in folders]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        rows = encode(tokenizer, [item.prompt for item in items], completions, ended)
        found = torch.stack(
            [
                score_rows(
                    model,
                    rows,
                    tokens_at_once=config.tokens_at_once,
                    bfloat16=context.precision == "bfloat16",
                )
                for model in models
            ]
        )
        if len(models) == 1:
            return found[0]
        return found.mean(dim=0) - config.disagreement * found.std(dim=0, correction=0)

    return scores
