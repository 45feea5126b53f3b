"""A reward model: a transformer with a scalar head, likelihood features beside it, and its normalisation.

The head reads the state at the last counted token (Stiennon et al. 2020, section 3.4; Ouyang et al. 2022,
section 3.5), with weights drawn from N(0, 1/sqrt(width + 1)) and bias 0 (Huang et al. 2024, detail 11). The
normalisation, `score = (raw - offset) / scale`, is stored with the model.

With likelihood features a small network beside the head reads how likely the SFT model found each token of the
completion (see `reward.likelihood`), and is trained jointly with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.errors import InputError
from reward.likelihood import LikelihoodHead, likelihood
from reward.stored import NormalisedReward, check_tokenizer, describe, quiet, write_description

Features = Literal["likelihood", "none"]


class RewardModel(NormalisedReward):
    """Scores completions; `raw` is what Bradley-Terry trains, `forward` is normalised.

    Args:
        backbone: a headless transformer that starts from the SFT weights.
        reference: the frozen SFT model whose likelihoods are read; None where they are given from outside.
        features: "likelihood" or "none".
        seed: draws the heads.
    """

    def __init__(
        self, backbone: Any, reference: Any = None, *, features: Features = "likelihood", seed: int = 0
    ) -> None:
        super().__init__()
        width = backbone.config.get_text_config().hidden_size
        self.backbone, self.reference, self.features = backbone, reference, features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(width, 1)
            nn.init.normal_(self.head.weight, std=(width + 1) ** -0.5)
            nn.init.zeros_(self.head.bias)
            self.likelihood = LikelihoodHead(width) if features == "likelihood" else None
        if reference is not None:
            reference.requires_grad_(False)

    def raw(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 3"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Scores before normalisation, in nats of log-odds."""
        assert bool(mask[:, 0].all()), "rows are padded on the right and have a token"
        hidden = self.backbone(input_ids=tokens, use_cache=False)[0]
        last = mask.long().sum(dim=1) - 1
        if self.likelihood is not None and features is None:
            assert self.reference is not None, "likelihood features need the reference or come from outside"
            features = likelihood(self.reference, tokens, completion)
        # The heads compute in float32 under autocast too: bfloat16 would round a score to 8 bits.
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            at_end = hidden[torch.arange(len(tokens), device=hidden.device), last]
            scores: Tensor = self.head(at_end).squeeze(-1)
            if self.likelihood is not None:
                scores = scores + self.likelihood(hidden, features, completion)
        return scores

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write backbone, reference, heads with their normalisation, and what they belong to, to a folder."""
        from safetensors.torch import save_file

        assert self.features == "none" or self.reference is not None, "the reference is saved with the model"
        with quiet():
            self.backbone.save_pretrained(folder / "backbone")
            if self.features == "likelihood":
                self.reference.save_pretrained(folder / "reference")
            tokenizer.save_pretrained(folder)
        small = {
            name: tensor.detach().to("cpu", torch.float32).contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith(("backbone.", "reference."))
        }
        save_file(small, folder / "heads.safetensors")
        write_description(
            folder,
            tokenizer,
            features=self.features,
            width=self.head.in_features,
            vocabulary=self.backbone.config.get_text_config().vocab_size,
        )

    @classmethod
    def load(cls, folder: Path, *, tokenizer: Any = None) -> RewardModel:
        """Read what `save` wrote, in float32; with a `tokenizer` check that the model was trained on it.

        Raises:
            InputError: not a reward model's folder, parts of different models, or of another tokenizer.
        """
        from safetensors.torch import load_file
        from transformers import AutoModel, AutoModelForCausalLM

        described = describe(folder)
        if tokenizer is not None:
            check_tokenizer(folder, tokenizer)
        with quiet():
            backbone = AutoModel.from_pretrained(
                folder / "backbone", use_safetensors=True, dtype=torch.float32
            )
            reference = None
            if described["features"] == "likelihood":
                reference = AutoModelForCausalLM.from_pretrained(
                    folder / "reference", use_safetensors=True, dtype=torch.float32
                )
        _check_shapes(folder, described, backbone, reference)
        model = cls(backbone, reference, features=described["features"])
        heads = load_file(folder / "heads.safetensors")
        wrong = model.load_state_dict(heads, strict=False)
        missing = [name for name in wrong.missing_keys if not name.startswith(("backbone.", "reference."))]
        assert not [*missing, *wrong.unexpected_keys], (missing, wrong.unexpected_keys)
        return model.eval()


def _check_shapes(folder: Path, described: dict[str, Any], backbone: Any, reference: Any) -> None:
    config = backbone.config.get_text_config()
    found = {"width": config.hidden_size, "vocabulary": config.vocab_size}
    if reference is not None and reference.config.get_text_config().vocab_size != found["vocabulary"]:
        found["vocabulary"] = reference.config.get_text_config().vocab_size
    wrong = {name: size for name, size in found.items() if size != described[name]}
    if wrong:
        listed = ", ".join(f"{name} is {size} instead of {described[name]}" for name, size in wrong.items())
        raise InputError(f"{folder}: parts of different models: {listed}; train the reward model anew")
