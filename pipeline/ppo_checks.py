"""The invariants of PPO, checked on every batch while it runs; a violation stops with its cause and remedy.

The batch that shows one is kept in `diagnosis/`. Scores that are all equal stop the first batch, whose policy is
still that of SFT. Later they may be the success of a reward that all answers earn: they are noted, and what is
named a collapse is one answer to all prompts by a policy that draws no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from jaxtyping import Int
from torch import Tensor

from pipeline import rl
from pipeline.checkpoint import save_state
from pipeline.errors import TrainingFault

if TYPE_CHECKING:
    from pipeline.ppo import Experience
    from pipeline.run import StageRun

# |ratio - 1| on the first minibatch of a batch. Old log-probabilities are computed in the very micro-batches of
# the first pass, since another shape changes the order of sums: without that 1.1e-5 was seen in float32.
MAX_FIRST_RATIO = 1e-5
# Mean |log-probability when sampled - when learning|, nats per token. Decoding with a cache sums in another order
# (below 5e-5 seen in float32) and samples from weights rounded to bfloat16 (.003 seen); a temperature of .8
# in place of .7 makes about .04.
MAX_SAMPLING_GAP = {"float32": 1e-3, "bfloat16": 0.02}
# Whitened advantages: |mean| and |variance - 1|. Rounding makes 1e-7; the epsilon of whitening makes 1e-2 where
# the variance was 1e-6, and then it is rounding and the critic's errors that would be blown up.
MAX_WHITENED_MEAN, MAX_WHITENED_GAP = 1e-4, 1e-2
# k3 is never negative but for rounding, which is below 1e-7 per token.
MIN_K3 = -1e-6
# Nats per token, below which hardly a token of a completion is ever drawn otherwise.
MIN_ENTROPY = 0.01


def stop(run: StageRun, cause: str, remedy: str, tensors: Mapping[str, Tensor]) -> NoReturn:
    """Keep a batch that must not be learned from in `diagnosis/`, and stop.

    Raises:
        TrainingFault: always.
    """
    with run.publish("diagnosis") as folder:
        save_state(folder, dict(tensors))
    raise TrainingFault(f"{cause}; its batch is in diagnosis/. {remedy}")


def check_batch(
    run: StageRun, step: int, batch: Experience, completions: Sequence[Sequence[int]], *, whitened: bool
) -> None:
    """Check what an update is about to learn from.

    Args:
        run: the stage, which keeps a broken batch.
        step: updates of batches so far.
        batch: the batch.
        completions: its sampled tokens.
        whitened: whether the advantages are.

    Raises:
        TrainingFault: something is not finite, the advantages are not whitened, or the policy has collapsed.
    """
    where, kept = f"PPO at step {step}", batch.tensors()
    watched = {name: batch.measured[name] for name in ("kl", "entropy", "length")}
    broken = [f"{name} {value}" for name, value in watched.items() if not math.isfinite(value)]
    broken += [name for name, tensor in kept.items() if not bool(tensor.isfinite().all())]
    if broken:
        stop(run, f"{where}: not finite: {', '.join(broken)}", "Lower learning_rate", kept)
    if len(completions) > 1 and batch.measured["entropy"] < MIN_ENTROPY and _all_alike(completions):
        stop(
            run,
            f"{where}: the policy has collapsed to one answer: all {len(completions)} completions are the same, "
            f"at an entropy of {batch.measured['entropy']:.4f} nats per token",
            "Raise kl_coef or lower learning_rate, and check what the reward pays this answer",
            kept,
        )
    if batch.measured["score_std"] == 0:
        run.note(equal_scores_at_step=step)
    elif whitened:
        mean = rl.masked_mean(batch.advantages, batch.mask).item()
        variance = rl.masked_var(batch.advantages, batch.mask).item()
        if abs(mean) > MAX_WHITENED_MEAN or abs(variance - 1) > MAX_WHITENED_GAP:
            stop(
                run,
                f"{where}: whitened advantages have mean {mean:.2e} and variance {variance:.4f} in place of 0 "
                "and 1, as rewards hardly differ from what the critic expects",
                "Give the reward a larger weight or train on fewer episodes",
                kept,
            )


def _all_alike(completions: Sequence[Sequence[int]]) -> bool:
    return len({tuple(completion) for completion in completions}) == 1


def check_update(
    run: StageRun,
    measured: Mapping[str, float],
    batch: Experience,
    rows: Int[Tensor, " rows"],
    *,
    step: int,
    first: bool,
) -> None:
    """Check the update from some rows of a batch before it is taken.

    Where it is the `first` of the batch, the policy is still the one that sampled, and its ratios are 1.

    Raises:
        TrainingFault: a figure is not finite, k3 is negative, or a first ratio is not 1.
    """
    broken = [f"{name} {value}" for name, value in measured.items() if not math.isfinite(value)]
    if measured["approx_kl"] < MIN_K3:
        broken.append(f"approx_kl {measured['approx_kl']:.3g}, which is never negative")
    if broken:
        cause = f"PPO at step {step}: {', '.join(broken)}; the step was not applied"
        stop(run, cause, "Lower learning_rate", batch.tensors(rows))
    if first and measured["ratio_deviation"] > MAX_FIRST_RATIO:
        stop(
            run,
            f"PPO at step {step}: |ratio - 1| is {measured['ratio_deviation']:.2e} on the first minibatch, above "
            f"{MAX_FIRST_RATIO:g}",
            "Sampling and learning disagree on temperature, mask or weights",
            batch.tensors(rows),
        )


def check_sampling(
    run: StageRun, step: int, old: Tensor, sampled: Tensor, tensors: Mapping[str, Tensor]
) -> float:
    """Sampling and learning must agree on temperature, mask and weights; returns their mean gap, nats a token.

    Raises:
        TrainingFault: they do not.
    """
    gap, bound = (old - sampled).abs().mean().item(), MAX_SAMPLING_GAP[run.precision]
    if not gap <= bound:
        stop(
            run,
            f"PPO at step {step}: log-probabilities of sampling and learning differ by {gap:.2e} nats a token, "
            f"above {bound:g}",
            "They disagree on temperature, mask or weights",
            tensors,
        )
    return gap
