"""Keyed random streams: every draw is a function of named parts, never of a shared global state.

A stream is named by its parts, for example `(seed, stage, purpose, step, rank)`. Two streams with different
parts are independent; the same parts give the same draws on every machine and in every process, so that a
resumed run draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

Part = int | str


def key(*parts: Part) -> int:
    """Hash named parts to a 63-bit key; `1` and `"1"` differ, and so do `("ab",)` and `("a", "b")`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_random(*parts: Part) -> random.Random:
    """A standard-library generator for the named stream."""
    return random.Random(key(*parts))


def torch_generator(*parts: Part) -> torch.Generator:
    """A CPU torch generator for the named stream."""
    import torch

    return torch.Generator().manual_seed(key(*parts))


def uniforms(keys: Sequence[int], num: int) -> np.ndarray:
    """Draw uniforms in [0, 1) of shape (len(keys), num); row r depends on `keys[r]` alone.

    Sampling with one row per sequence makes a completion independent of what else is in its batch.
    """
    import numpy as np

    rows = [np.random.Generator(np.random.Philox(key=row)).random(num) for row in keys]
    return np.stack(rows) if rows else np.empty((0, num))
