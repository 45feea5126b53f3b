"""A trained value function on the disk: `value/` beside the policy that it judged.

It holds the value head and, where the critic has one of its own, its transformer; else the head reads the states
of the policy. A value is the expected return from there on: score less the KL penalty still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from pipeline.adapted import ADAPTER, load_on_policy
from pipeline.shared_weights import share_equal
from reward.stored import quiet

FOLDER, HEAD, TRUNK = "value", "head.safetensors", "model"


def save_critic(folder: Path, head: nn.Linear, trunk: Any = None) -> None:
    """Write the value head, and the critic's own headless transformer where it has one."""
    save_file({name: weight.detach().cpu() for name, weight in head.state_dict().items()}, folder / HEAD)
    if trunk is not None:
        with quiet():
            trunk.save_pretrained(folder / TRUNK)


def _load_trunk(folder: Path, policy: Any) -> Any:
    """The critic's own transformer; one that is an adapter shares what lies below it with the policy."""
    if (folder / FOLDER / ADAPTER).is_dir():
        found = load_on_policy(folder, folder / FOLDER / ADAPTER, device=policy.device)
        if found is not None:
            share_equal(found.model, [policy])
            return found.model.base_model
    with quiet():
        trunk = AutoModel.from_pretrained(folder / FOLDER / TRUNK, use_safetensors=True).eval()
    return trunk.to(policy.device)


def load_critic(folder: Path, policy: Any) -> Callable[[Sequence[int]], Float[Tensor, " time"]] | None:
    """Read the critic of a stage: a function of token ids to the value before each of them; None without one.

    Args:
        folder: the directory of a finished stage.
        policy: its causal language model, whose states a head without a transformer reads.
    """
    if not (folder / FOLDER / HEAD).is_file():
        return None
    weights = load_file(folder / FOLDER / HEAD)
    trunk = policy.base_model
    if (folder / FOLDER / TRUNK).is_dir():
        trunk = _load_trunk(folder, policy)
    head = nn.Linear(weights["weight"].shape[1], 1)
    head.load_state_dict(weights)
    head = head.to(policy.device)

    @torch.inference_mode()
    def values(tokens: Sequence[int]) -> Tensor:
        states = trunk(input_ids=torch.tensor([list(tokens)], device=policy.device), use_cache=False)[0]
        before = head(states[0].float()).squeeze(-1).cpu()
        # The state before a token is that of the position before it; nothing stands before the first.
        return torch.cat([torch.zeros(1), before[:-1]])

    return values
