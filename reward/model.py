"""A reward model: a transformer with a scalar head, likelihood features beside it, and its normalisation.

The head reads the state at the last counted token (Stiennon et al. 2020, section 3.4; Ouyang et al. 2022,
section 3.5), with weights drawn from N(0, 1/sqrt(width + 1)) and bias 0 (Huang et al. 2024, detail 11). The
normalisation, `score = (raw - offset) / scale`, is stored with the model.

With likelihood features a small network beside the head reads how likely the SFT model found each token of the
completion (see `reward.likelihood`), and is trained jointly with it.

The transformer is one of its own, or the frozen SFT model with an adapter for this role (`reward.role_adapters`),
which then is the reference as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.errors import InputError
from reward.likelihood import LikelihoodHead, likelihood
from reward.output_head import width_of
from reward.role_adapters import REWARD, Role, Trunk
from reward.stored import NormalisedReward, check_tokenizer, describe, quiet, write_description

Features = Literal["likelihood", "none"]
TRANSFORMERS = ("backbone.", "reference.", "frozen.")  # what is saved in files of its own


class RewardModel(NormalisedReward):
    """Scores completions; `raw` is what Bradley-Terry trains, `forward` is normalised.

    Args:
        backbone: a headless transformer that starts from the SFT weights, or a trunk that has the role `REWARD`.
        reference: the frozen SFT model whose likelihoods are read; None where they are given from outside.
        features: "likelihood" or "none".
        seed: draws the heads.
    """

    def __init__(
        self, backbone: Any, reference: Any = None, *, features: Features = "likelihood", seed: int = 0
    ) -> None:
        super().__init__()
        self.trunk: Trunk | None = None
        if isinstance(backbone, Trunk):
            self.trunk, self.frozen = backbone, backbone.model
            backbone, reference = Role(backbone, REWARD), Role(backbone, None)
        width = width_of(backbone)
        self.backbone, self.reference, self.features = backbone, reference, features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(width, 1)
            nn.init.normal_(self.head.weight, std=(width + 1) ** -0.5)
            nn.init.zeros_(self.head.bias)
            self.likelihood = LikelihoodHead() if features == "likelihood" else None
        if reference is not None and self.trunk is None:
            reference.requires_grad_(False)

    def raw(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 6"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Scores before normalisation, in nats of log-odds."""
        if self.likelihood is not None and features is None:
            assert self.reference is not None, "likelihood features need the reference or come from outside"
            features = likelihood(self.reference, tokens, completion)
        return self.of_heads(self.at_end(tokens, mask), features, completion)

    def at_end(
        self, tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch width"]:
        """The backbone's state at the last counted token of each row, in float32."""
        assert bool(mask[:, 0].all()), "rows are padded on the right and have a token"
        hidden = self.backbone(input_ids=tokens, use_cache=False)[0]
        rows = torch.arange(len(tokens), device=hidden.device)
        state: Tensor = hidden[rows, mask.long().sum(dim=1) - 1].float()
        return state

    def of_heads(
        self,
        at_end: Float[Tensor, "batch width"],
        features: Float[Tensor, "batch time 6"] | None,
        completion: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, " batch"]:
        """What the heads make of states at the last token and of likelihood features, as `raw`."""
        # In float32 under autocast too: bfloat16 would round a score to 8 bits.
        with torch.autocast(at_end.device.type, enabled=False):
            scores: Tensor = self.head(at_end).squeeze(-1)
            if self.likelihood is not None:
                scores = scores + self.likelihood(features, completion)
        return scores

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write backbone, reference, heads with their normalisation, and what they belong to, to a folder."""
        from safetensors.torch import save_file

        assert self.features == "none" or self.reference is not None, "the reference is saved with the model"
        more: dict[str, Any] = {}
        with quiet():
            if self.trunk is not None:
                more["adapter"] = self.trunk.sizes[REWARD]
                self.trunk.model.save_pretrained(folder / "reference", state_dict=self.trunk.plain_state())
                save_file(_plain(self.trunk.parameters(REWARD)), folder / "adapter.safetensors")
            else:
                self.backbone.save_pretrained(folder / "backbone")
                if self.features == "likelihood":
                    self.reference.save_pretrained(folder / "reference")
            tokenizer.save_pretrained(folder)
        heads = {name: x for name, x in self.state_dict().items() if not name.startswith(TRANSFORMERS)}
        save_file(_plain(heads), folder / "heads.safetensors")
        write_description(
            folder,
            tokenizer,
            features=self.features,
            width=self.head.in_features,
            vocabulary=self.backbone.config.get_text_config().vocab_size,
            **more,
        )

    @classmethod
    def load(cls, folder: Path, *, tokenizer: Any = None, trunk: Trunk | None = None) -> RewardModel:
        """Read what `save` wrote, in float32.

        Args:
            folder: the model's folder.
            tokenizer: where given, it is checked that the model was trained on it.
            trunk: a trunk of the same weights that is in memory already, to carry a model that is an adapter.

        Raises:
            InputError: not a reward model's folder, parts of different models, or of another tokenizer.
        """
        from safetensors.torch import load_file

        described = describe(folder)
        if tokenizer is not None:
            check_tokenizer(folder, tokenizer)
        with quiet():
            if "adapter" in described:
                backbone, reference = _load_adapter(folder, described["adapter"], trunk), None
            else:
                backbone, reference = _load_transformers(folder, described)
        model = cls(backbone, reference, features=described["features"])
        wrong = model.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)
        missing = [name for name in wrong.missing_keys if not name.startswith(TRANSFORMERS)]
        assert not [*missing, *wrong.unexpected_keys], (missing, wrong.unexpected_keys)
        return model.eval()


def _load_transformers(folder: Path, described: dict[str, Any]) -> tuple[Any, Any]:
    """Backbone and, with likelihood features, reference."""
    from transformers import AutoModel, AutoModelForCausalLM

    backbone = AutoModel.from_pretrained(folder / "backbone", use_safetensors=True, dtype=torch.float32)
    reference = None
    if described["features"] == "likelihood":
        reference = AutoModelForCausalLM.from_pretrained(
            folder / "reference", use_safetensors=True, dtype=torch.float32
        )
    _check_shapes(folder, described, backbone, reference)
    return backbone, reference


def _load_adapter(folder: Path, size: dict[str, Any], trunk: Trunk | None) -> Trunk:
    """The trunk with the reward's adapter: the given one if its weights are those that it belongs to."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    if trunk is None:
        trunk = Trunk(
            AutoModelForCausalLM.from_pretrained(
                folder / "reference", use_safetensors=True, dtype=torch.float32
            )
        )
    elif not _same_weights(trunk.plain_state(), folder / "reference"):
        raise InputError(
            f"{folder}: the reward's adapter belongs to other weights than the policy's; train the reward model "
            "from the policy that is to be aligned"
        )
    trunk.add(REWARD, rank=size["rank"], alpha=size["alpha"], seed=0)
    trunk.load(REWARD, load_file(folder / "adapter.safetensors"))
    return trunk


def _same_weights(weights: Mapping[str, Tensor], folder: Path) -> bool:
    """Compare with a saved model, one tensor in memory at a time; tied weights are saved once.

    Some architectures are saved by other names than those of their weights in memory; they are loaded whole.
    """
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as saved:
            if not weights.keys() >= set(saved.keys()):
                whole = AutoModelForCausalLM.from_pretrained(
                    folder, use_safetensors=True, dtype=torch.float32
                )
                return all(
                    name in weights and torch.equal(weights[name].cpu(), theirs.to(weights[name].dtype))
                    for name, theirs in whole.state_dict().items()
                )
            for name in saved.keys():  # noqa: SIM118, it is no dict
                ours = weights[name]
                if not torch.equal(ours.cpu(), saved.get_tensor(name).to(ours.dtype)):
                    return False
    return True


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As a safetensors file takes them."""
    return {name: x.detach().to("cpu", torch.float32).contiguous() for name, x in tensors.items()}


def _check_shapes(folder: Path, described: dict[str, Any], backbone: Any, reference: Any) -> None:
    config = backbone.config.get_text_config()
    found = {"width": width_of(backbone), "vocabulary": config.vocab_size}
    if reference is not None and reference.config.get_text_config().vocab_size != found["vocabulary"]:
        found["vocabulary"] = reference.config.get_text_config().vocab_size
    wrong = {name: size for name, size in found.items() if size != described[name]}
    if wrong:
        listed = ", ".join(f"{name} is {size} instead of {described[name]}" for name, size in wrong.items())
        raise InputError(f"{folder}: parts of different models: {listed}; train the reward model anew")
