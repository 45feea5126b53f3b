"""The one supervised loop: any module that gives a loss, any batch function, on any number of processes.

All randomness stands in the batch, which is a function of the step: a stopped and continued run takes the same
steps as an uninterrupted one, bit for bit. Rows of a global batch are dealt to the processes and to
micro-batches; how many there are changes the order of sums only.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from data.errors import InputError
from pipeline.checkpoint import load_state, save_state
from pipeline.errors import Interrupted, TrainingFault
from pipeline.micro_batches import halve_until_it_fits
from pipeline.optimizers import set_rate
from pipeline.precision import tune_allocator

if TYPE_CHECKING:
    from pipeline.run import StageRun

PATIENCE = 20  # steps in a row with a loss above DIVERGED times the mean of the first ones
DIVERGED = 2.0
GENTLER = 0.5  # the learning rate after a roll-back: the same steps would diverge again

Batch = Mapping[str, Tensor]


@dataclass
class Progress:
    """Where training stands, kept in every checkpoint; `high` counts the last losses above the limit."""

    step: int = 0
    micro_batch: int = 0
    rate_factor: float = 1.0
    high: int = 0
    elapsed_seconds: float = 0.0
    first_losses: list[float] = field(default_factory=list)


def fit(
    module: nn.Module,
    batch: Callable[[int], Batch],
    optimizer: torch.optim.Optimizer,
    run: StageRun,
    *,
    num_steps: int,
    rate: Callable[[int], float],
    checkpoint_every: int,
    micro_batch: int,
    max_grad_norm: float = 1.0,
    unit: str = "tokens",
    units_per_step: int,
) -> nn.Module:
    """Train from the newest checkpoint to the last step, which is saved too; returns the trained module.

    Args:
        module: called with the entries of a batch; gives the mean loss over its rows, or a dict of such means
            that are logged beside its "loss". It draws no random number.
        batch: tensors of one global batch, rows first, as a pure function of the step, counted from 0.
        optimizer: of the module's parameters, at the peak of their learning rates.
        run: the stage at work: precision, checkpoints, metrics, progress.
        num_steps: optimizer steps in all.
        rate: the multiple of the learning rate at a step.
        checkpoint_every: steps from checkpoint to checkpoint.
        micro_batch: rows of one forward and backward pass; halved when memory runs out.
        max_grad_norm: gradients are clipped to this norm.
        unit: what is counted in the metrics and on the bar.
        units_per_step: how many of them one step takes.

    Raises:
        TrainingFault: loss or gradient norm not finite (the step is not applied), a loss that stays above twice
            its start after one roll-back, or memory that does not hold one row.
        Interrupted: a signal asked to stop; everything is saved.
    """
    tune_allocator()
    accelerator = _accelerator()
    module, optimizer = accelerator.prepare(module.train(), optimizer)
    loop = _Loop(accelerator, module, optimizer, run, max_grad_norm)
    now = loop.restore() or Progress(micro_batch=micro_batch)
    rolled_back = False
    with run.progress("training", num_steps * units_per_step, unit, now.step * units_per_step) as bar:
        while now.step < num_steps:
            # 1. One step, applied only when its loss and gradient are finite.
            start, whole = time.perf_counter(), batch(now.step)
            set_rate(optimizer.param_groups, now.rate_factor * rate(now.step))
            measured = loop.step(whole, now)
            now.step += 1
            seconds = time.perf_counter() - start
            now.elapsed_seconds += seconds

            # 2. Metrics.
            counts = {unit: now.step * units_per_step, f"{unit}_per_second": units_per_step / seconds}
            loop.log(now, measured, counts)
            bar.advance(units_per_step, loss=measured["loss"])

            # 3. A loss that stays far above its start: back to the last good checkpoint once, more gently.
            if _watch(now, measured["loss"]) >= PATIENCE:
                diverged, now = now.step, loop.roll_back(now, rolled_back)
                rolled_back = True
                bar.advance((now.step - diverged) * units_per_step)
                continue

            # 4. Save, and leave when asked to. A state on its way to divergence is not worth keeping.
            stopping = loop.any_process(run.stop_requested())
            due = now.step % checkpoint_every == 0 or now.step == num_steps
            if (due or stopping) and not now.high:
                loop.save(now)
            if stopping:
                run.check_stop()
                raise Interrupted(signal.SIGTERM)  # another process was asked
    trained: nn.Module = accelerator.unwrap_model(module)
    return trained.eval()


def _accelerator() -> Accelerator:
    accelerator = Accelerator()
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InputError(
            f"{accelerator.distributed_type.value} was asked for; this stage trains on one process or with plain "
            "data parallelism: launch it without, for example `accelerate launch --multi_gpu -m pipeline ...`"
        )
    # Shared by all of a process: a trainer that stopped within a step would leave it off, and no step be applied.
    accelerator.sync_gradients = True
    return accelerator


def _watch(now: Progress, loss: float) -> int:
    """Count the losses in a row that lie above the limit; the first ones make the limit."""
    if len(now.first_losses) < PATIENCE:
        now.first_losses.append(loss)
    else:
        now.high = now.high + 1 if loss > DIVERGED * sum(now.first_losses) / PATIENCE else 0
    return now.high


@dataclass
class _Loop:
    """What every step works with."""

    accelerator: Accelerator
    module: nn.Module
    optimizer: Any
    run: StageRun
    max_grad_norm: float

    def step(self, whole: Batch, now: Progress) -> dict[str, float]:
        """Gradients of the global batch, then the update; halves the micro-batch where memory runs out."""
        sums, now.micro_batch = halve_until_it_fits(
            lambda size: self.gradients(whole, size),
            now.micro_batch,
            self.run,
            at_hand=self.share(whole),
            reset=self.optimizer.zero_grad,
            num_processes=self.accelerator.num_processes,
        )
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        # One transfer for all figures: each would make the device wait.
        figures = self.accelerator.reduce(torch.stack(list(sums.values())), "sum")
        figures = torch.cat([figures, norm.detach().to(figures).reshape(1)]).tolist()
        measured = dict(zip([*sums, "grad_norm"], figures, strict=True))
        for name in ("loss", "grad_norm"):
            if not math.isfinite(measured[name]):
                stop_at_fault(self.run, now.step + 1, name, measured[name], self.module, whole)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": measured["loss"], "learning_rate": self.optimizer.param_groups[0]["lr"], **measured}

    def gradients(self, whole: Batch, micro_batch: int) -> dict[str, Tensor]:
        """This process's part of the global batch's gradients and means, micro-batch after micro-batch."""
        sums: dict[str, Tensor] = {}
        parts = list(self.parts(whole, micro_batch))
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            share = _num_rows(part) / _num_rows(whole)
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                with self.autocast():
                    means = self.module(**part)
                means = {"loss": means} if isinstance(means, Tensor) else means
                # Data parallelism averages gradients over the processes; the sum is wanted.
                self.accelerator.backward(means["loss"] * (share * self.accelerator.num_processes))
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + mean.detach().float() * share
        return sums

    def parts(self, whole: Batch, micro_batch: int) -> Iterator[dict[str, Tensor]]:
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        for first in range(0, self.share(whole), micro_batch):
            rows = slice(rank + first * count, rank + (first + micro_batch) * count, count)
            yield {name: entry[rows].to(self.accelerator.device) for name, entry in whole.items()}

    def share(self, whole: Batch) -> int:
        """Rows of a global batch that fall to this process."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        return len(range(rank, _num_rows(whole), count))

    def autocast(self) -> torch.autocast:
        wanted = self.run.precision == "bfloat16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=wanted)

    def log(self, now: Progress, measured: Mapping[str, float], counts: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.run.log(now.step, **measured, **counts, elapsed_seconds=now.elapsed_seconds)

    def any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum")
        return bool(total > 0)

    def save(self, now: Progress) -> None:
        def write(folder: Path) -> None:
            model = self.accelerator.unwrap_model(self.module).state_dict()
            state = {"model": model, "optimizer": self.optimizer.state_dict(), "progress": asdict(now)}
            save_state(folder, state)

        if self.accelerator.is_main_process:
            self.run.checkpoints.save(now.step, write)
        self.accelerator.wait_for_everyone()

    def restore(self) -> Progress | None:
        """Load the newest checkpoint that verifies; None without any."""
        newest = self.run.checkpoints.latest()
        if newest is None:
            return None
        state = load_state(newest.path)
        self.accelerator.unwrap_model(self.module).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])

    def roll_back(self, now: Progress, rolled_back: bool) -> Progress:
        """Go back to the last good checkpoint with a smaller learning rate: once, and if there is one."""
        restored = None if rolled_back else self.restore()
        if restored is None:
            tried = "after one roll-back" if rolled_back else "before the first checkpoint"
            raise TrainingFault(
                f"{self.run.name}: the loss of the last {PATIENCE} steps to step {now.step} stayed above "
                f"{DIVERGED:g} times its start ({sum(now.first_losses) / PATIENCE:.3g}) {tried}. "
                "Lower learning_rate"
            )
        restored.rate_factor *= GENTLER
        if self.accelerator.is_main_process:
            self.run.cut_metrics(restored.step)
        self.run.say(
            f"the loss stayed above {DIVERGED:g} times its start: back to step {restored.step}, "
            f"learning rate times {GENTLER:g}"
        )
        return restored


def stop_at_fault(
    run: StageRun, step: int, name: str, value: float, module: nn.Module, batch: Batch
) -> NoReturn:
    """Keep the batch of a broken step and the names of the broken gradients in diagnosis/, and stop."""
    gradients = ((key, parameter.grad) for key, parameter in module.named_parameters())
    broken = [key for key, grad in gradients if grad is not None and not bool(grad.isfinite().all())]
    with run.publish("diagnosis") as folder:
        save_state(folder, {"step": step, name: str(value), "gradients": broken, "batch": dict(batch)})
    raise TrainingFault(
        f"{run.name}: {name} of step {step} is {value}; the step was not applied, its batch is in diagnosis/. "
        "Lower learning_rate or look into that batch"
    )


def _num_rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))
