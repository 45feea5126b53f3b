"""Runs a recipe of toy stages as `fledge run` would: python toy_run.py RECIPE RUNS_DIR [KEY=VALUE ...]."""

import sys
from pathlib import Path

from pipeline.cli import run_safely
from pipeline.execute import execute
from pipeline.graph import load_recipe
from pipeline.progress import Reporter, protect_output


def toy_run():
    recipe = load_recipe(Path(sys.argv[1]), sys.argv[3:], runs_dir=Path(sys.argv[2]), package="toy_stages")
    execute(recipe, runs_dir=Path(sys.argv[2]), reporter=Reporter())
    print("finished")


if __name__ == "__main__":
    protect_output()
    sys.exit(run_safely(toy_run))
