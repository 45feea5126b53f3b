"""The closed world's exact reward, for controls and ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from data.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from data.rows import Item

    Scores = Callable[[Sequence[Item], Sequence[str], Sequence[bool]], np.ndarray]


class Config(Settings):
    """No settings: gold is what it is."""


def load(config: Config, context: Any) -> Scores:
    """Give the function (items, completions, ended) -> scores (batch,); it needs no context."""
    import numpy as np

    from data.world import gold

    def scores(items: Sequence[Item], completions: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
        judged = [
            gold.judge(item, completion, stopped).score
            for item, completion, stopped in zip(items, completions, ended, strict=True)
        ]
        return np.array(judged, dtype=np.float32)

    return scores
