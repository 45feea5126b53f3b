"""A stage's model as what was trained: low-rank adapters on the model that they stand on.

A stage that trains adapters keeps them in `adapter/`, as peft reads it, beside the model with them merged in. Put
on the model that a run's chain started from, adapters of several stages need the weights below them once
(`pipeline.shared_weights`), where merged models share none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from pipeline.language_model import LanguageModel
from pipeline.run_directory import STAGE_JSON, model_folder, read_json

ADAPTER = "adapter"


def load_adapted(folder: Path, *, device: torch.device | str = "cpu") -> LanguageModel:
    """Load a stage's model: its adapters on what they were trained on; one without adapters as it is.

    So it is, too, where the model below is not at hand: it is a stage of another run, or was trained anew since.
    """
    start, adapters = _chain(folder)
    if not adapters:
        return LanguageModel.load(folder, device=device)
    found = LanguageModel.load(start, device=device)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(folder))
    return replace(found, model=put_on(found.model, adapters), tokenizer=tokenizer, source=str(folder))


def load_on_policy(
    folder: Path, adapter: Path, *, device: torch.device | str = "cpu"
) -> LanguageModel | None:
    """Load the policy that a stage started from with another adapter on it; None where that is not at hand."""
    policy = _started_from(folder)
    if policy is None:
        return None
    found = load_adapted(policy, device=device)
    return replace(found, model=put_on(found.model, [adapter]))


def put_on(model: Any, adapters: Sequence[Path]) -> Any:
    """Put adapters on a model, each on those before it; returns the model, which is only to be read."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    present = {name for layer in model.modules() if isinstance(layer, LoraLayer) for name in layer.lora_A}
    for folder in adapters:
        name = f"adapter{len(present)}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft asks whether several adapters are meant
            warnings.simplefilter("ignore", FutureWarning)  # and asks transformers by a deprecated name
            warnings.filterwarnings("ignore", ".*(rank|alpha)_pattern")  # and names no expert
            wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        model = wrapped.base_model.model
        present.add(name)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter(list(layer.lora_A))
    return model.requires_grad_(False).eval()


def _chain(folder: Path) -> tuple[Path, list[Path]]:
    """The stage without adapters from which a stage comes, and the adapters from there on."""
    adapters: list[Path] = []
    while (folder / ADAPTER).is_dir():
        policy = _started_from(folder)
        if policy is None:
            break
        adapters.insert(0, folder / ADAPTER)
        folder = policy
    return folder, adapters


def _started_from(folder: Path) -> Path | None:
    """The stage of the same run whose model a stage started from, as it was then."""
    inputs = (read_json(folder / STAGE_JSON) or {}).get("inputs", {}).get("policy", [])
    if len(inputs) != 1:
        return None
    name, key = inputs[0]
    policy = folder.parent / name
    same = "/" not in name and (read_json(policy / STAGE_JSON) or {}).get("key") == key
    return policy if same else None
