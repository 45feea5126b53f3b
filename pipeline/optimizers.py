"""Muon for hidden matrices with AdamW for the rest as one optimizer, and learning-rate schedules.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest
semi-orthogonal matrix; with the scaling of Liu et al. 2025 (arXiv 2502.16982) it takes AdamW's learning rate
and weight decay. Embeddings, output head, norms and biases go to AdamW. Schedules are pure functions of the
step that give a multiple of the learning rate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # coefficients of the quintic iteration, from Jordan et al.
BETAS = (0.9, 0.95)  # usual for language models; Adam's .999 remembers longer than our runs last

Schedule = Literal["constant", "linear", "cosine", "warmup_stable_decay"]


class Split(NamedTuple):
    """Parameters by kind: hidden matrices; embeddings and the head; vectors (norms, biases)."""

    matrices: list[nn.Parameter]
    embeddings: list[nn.Parameter]
    vectors: list[nn.Parameter]


def split_parameters(model: nn.Module) -> Split:
    """Sort a model's trainable parameters into hidden matrices, embeddings with the output head, and vectors."""
    ends = [part for module in model.modules() for part in (_embedding(module), _head(module)) if part]
    at_ends = {id(parameter) for module in ends for parameter in module.parameters()}
    split = Split([], [], [])
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            split.vectors.append(parameter)
        else:
            inner = parameter.ndim == 2 and id(parameter) not in at_ends
            (split.matrices if inner else split.embeddings).append(parameter)
    return split


def _embedding(module: nn.Module) -> nn.Module | None:
    return module if isinstance(module, nn.Embedding) else None


def _head(module: nn.Module) -> nn.Module | None:
    """The output head of a transformers model."""
    find = getattr(module, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, nn.Module) else None


def make_optimizer(
    model: nn.Module,
    kind: Literal["muon", "adamw"],
    *,
    learning_rate: float,
    weight_decay: float,
    embedding_rate: float = 1.0,
    precision: str = "float32",
) -> torch.optim.Optimizer:
    """Make the optimizer of a model; only matrices decay, embeddings and vectors never do.

    Args:
        model: its trainable parameters are optimised.
        kind: "muon" is `MuonAdamW`, "adamw" is AdamW on everything.
        learning_rate: at the peak of the schedule, for both parts.
        weight_decay: decoupled, of matrices; each step takes `learning_rate * weight_decay` of a weight away.
        embedding_rate: multiple of the learning rate that AdamW's part takes beside Muon.
        precision: number format of Muon's iteration, "float32" or "bfloat16".
    """
    split = split_parameters(model)
    undecayed = {"params": [*split.embeddings, *split.vectors], "weight_decay": 0.0}
    decayed = {"params": split.matrices, "weight_decay": weight_decay}
    if kind == "adamw" or not split.matrices:
        groups = [group for group in (decayed, undecayed) if group["params"]]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=_fusible(model))
    return MuonAdamW(
        BatchedMuon(
            [decayed],
            lr=learning_rate,
            adjust_lr_fn="match_rms_adamw",
            dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        ),
        torch.optim.AdamW([undecayed], lr=embedding_rate * learning_rate, betas=BETAS, fused=_fusible(model)),
    )


def _fusible(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    return all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters)


class BatchedMuon(torch.optim.Muon):
    """torch's Muon with the iteration over all matrices of one shape at once, in a number format of choice.

    Same update; several times fewer operations for a model of many small matrices, and float32 where the
    machine computes that faster than bfloat16.
    """

    def __init__(self, params: Any, *, dtype: torch.dtype = torch.bfloat16, **options: Any) -> None:
        super().__init__(params, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step from the gradients of now."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            if not parameters:
                continue
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            by_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for place, parameter in enumerate(parameters):
                by_shape[parameter.shape].append(place)
            for shape, places in by_shape.items():
                stacked = torch.stack([updates[place].to(self.dtype) for place in places])
                rotations = orthogonalise(stacked, group["ns_steps"], group["eps"])
                scale = -group["lr"] * 0.2 * math.sqrt(max(shape))  # RMS of AdamW's update, Liu et al. eq. 4
                for place, rotation in zip(places, rotations, strict=True):
                    parameters[place].add_(rotation, alpha=scale)
        return loss


def orthogonalise(matrices: Tensor, num_steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Bring the singular values of matrices (count, rows, columns) near 1, keeping their singular vectors.

    A quintic Newton-Schulz iteration: `X <- a X + (b G + c G G) X` with `G = X X^T`, on the wider side.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW as one torch optimizer: one list of groups, one state, one state_dict."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._link()

    def _link(self) -> None:
        """Make the parts work on this optimizer's groups and state, which may be new objects after a load."""
        first = 0
        for part in self.parts:
            num = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + num]
            part.state = self.state
            first += num

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._link()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of both parts."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss


def set_rate(groups: Iterable[dict[str, Any]], multiple: float) -> None:
    """Set the learning rate of parameter groups to a multiple of the one they were made with."""
    for group in groups:
        group["lr"] = multiple * group.setdefault("initial_lr", group["lr"])


def rate(
    schedule: Schedule,
    step: int,
    *,
    num_steps: int,
    num_warmup: int = 0,
    final: float = 0.0,
    decay_share: float = 0.2,
) -> float:
    """The multiple of the learning rate at `step`, counted from 0.

    A linear warm-up `(step + 1) / num_warmup`, then with `x` from 0 to 1 over the steps that are left:
    linear `1 - (1 - final) x`; cosine `final + (1 - final) (1 + cos(pi x)) / 2` (Loshchilov and Hutter 2017);
    warmup_stable_decay 1, and linear over the last `decay_share` of all steps (Hu et al. 2024, arXiv
    2404.06395).
    """
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    if schedule == "warmup_stable_decay":
        num_decay = max(1, round(decay_share * num_steps))
        past = max(0.0, 1 - (num_steps - step) / num_decay)
        return 1 - (1 - final) * past
    past = (step - num_warmup) / max(1, num_steps - num_warmup)
    if schedule == "linear":
        return 1 - (1 - final) * past
    return final + (1 - final) * (1 + math.cos(math.pi * past)) / 2
