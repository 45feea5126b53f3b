"""The audit of PPO misses no detail, and names settings and tests that exist and run."""

import subprocess
import sys
from pathlib import Path

import pytest

from data import open_folder
from pipeline.ppo_audit import DETAILS, NUM_ROWS

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: detail.what[:40])
def test_every_detail_has_its_settings(detail):
    for name in detail.settings:
        stage, _, key = name.partition(".")
        assert key in open_folder.load("pipeline.stages", stage).Config.model_fields


def test_every_row_has_its_detail():
    assert {detail.row for detail in DETAILS} == {*range(1, NUM_ROWS + 1), None}


def test_every_test_that_is_named_is_collected():
    named = sorted({str(TESTS / detail.test) for detail in DETAILS})
    command = [sys.executable, "-m", "pytest", "--collect-only", *named]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_of_ppo_but_those_of_its_work_is_in_it():
    of_work = {
        "rewards",
        "num_episodes",
        "batch_size",
        "micro_batch_size",
        "max_new_tokens",
        "lora_rank",
        "lora_alpha",
        "checkpoint_every",
        "gate_judge",
    }
    named = {name for detail in DETAILS for name in detail.settings}
    fields = open_folder.load("pipeline.stages", "ppo").Config.model_fields
    assert {f"ppo.{name}" for name in fields if name not in of_work} <= named


def test_its_value_is_that_of_the_run():
    detail = next(detail for detail in DETAILS if "ppo.gamma" in detail.settings)
    assert detail.value({"ppo": {"gamma": 1.0, "lam": 0.95}}) == "gamma 1.0, lam 0.95"
    assert DETAILS[0].value({}) == "fixed"
