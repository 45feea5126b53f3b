"""The policy of a PPO stage at the peak of gold, as a model of its own: what over-optimisation went past."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from data.errors import InputError
from data.settings import Settings
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS = {"trained": Input("ppo"), "policy": Input("sft")}
IGNORES_PRECISION = True


class Config(Settings):
    """No settings."""


def cost(config: Config, context: CostContext) -> Cost:
    """A copy of the policy."""
    trained = context.costs.get("trained")
    parameters = trained.parameters if trained is not None else 0
    return Cost(parameters=parameters, disk_bytes=4 * parameters)


def run(config: Config, run: StageRun) -> None:
    """Copy `peak/` of the PPO stage to `model/`; `policy` is the model that PPO started from.

    Raises:
        InputError: PPO kept no peak.
    """
    found = run.inputs["trained"] / "peak"
    if not found.is_dir():
        raise InputError(
            f"{run.name}: {run.inputs['trained'].name} kept no peak; set its keep_peak: true, and give it "
            "prompts whose truth is known and five steps or more"
        )
    with run.publish("model") as folder:
        shutil.copytree(found, folder, dirs_exist_ok=True)
