"""A reward model: a transformer with a scalar head, likelihood features beside it, and its normalisation.

The head reads the state at the last counted token (Stiennon et al. 2020, section 3.4; Ouyang et al. 2022,
section 3.5), with weights drawn from N(0, 1/sqrt(width + 1)) and bias 0 (Huang et al. 2024, detail 11). The
normalisation, `score = (raw - offset) / scale`, is stored with the model.

With likelihood features a small network beside the head reads how likely the SFT model found each token of the
completion (see `reward.likelihood`), and is trained jointly with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.errors import InputError
from reward.likelihood import LikelihoodHead, likelihood

Features = Literal["likelihood", "none"]
FORMAT = 1


class RewardModel(nn.Module):
    """Scores completions; `raw` is what Bradley-Terry trains, `forward` is normalised.

    Args:
        backbone: a headless transformer that starts from the SFT weights.
        reference: the frozen SFT model whose likelihoods are read; None where they are given from outside.
        features: "likelihood" or "none".
        seed: draws the heads.
    """

    offset: Tensor
    scale: Tensor

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
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        if reference is not None:
            reference.requires_grad_(False)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 3"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Score right-padded prompts with their completions.

        Args:
            tokens: prompt, completion, padding.
            mask: True on prompt and completion.
            completion: True on the completion, its end token included.
            features: the reference's token features, to save its pass; see `likelihood`.
        """
        return (self.raw(tokens, mask, completion, features) - self.offset) / self.scale

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

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write backbone, reference, heads with their normalisation, and what they belong to, to a folder."""
        from safetensors.torch import save_file

        assert self.features == "none" or self.reference is not None, "the reference is saved with the model"
        with _quiet():
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
        described = {
            "format": FORMAT,
            "features": self.features,
            "width": self.head.in_features,
            "vocabulary": self.backbone.config.get_text_config().vocab_size,
            "tokenizer_sha256": tokenizer_digest(tokenizer),
        }
        (folder / "reward.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

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
        with _quiet():
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


def describe(folder: Path) -> dict[str, Any]:
    """Read `reward.json`; InputError where the folder holds no reward model."""
    try:
        found = json.loads((folder / "reward.json").read_text(encoding="utf-8"))
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


def _check_shapes(folder: Path, described: dict[str, Any], backbone: Any, reference: Any) -> None:
    config = backbone.config.get_text_config()
    found = {"width": config.hidden_size, "vocabulary": config.vocab_size}
    if reference is not None and reference.config.get_text_config().vocab_size != found["vocabulary"]:
        found["vocabulary"] = reference.config.get_text_config().vocab_size
    wrong = {name: size for name, size in found.items() if size != described[name]}
    if wrong:
        listed = ", ".join(f"{name} is {size} instead of {described[name]}" for name, size in wrong.items())
        raise InputError(f"{folder}: parts of different models: {listed}; train the reward model anew")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's progress bars off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
