"""Gathers the totals of all trainings into a report."""

import json

from data.settings import Settings
from pipeline.recipe import Input

INPUTS = {"models": Input(("train",), many=True)}


class Config(Settings):
    """The toy summary has no settings."""


def run(config, run):
    states = [json.loads((folder / "model" / "state.json").read_text()) for folder in run.inputs["models"]]
    for name in ("report.json", "report.html"):
        with run.publish(name) as path:
            path.write_text(json.dumps({"models": run.input_names["models"], "states": states}))
