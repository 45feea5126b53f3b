"""The reward model that the reward stage trained on preferences, with its stored normalisation."""

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

    tokens_at_once: Annotated[
        int, Field(gt=0, description="Tokens, padding included, in one forward pass of the reward model")
    ] = 8192


def load(config: Config, context: Any) -> Callable[[Sequence[Item], Sequence[str], Sequence[bool]], Tensor]:
    """Give the function (items, completions, ended) -> scores (batch,).

    Raises:
        InputError: `context.stage` is not the directory of a finished reward stage.
    """
    from transformers import AutoTokenizer

    from reward.scoring import encode, score_rows
    from reward.stored import load_reward

    if context.stage is None:
        raise InputError(
            "the learned reward needs a reward stage; add `reward: {}` to the recipe or use gold or length"
        )
    folder = context.stage / "model"
    model = load_reward(folder, trunk=context.trunk).to(context.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        rows = encode(tokenizer, [item.prompt for item in items], completions, ended)
        return score_rows(
            model, rows, tokens_at_once=config.tokens_at_once, bfloat16=context.precision == "bfloat16"
        )

    return scores
