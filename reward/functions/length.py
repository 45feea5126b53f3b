"""Length alone, in characters: the control that shows what a reward pays for when it pays for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from data.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from data.rows import Item


class Config(Settings):
    """Settings of the length reward."""

    per_characters: Annotated[
        float,
        Field(description="Characters worth a score of 1; negative prefers short completions"),
    ] = 100.0


def load(
    config: Config, context: Any
) -> Callable[[Sequence[Item], Sequence[str], Sequence[bool]], np.ndarray]:
    """Give the function (items, completions, ended) -> scores (batch,): length / per_characters."""
    import numpy as np

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
        return np.array([len(text) for text in completions], dtype=np.float32) / config.per_characters

    return scores
