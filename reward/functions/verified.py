"""Checks the answer: 1 where it is right, else 0; the final number, or the judge of the closed world's tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from data.errors import InputError
from data.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from data.rows import Item


class Config(Settings):
    """Settings of the verified reward."""

    wrong: Annotated[float, Field(description="Score of an answer that is not right")] = 0.0


def load(
    config: Config, context: Any
) -> Callable[[Sequence[Item], Sequence[str], Sequence[bool]], np.ndarray]:
    """Give the function (items, completions, ended) -> scores (batch,), which needs items with a known answer.

    Raises:
        InputError: (when called) nothing is known about an item's answer.
    """
    import numpy as np

    from data import verify
    from data.world import gold

    def is_right(item: Item, completion: str, ended: bool) -> bool:
        if verify.is_checkable(item.truth):
            return verify.is_right(item.truth, completion)
        if not gold.knows(item):
            raise InputError(
                f"item {item.id!r} has no answer that can be checked: neither a number in its truth nor a task "
                "of the closed world; use a learned reward here"
            )
        return gold.judge(item, completion, ended).outcome == "right"

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
        right = [is_right(*row) for row in zip(items, completions, ended, strict=True)]
        return np.where(right, 1.0, config.wrong).astype(np.float32)

    return scores
