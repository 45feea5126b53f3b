"""TRL's trainers under the rules of a stage: its order, metrics and signals, verified checkpoints, a NaN guard.

The trainer keeps what it is good at (the loss, accelerate, its own state files) and takes from the stage

- the batches, a list that is known before the first step, so that step n is the same batch in every process,
- the folder of a checkpoint, which is staged, listed with checksums and renamed, and verified before the
  trainer sees it again; a damaged one gives way to the previous one,
- the guard: a step whose loss or gradient norm is not finite is not applied, its batch is kept,
- smaller micro-batches where memory runs out, of the same batch,
- metrics.jsonl, the progress bar, and what happens on a signal.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from pipeline.checkpoint import save_state
from pipeline.errors import TrainingFault
from pipeline.metrics import read_metrics
from pipeline.micro_batches import halve_until_it_fits, micro_batches, num_rows
from pipeline.optimizers import make_optimizer, rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.run import StageRun

PATIENCE = 20  # steps in a row with a loss above DIVERGED times the first ones' before training stops
DIVERGED = 2.0
RENAMED = {
    "mean_token_accuracy": "token_accuracy",
    "mean_reward": "score",
    "margin": "score_gap",
    # of DPO; a reward there is beta times a log-ratio
    "rewards/accuracies": "accuracy",
    "rewards/margins": "score_gap",
    "rewards/chosen": "chosen_score",
    "rewards/rejected": "rejected_score",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
    # of the trainers that sample, where it is a mean per token
    "kl": "kl_per_token",
    "kl_per_completion": "kl",
    "clip_ratio/region_mean": "clipfrac",
    "frac_reward_zero_std": "groups_without_signal",
}
# num_tokens restarts from 0 when a trainer resumes (ours does not), the rest follows from the step or is measured
# by ourselves.
UNWANTED = ("epoch", "num_tokens", "min_reward", "max_reward", "reward", "reward_std", "step_time")
UNWANTED_GROUPS = ("completions/", "rewards/_placeholder/")


@dataclass(frozen=True)
class Batches:
    """What each step trains on, known before the first one.

    `micro` lists the rows of each micro-batch; every `accumulation` times `processes` of them make a step.
    `tokens` is the number of tokens of each row; `unit` names what `counted_after` counts. `reuse` steps learn
    from one batch that the trainer sampled: a checkpoint in between would lose it.
    """

    micro: Sequence[Sequence[int]]
    tokens: Sequence[int]
    accumulation: int = 1
    processes: int = 1
    reuse: int = 1
    unit: str = "tokens"

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return len(self.micro) // self.per_step

    @property
    def per_step(self) -> int:
        """Micro-batches in one step, over all processes."""
        return self.accumulation * self.processes

    @cached_property
    def _counts(self) -> list[int]:
        return list(accumulate((sum(self.tokens[row] for row in rows) for rows in self.micro), initial=0))

    def counted_after(self, step: int) -> int:
        """Units trained on up to and with this step."""
        return self._counts[step * self.per_step]


def batches(
    epochs: Sequence[Sequence[Sequence[int]]],
    tokens: Sequence[int],
    *,
    micro_batch_size: int,
    processes: int = 1,
) -> Batches:
    """Cut the batches of all epochs, each a list of rows, into micro-batches of at most `micro_batch_size` rows.

    Every batch gives the same number of micro-batches, a multiple of `processes`, of nearly equal size, so that
    the same global batches are taken whatever the number of processes. A batch with fewer rows than that (the
    remainder of an epoch) is left out, unless nothing else is left; then it is refused.

    Raises:
        TrainingFault: fewer rows than processes.
    """
    whole = [list(batch) for epoch in epochs for batch in epoch]
    largest = max((len(batch) for batch in whole), default=0)
    parts = processes * math.ceil(largest / (micro_batch_size * processes))
    kept = [batch for batch in whole if len(batch) >= parts]
    if not kept:
        raise TrainingFault(f"{largest} rows cannot be dealt to {processes} processes; use fewer processes")
    micro = [batch[part::parts] for batch in kept for part in range(parts)]
    return Batches(micro, tokens, accumulation=parts // processes, processes=processes)


def arguments(run: StageRun, plan: Batches, *, max_grad_norm: float, **more: Any) -> dict[str, Any]:
    """Settings that every trainer gets; `more` wins."""
    return {
        "output_dir": str(run.dir / "checkpoints"),
        "seed": run.key("trainer") % 2**31,
        "num_train_epochs": 1,  # the batches of all epochs are one list
        "gradient_accumulation_steps": plan.accumulation,
        "per_device_train_batch_size": max(len(rows) for rows in plan.micro),
        "max_grad_norm": max_grad_norm,
        "bf16": run.precision == "bfloat16",
        "use_cpu": run.device.type == "cpu",
        "activation_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # on, it hides a NaN behind the average of the steps before
        "save_strategy": "no",  # the stage decides
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": run.device.type == "cuda",
        "average_tokens_across_devices": plan.processes > 1,
        **more,
    }


def num_processes() -> int:
    """Processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def optimizer_and_schedule(config: Any, run: StageRun, model: Any, num_steps: int) -> tuple[Any, Any]:
    """Make the optimizer and schedule of a stage's settings.

    Those are `optimizer`, `learning_rate`, `weight_decay`, `schedule` and `warmup_share`.
    """
    optimizer = make_optimizer(
        model,
        config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        precision=run.precision,
    )
    return optimizer, schedule_of(config, optimizer, num_steps)


def schedule_of(config: Any, optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    """Make the schedule that `schedule` and `warmup_share` ask for, of all the optimizer's rates alike."""
    num_warmup = round(config.warmup_share * num_steps)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(config.schedule, step, num_steps=num_steps, num_warmup=num_warmup)
    )


def train(
    trainer_class: type,
    run: StageRun,
    plan: Batches,
    *,
    checkpoint_every: int,
    describe: Callable[[Mapping[str, Any]], str] = lambda inputs: "",
    paired: bool = False,
    **options: Any,
) -> Any:
    """Train with a TRL trainer from the newest verified checkpoint to the end; returns the trainer.

    Args:
        trainer_class: a class of TRL's trainers.
        run: the stage at work.
        plan: the batches of all steps.
        checkpoint_every: steps from checkpoint to checkpoint; the last step is always saved.
        describe: says what stands in a batch that broke training.
        paired: a batch is the first rows of all pairs, then the second ones; pairs stay together.
        options: of the trainer's constructor.

    Raises:
        TrainingFault: the loss or gradient norm is not finite, the loss stays above twice its start, or memory
            does not hold one row.
        Interrupted: a signal asked to stop; everything is saved.
    """
    newest = run.checkpoints.latest()
    done = newest.step if newest else 0
    with quiet_libraries():
        trainer = adapt(trainer_class)(stage=run, plan=plan, describe=describe, paired=paired, **options)
        with run.progress(
            "training", plan.counted_after(plan.num_steps), plan.unit, plan.counted_after(done)
        ) as bar:
            trainer.add_callback(_watcher(run, plan, bar, checkpoint_every))
            trainer.train(resume_from_checkpoint=str(_trainer_folder(newest.path)) if newest else None)
    run.check_stop()
    return trainer


def adapt(trainer_class: type) -> type:
    """Make a trainer class take its batches from the stage, save through it, and stop at a NaN."""
    return type(trainer_class.__name__, (StageTrainer, trainer_class), {})


class StageTrainer(Trainer):
    """What a stage changes of any TRL trainer; stands before the trainer's own class."""

    def __init__(
        self,
        *,
        stage: StageRun,
        plan: Batches,
        describe: Callable[[Mapping[str, Any]], str],
        paired: bool,
        **options: Any,
    ) -> None:
        self.stage, self.plan, self.describe, self.paired = stage, plan, describe, paired
        self.checkpoint_folder = options["args"].output_dir
        self.last_inputs: dict[str, Any] = {}
        self.begun: list[dict[str, Any]] = []  # the batches of this step so far
        super().__init__(**options)
        self.remove_callback(PrinterCallback)

    def _send_telemetry(self) -> None:
        """Nothing: a local run never touches the network."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a card comes with an export."""

    def get_train_dataloader(self) -> DataLoader:
        """Load the planned micro-batches in their order."""
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=_Fixed(self.plan.micro),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        """Gradients of one micro-batch of the plan, in smaller ones where memory runs out; its loss in nats."""
        if isinstance(inputs, list):  # prompts: the trainer samples, and cuts what it sampled by itself
            loss = super().training_step(model, inputs, num_items)
            if not math.isfinite(loss.item()):
                _stop_at_fault(self, "loss", loss.item())
            return loss
        self.last_inputs = dict(inputs)
        if len(self.begun) == self.plan.accumulation:
            self.begun = []
        self.begun.append(inputs)
        waiting = [inputs]

        def gradients(micro_batch: int) -> torch.Tensor:
            return [self._gradients(model, whole, num_items, micro_batch) for whole in waiting][-1]

        def reset() -> None:
            model.zero_grad()
            self._metrics["train"].clear()
            waiting[:] = self.begun

        # The trainer keeps this number in its checkpoints and makes no other use of it.
        loss, self.state.train_batch_size = halve_until_it_fits(
            gradients,
            self.state.train_batch_size,
            self.stage,
            at_hand=num_rows(inputs, paired=self.paired),
            reset=reset,
            unit="pairs" if self.paired else "rows",
            num_processes=self.accelerator.num_processes,
        )
        if not math.isfinite(loss.item()):
            _stop_at_fault(self, "loss", loss.item())
        return loss

    def _gradients(self, model: Any, whole: dict[str, Any], num_items: Any, micro_batch: int) -> torch.Tensor:
        """Add up the gradients of a batch, micro-batch after micro-batch; returns its loss."""
        losses, steps = [], self.plan.accumulation
        try:
            for part, share in micro_batches(whole, micro_batch, paired=self.paired):
                # The trainer divides a mean by this number, and leaves a sum over `num_items` as it is.
                self.current_gradient_accumulation_steps = steps / share
                losses.append(super().training_step(model, part, num_items))
        finally:
            self.current_gradient_accumulation_steps = steps
        return torch.stack(losses).sum()

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            _stop_at_fault(self, "gradient norm", float(norm))
        return norm

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle of our own settings with absolute paths, which nothing reads.
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        def write(folder: Path | None) -> None:
            self.checkpoint_folder = self._agree_on(folder)
            super(StageTrainer, self)._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()

        if self.accelerator.is_main_process:
            self.stage.checkpoints.save(self.state.global_step, write)
        else:
            write(None)
        self.checkpoint_folder = self.args.output_dir
        self.accelerator.wait_for_everyone()

    def _agree_on(self, folder: Path | None) -> str:
        from accelerate.utils import broadcast_object_list

        agreed: list[Any] = broadcast_object_list([None if folder is None else str(folder)])
        return str(agreed[0])


class _Fixed(torch.utils.data.Sampler):
    """A batch sampler that gives the listed batches in their order."""

    def __init__(self, listed: Sequence[Sequence[int]]) -> None:
        self.listed = listed
        self.batch_size = max(len(rows) for rows in listed)
        self.drop_last = False

    def __iter__(self) -> Iterator[list[int]]:
        return iter([list(rows) for rows in self.listed])

    def __len__(self) -> int:
        return len(self.listed)


def _trainer_folder(checkpoint: Path) -> Path:
    """The trainer's own folder inside a verified checkpoint."""
    (folder,) = checkpoint.glob("checkpoint-*")
    return folder


def _watcher(run: StageRun, plan: Batches, bar: Any, checkpoint_every: int) -> TrainerCallback:
    """Write metrics, move the bar, watch the loss, and ask for a checkpoint or a stop after a step."""
    losses = [line["loss"] for line in read_metrics(run.dir / "metrics.jsonl") if "loss" in line]

    class Watcher(TrainerCallback):
        def __init__(self) -> None:
            self.started = time.perf_counter()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % plan.reuse:
                return
            stop, last = run.stop_requested(), state.global_step == plan.num_steps
            control.should_save = stop or last or state.global_step % checkpoint_every == 0
            control.should_training_stop = control.should_training_stop or stop

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            state.log_history.clear()  # metrics.jsonl is the record; this one would be saved each time
            if "loss" not in logs:
                return  # the summary at the end
            step, seconds = state.global_step, time.perf_counter() - self.started
            num = plan.counted_after(step) - plan.counted_after(step - 1)
            values = {RENAMED.get(name, name): value for name, value in logs.items() if _wanted(name)}
            values[plan.unit] = plan.counted_after(step)
            run.log(step, **values, **{f"{plan.unit}_per_second": num / seconds})
            bar.advance(num, loss=logs["loss"])
            losses.append(logs["loss"])
            if plan.unit == "tokens" and diverged(losses):  # the loss of what is sampled says nothing
                raise TrainingFault(
                    f"{run.name}: the loss of the last {PATIENCE} steps (now {losses[-1]:.3g}) stayed above "
                    f"{DIVERGED:g} times that of the first ones. Lower learning_rate (now "
                    f"{logs['learning_rate']:g})"
                )

    return Watcher()


def _wanted(name: str) -> bool:
    return name not in UNWANTED and not name.startswith(UNWANTED_GROUPS)


def diverged(losses: Sequence[float], *, patience: int = PATIENCE, factor: float = DIVERGED) -> bool:
    """Tell whether each of the last `patience` losses is above `factor` times the mean of the first ones."""
    if len(losses) < 2 * patience:
        return False
    start = sum(losses[:patience]) / patience
    return min(losses[-patience:]) > factor * start


def _stop_at_fault(trainer: Any, what: str, value: float) -> None:
    """Keep the batch that broke training, with the names of the broken gradients, and stop."""
    run, step = trainer.stage, trainer.state.global_step + 1
    broken = [
        name
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    tensors = {name: x for name, x in trainer.last_inputs.items() if isinstance(x, torch.Tensor)}
    with run.publish("diagnosis") as folder:
        save_state(folder, {"step": step, what: str(value), "gradients": broken, "batch": tensors})
    raise TrainingFault(
        f"{run.name}: the {what} of step {step} is {value}; the step was not applied, its batch is in diagnosis/"
        f"{trainer.describe(tensors)}. Lower learning_rate or look into that batch"
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the trainers' own progress bars and advice off the terminal while they work."""
    import datasets
    import transformers

    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # TRL asks transformers by a deprecated name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
        if not bars:
            datasets.enable_progress_bars()
