"""A training loop whose state is a sum of keyed draws."""

import json
import time
from functools import partial

from pydantic import Field, model_validator

from data.errors import InputError
from data.settings import Settings
from pipeline.recipe import Cost, Input

INPUTS = {"source": Input("source"), "policy": Input("train", optional=True)}


class Config(Settings):
    """Settings of the toy training."""

    learning_rate: float = Field(1e-4, gt=0, description="Weight of a draw.")
    num_steps: int = Field(6, ge=1, description="Steps.")
    warmup_steps: int = Field(0, ge=0, description="Steps that count half.")
    save_every: int = Field(2, ge=1, description="Steps between checkpoints.")
    step_seconds: float = Field(0.0, ge=0, description="Time of a step.")
    gate: bool | None = Field(None, description="Outcome of the toy gate.")

    @model_validator(mode="after")
    def _warmup_fits(self):
        if self.warmup_steps > self.num_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than num_steps {self.num_steps}")
        return self


def check(config, upstream):
    if upstream["source"] is not None and upstream["source"].num > 1000:
        raise InputError(f"source has {upstream['source'].num} numbers; at most 1000 fit")


def cost(config, context):
    return Cost(steps=config.num_steps, parameters=1, flops=1e6)


def run(config, run):
    state = {"step": 0, "total": float(len((run.inputs["source"] / "numbers.txt").read_text()))}
    if latest := run.checkpoints.latest():
        state = json.loads((latest.path / "state.json").read_text())
    run.gate("toy", config.gate, "as set")
    with run.progress("train", config.num_steps, "steps", state["step"]) as bar:
        for step in range(state["step"] + 1, config.num_steps + 1):
            time.sleep(config.step_seconds)
            state = {"step": step, "total": state["total"] + config.learning_rate * run.key("draw", step)}
            run.log(step, total=state["total"], now_seconds=time.time())
            bar.advance(1, total=state["total"])
            if step % config.save_every == 0 or run.stop_requested():
                run.checkpoints.save(step, partial(_write, state=state))
            run.check_stop()
    with run.publish("model") as folder:
        _write(folder, state)


def _write(folder, state):
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "ballast.bin").write_bytes(bytes(200_000))  # long enough to be killed in the middle
