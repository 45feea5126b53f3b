"""One transformer for several roles: a low-rank adapter for each, and none for the model it started from.

The frozen trunk is in memory once. At rest it computes as the policy; `Role` lets it compute as another role for
the length of one call. Adapters are LoRA (Hu et al. 2021, arXiv 2106.09685) by peft, on every linear map of the
trunk and not on the output head.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

POLICY, VALUE, REWARD = "policy", "value", "reward"


class Trunk:
    """A causal language model whose trunk carries adapters, one a role."""

    def __init__(self, model: Any) -> None:
        """Freeze the model; roles are added by `add`."""
        from transformers.pytorch_utils import Conv1D

        self.model = model.requires_grad_(False)
        self.places = [
            name
            for name, module in model.base_model.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        ]
        if any(parameter.ndim > 2 for parameter in model.base_model.parameters()):
            self.places = _taken_as_named(model.base_model, self.places)
        self.roles: list[str] = []
        self.learning: list[nn.Parameter] = []
        self.sizes: dict[str, dict[str, float]] = {}

    def add(self, role: str, *, rank: int, alpha: float, seed: int) -> None:
        """Give a role its adapter, which changes nothing until it is trained; `seed` draws its start."""
        import peft

        settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(self.places))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft asks whether several adapters are meant
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(settings, self.model.base_model, adapter_name=role)
        self.roles.append(role)
        self.sizes[role] = {"rank": rank, "alpha": alpha}
        self._layers = {name: self.model.base_model.get_submodule(name) for name in self.places}
        self._adapters = [x for known in self.roles for x in self.parameters(known).values()]
        self.rest()

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """The matrices of a role's adapter by place and name."""
        return {
            f"{place}.{name}": getattr(layer, name)[role].weight
            for place, layer in self._layers.items()
            for name in ("lora_A", "lora_B")
        }

    @torch.no_grad()
    def load(self, role: str, weights: Mapping[str, Tensor]) -> None:
        """Set a role's matrices from `{name: tensor}` as `parameters` names them."""
        for name, parameter in self.parameters(role).items():
            parameter.copy_(weights[name])

    def save(self, role: str, folder: Path) -> None:
        """Write a role's adapter as peft reads it, to be put on the model as it started."""
        import peft
        from safetensors.torch import save_file

        size = self.sizes[role]
        settings = peft.LoraConfig(
            r=int(size["rank"]), lora_alpha=size["alpha"], target_modules=self.places, task_type="CAUSAL_LM"
        )
        settings.save_pretrained(str(folder))
        prefix = f"base_model.model.{self.model.base_model_prefix}"
        weights = {f"{prefix}.{name}.weight": x.detach() for name, x in self.parameters(role).items()}
        save_file(
            {name: x.to("cpu", torch.float32).contiguous() for name, x in weights.items()},
            folder / "adapter_model.safetensors",
        )
        make_reproducible(folder)

    def train(self, *roles: str) -> None:
        """Let the adapters of these roles learn, and no other weight."""
        self.learning = [parameter for role in roles for parameter in self.parameters(role).values()]
        self.rest()

    def rest(self) -> None:
        """Compute as the policy, or as the first role where there is no policy."""
        self._switch(POLICY if POLICY in self.roles else self.roles[0])

    @contextmanager
    def as_role(self, role: str | None) -> Iterator[Any]:
        """The model, computing as a role, or as it started (None)."""
        self._switch(role)
        try:
            yield self.model
        finally:
            self.rest()

    def _switch(self, role: str | None) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(role is not None)
            if role is not None:
                layer.set_adapter(role)
        # peft lets what is active learn and freezes the rest; here the roles that learn always do, and no other.
        for parameter in self._adapters:
            parameter.requires_grad_(False)
        for parameter in self.learning:
            parameter.requires_grad_(True)

    def plain_state(self) -> dict[str, Tensor]:
        """The weights of the model as it started, by the names that it has without adapters."""
        return {
            name.replace(".base_layer.", "."): weight
            for name, weight in self.model.state_dict().items()
            if ".lora_" not in name
        }

    @torch.no_grad()
    def merge_into(self, plain: Any, role: str) -> Any:
        """Give a plain copy of the start the weights of a role, its adapter merged in; returns that copy."""
        for place, layer in self._layers.items():
            weight = plain.base_model.get_submodule(place).weight
            weight.copy_(layer.base_layer.weight + layer.get_delta_weight(role))
        return plain


def _taken_as_named(trunk: Any, places: list[str]) -> list[str]:
    """The linear maps that peft takes for themselves, tried on a trunk without numbers.

    In a mixture of experts it takes some of their names for those of the experts, whose weights are one tensor.
    """
    import peft

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = type(trunk)(copy.deepcopy(trunk.config))
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=list(places)), empty)
    return [place for place in places if hasattr(empty.get_submodule(place), "lora_A")]


def make_reproducible(folder: Path) -> None:
    """Make the files of an adapter that peft saved the same in every process, without a path of this machine.

    peft writes sets in the order of their hashes, and a model card of blanks that names the model by its path.
    """
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": ""}
    for name, value in settings.items():
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            settings[name] = sorted(value)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class Role:
    """The trunk in one role, to be called like a headless transformer or asked like a causal language model."""

    def __init__(self, trunk: Trunk, name: str | None) -> None:
        self.trunk, self.name = trunk, name
        self.config = trunk.model.config

    def __call__(self, **inputs: Any) -> Any:
        """The trunk's output in this role."""
        with self.trunk.as_role(self.name) as model:
            return model.base_model(**inputs)

    @property
    def base_model(self) -> Role:
        """Itself: what a causal language model calls its trunk."""
        return self

    def get_output_embeddings(self) -> Any:
        """The output head, which all roles share."""
        return self.trunk.model.get_output_embeddings()

    @property
    def device(self) -> torch.device:
        """Where the trunk computes."""
        device: torch.device = self.trunk.model.device
        return device

    def eval(self) -> Role:
        """Nothing: the trunk has no dropout, and its mode is the policy's."""
        return self
