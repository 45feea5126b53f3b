"""What every reward model shares: scores with their stored normalisation, and the folder they are read from.

The normalisation, `score = (raw - offset) / scale`, is saved with the model, and so is the digest of the
tokenizer that it was trained with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.errors import InputError

FORMAT = 3
DESCRIPTION = "reward.json"


class NormalisedReward(nn.Module):
    """A reward model of any form: `raw` is what training shapes, `forward` is normalised."""

    offset: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def raw(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 6"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Scores before normalisation, in nats of log-odds; every form has its own."""
        raise NotImplementedError

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 6"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Score right-padded prompts with their completions.

        Args:
            tokens: prompt, completion, padding.
            mask: True on prompt and completion.
            completion: True on the completion, its end token included.
            features: the reference's token features, to save its pass; see `reward.likelihood`.
        """
        return (self.raw(tokens, mask, completion, features) - self.offset) / self.scale

    @torch.no_grad()
    def normalise(self, raw: Float[Tensor, " samples"]) -> None:
        """Set offset and scale so that these raw scores have mean 0 and variance 1.

        Raises:
            ValueError: fewer than two scores, or all are equal.
        """
        spread = float(raw.float().std()) if len(raw) > 1 else 0.0
        if not spread > 0:
            raise ValueError(f"{len(raw)} raw scores have no variance; the reward model tells nothing apart")
        self.offset.copy_(raw.float().mean())
        self.scale.copy_(raw.float().std())


def load_reward(folder: Path, *, tokenizer: Any = None, trunk: Any = None) -> NormalisedReward:
    """Read a reward model of any form; with a `tokenizer` check that the model was trained on it.

    One that is an adapter is put on `trunk`, where that is given, instead of a trunk of its own.

    Raises:
        InputError: not a reward model's folder, parts of different models, or of another tokenizer.
    """
    from reward.implicit import ImplicitReward
    from reward.model import RewardModel

    if describe(folder)["features"] == "implicit":
        return ImplicitReward.load(folder, tokenizer=tokenizer)
    return RewardModel.load(folder, tokenizer=tokenizer, trunk=trunk)


def write_description(folder: Path, tokenizer: Any, **more: Any) -> None:
    """Write `reward.json`: the form of the model and what it belongs to."""
    described = {"format": FORMAT, **more, "tokenizer_sha256": tokenizer_digest(tokenizer)}
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def describe(folder: Path) -> dict[str, Any]:
    """Read `reward.json`; InputError where the folder holds no reward model."""
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: not a reward model: reward.json is missing or torn; run the reward stage"
        ) from error
    if found.get("format") != FORMAT:
        raise InputError(
            f"{folder}: a reward model of format {found.get('format')}; accepted is {FORMAT}; train it anew"
        )
    return dict(found)


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash what a tokenizer does to text: its vocabulary, merges and rules."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer other than the one that a reward model was trained with.

    Raises:
        InputError: the digests differ; the ids of one would be read with the meaning of the other.
    """
    expected, given = describe(folder)["tokenizer_sha256"], tokenizer_digest(tokenizer)
    if expected != given:
        raise InputError(
            f"{folder}: the reward model was trained with another tokenizer (sha256 {expected[:12]}) than the "
            f"policy's ({given[:12]}, {len(tokenizer)} tokens); train it from that policy"
        )


def check_same_tokenizer(first: Any, second: Any, *, what: str) -> None:
    """Refuse two models of different tokenizers; `what` names them.

    Raises:
        InputError: the digests differ.
    """
    digests = [tokenizer_digest(tokenizer)[:12] for tokenizer in (first, second)]
    if digests[0] != digests[1]:
        raise InputError(f"{what} have different tokenizers (sha256 {digests[0]} and {digests[1]})")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the loader's progress bars off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
