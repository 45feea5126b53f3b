"""The loop learns, continues bit for bit, splits batches without changing them, and stops where it must."""

import signal

import pytest
import torch
from torch import nn

from pipeline import fit as loop
from pipeline.checkpoint import load_state
from pipeline.errors import Interrupted, TrainingFault
from pipeline.fit import fit
from pipeline.metrics import read_metrics
from pipeline.run import StageRun
from pipeline.signals import StopFlag

TRUTH = torch.tensor([[2.0], [-3.0], [0.5]])


class Regression(nn.Module):
    """Predicts y from x by one linear layer; squared error."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, y):
        error = (self.linear(x) - y).square().mean()
        return {"loss": error, "root": error.detach().sqrt()}


def batch(step, rows=12):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x @ TRUTH}


def stage_run(folder, name="train", **options):
    return StageRun(name, folder, **options)


def train(run, module=None, batch=batch, num_steps=30, learning_rate=0.3, **options):
    module = module or Regression()
    given = {
        "rate": lambda step: 1.0,
        "checkpoint_every": 5,
        "micro_batch": 12,
        "unit": "rows",
        "units_per_step": 12,
    }
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.0)
    return fit(module, batch, optimizer, run, num_steps=num_steps, **(given | options))


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def metrics(run):
    return [
        {name: value for name, value in line.items() if not name.endswith(("_seconds", "_per_second"))}
        for line in read_metrics(run.dir / "metrics.jsonl")
    ]


def test_learns_what_the_batches_say(tmp_path):
    module = train(stage_run(tmp_path), num_steps=150, rate=lambda step: 1 - step / 150)
    assert torch.allclose(module.linear.weight, TRUTH.T, atol=0.01)
    still = train(stage_run(tmp_path, "still"), num_steps=150, rate=lambda step: 0.0)
    assert weights(still).norm() == 0


def test_a_trainer_that_stopped_within_a_step_leaves_nothing_behind(tmp_path):
    from accelerate.state import GradientState

    expected = train(stage_run(tmp_path, "alone"))
    GradientState().sync_gradients = False  # as a trainer leaves it that raises before its last micro-batch
    assert torch.equal(weights(train(stage_run(tmp_path, "after"))), weights(expected))


def test_every_step_is_measured(tmp_path):
    run = stage_run(tmp_path)
    train(run, num_steps=3, rate=lambda step: 1 / (1 + step))
    lines = read_metrics(run.dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["rows"] for line in lines] == [12, 24, 36]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.3, 0.15, 0.1])
    first = batch(0)["y"].square().mean().item()
    assert lines[0]["loss"] == pytest.approx(first)
    assert {"grad_norm", "root", "rows_per_second", "elapsed_seconds"} <= set(lines[0])
    assert lines[0]["elapsed_seconds"] < lines[2]["elapsed_seconds"]


def test_two_runs_are_equal_bit_for_bit(tmp_path):
    one, two = stage_run(tmp_path, "one"), stage_run(tmp_path, "two")
    assert torch.equal(weights(train(one)), weights(train(two)))
    assert metrics(one) == metrics(two)


@pytest.mark.parametrize("stop_at", [0, 7, 29])
def test_stopped_and_continued_equals_uninterrupted(tmp_path, stop_at):
    whole = stage_run(tmp_path, "whole")
    expected = weights(train(whole))
    flag = StopFlag()

    def stopping(step):
        if step == stop_at:
            flag.signum = signal.SIGTERM
        return batch(step)

    run = stage_run(tmp_path, stop=flag)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(run, batch=stopping)
    assert run.checkpoints.latest().step == stop_at + 1
    seen = []
    continued = stage_run(tmp_path)
    module = train(continued, batch=lambda step: (seen.append(step), batch(step))[1])
    assert seen == list(range(stop_at + 1, 30))
    assert torch.equal(weights(module), expected)
    assert metrics(continued) == metrics(whole)


def test_a_death_between_checkpoints_repeats_the_steps_since(tmp_path):
    whole = stage_run(tmp_path, "whole")
    expected = weights(train(whole))

    def dying(step):
        if step == 13:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(stage_run(tmp_path), batch=dying)
    continued = stage_run(tmp_path)
    assert continued.checkpoints.latest().step == 10
    assert torch.equal(weights(train(continued)), expected)
    assert metrics(continued) == metrics(whole)


@pytest.mark.parametrize("micro_batch", [1, 5, 7])
def test_micro_batches_take_the_same_steps(tmp_path, micro_batch):
    whole = train(stage_run(tmp_path, "whole"), num_steps=5)
    split = train(stage_run(tmp_path, "split"), num_steps=5, micro_batch=micro_batch)
    assert torch.allclose(weights(split), weights(whole), atol=1e-5)
    lines = [metrics(stage_run(tmp_path, name)) for name in ("whole", "split")]
    assert [line["loss"] for line in lines[0]] == pytest.approx([line["loss"] for line in lines[1]], rel=1e-5)


@pytest.mark.parametrize("place", ["loss", "grad_norm"])
def test_a_number_that_is_none_is_not_applied_and_its_batch_is_kept(tmp_path, place):
    class Broken(Regression):
        def forward(self, x, y):
            # The root of a negative number is none; that of zero has a value, but an infinite slope.
            root = (0 * self.linear.bias.sum() - float(place == "loss")).sqrt()
            return super().forward(x, y)["loss"] + (root if bool((x == 7).any()) else 0)

    def poisoned(step):
        whole = batch(step)
        whole["x"][0, 0] = 7 if step == 6 else whole["x"][0, 0]
        return whole

    run, module = stage_run(tmp_path), Broken()
    with pytest.raises(TrainingFault, match=f"{place} of step 7 is nan.*not applied.*diagnosis"):
        train(run, module, poisoned)
    assert [line["step"] for line in metrics(run)] == list(range(1, 7))
    assert torch.equal(weights(module), weights(train(stage_run(tmp_path, "before"), Broken(), num_steps=6)))
    kept = load_state(run.dir / "diagnosis")
    assert kept["step"] == 7
    assert torch.equal(kept["batch"]["x"], poisoned(6)["x"])
    assert kept["gradients"]


def diverging(step):
    """Sound batches, then targets a hundred times as large."""
    whole = batch(step)
    return whole if step < 25 or step > 60 else {"x": whole["x"], "y": 100 * whole["y"]}


def test_a_loss_far_above_its_start_goes_back_once_then_stops(tmp_path):
    said = []
    run = stage_run(tmp_path)
    run.say = said.append
    with pytest.raises(TrainingFault, match=r"step 45 stayed above 2 times its start.*after one roll-back"):
        train(run, batch=diverging, num_steps=80, learning_rate=0.01)
    assert len(said) == 1
    assert "back to step 25, learning rate times 0.5" in said[0]
    assert [line["step"] for line in metrics(run)] == list(range(1, 46))
    rates = {line["step"]: line["learning_rate"] for line in metrics(run)}
    assert rates[25] == 0.01
    assert rates[26] == 0.005
    # No state of the divergence was kept.
    assert run.checkpoints.steps() == [20, 25]


def test_a_loss_that_is_far_above_its_start_before_any_checkpoint_stops(tmp_path):
    with pytest.raises(TrainingFault, match="before the first checkpoint"):
        train(stage_run(tmp_path), batch=diverging, num_steps=80, learning_rate=0.01, checkpoint_every=100)


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_batch(tmp_path):
    class Large(Regression):
        def forward(self, x, y):
            if len(x) > 4:
                raise RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
                )
            return super().forward(x, y)

    said = []
    run = stage_run(tmp_path)
    run.say = said.append
    module = train(run, Large(), num_steps=8)
    assert [text.rpartition("of ")[2] for text in said] == ["6 rows", "3 rows"]
    whole = train(stage_run(tmp_path, "whole"), num_steps=8)
    assert torch.allclose(weights(module), weights(whole), atol=1e-5)
    # A continued run goes on with what fitted.
    assert load_state(run.checkpoints.latest().path)["progress"]["micro_batch"] == 3


def test_memory_that_does_not_hold_one_row_is_said(tmp_path):
    class Huge(Regression):
        def forward(self, x, y):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TrainingFault, match="out of memory with a micro-batch of 1 rows"):
        train(stage_run(tmp_path), Huge())


def test_another_error_is_not_taken_for_want_of_memory(tmp_path):
    class Wrong(Regression):
        def forward(self, x, y):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(stage_run(tmp_path), Wrong())


def test_bfloat16_computes_in_bfloat16(tmp_path):
    seen = []

    class Watched(Regression):
        def forward(self, x, y):
            seen.append(self.linear(x).dtype)
            return super().forward(x, y)

    train(stage_run(tmp_path, precision="bfloat16"), Watched(), num_steps=1)
    train(stage_run(tmp_path, "other"), Watched(), num_steps=1)
    assert seen == [torch.bfloat16, torch.float32]


def test_sharded_launches_are_refused_with_the_remedy(monkeypatch):
    class Sharded:
        distributed_type = loop.DistributedType.FSDP

    monkeypatch.setattr(loop, "Accelerator", Sharded)
    with pytest.raises(ValueError, match="plain data parallelism"):
        loop._accelerator()
