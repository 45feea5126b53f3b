"""The toy stages, and recipes of them."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy"
RECIPE = """\
name: toy
precision: float32
stages:
  source: {}
  train: {}
  tuned: {stage: train, learning_rate: 1e-5}
  summary: {}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A working directory with recipe.yaml of toy stages, which can be imported."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEDGE_DATA", raising=False)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def start_toy(toy):
    """Starts a toy run in a process of its own, which ends with the test."""
    started = []

    def start(*changes, **options):
        environment = {**os.environ, "PYTHONPATH": str(TOY)}
        command = [sys.executable, str(TOY / "toy_run.py"), "recipe.yaml", "runs", *changes]
        process = subprocess.Popen(
            command, cwd=toy, env=environment, text=True, **{"stdout": -1, "stderr": -2, **options}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture(scope="session")
def make_artificial_run():
    """The function that writes a finished run of the closed world, without any model."""
    return runpy.run_path(str(Path(__file__).with_name("artificial_run.py")))["make"]


@pytest.fixture(scope="session")
def artificial_run(make_artificial_run, tmp_path_factory):
    """A finished run of the closed world; read only."""
    return make_artificial_run(tmp_path_factory.mktemp("runs") / "artificial")
