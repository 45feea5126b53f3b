"""The audit of PPO names settings and tests that exist."""

import re
from pathlib import Path

import pytest

from data import open_folder
from pipeline.ppo_audit import DETAILS

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: detail.what[:40])
def test_every_detail_has_its_setting_and_its_test(detail):
    for name in detail.settings:
        stage, _, key = name.partition(".")
        assert key in open_folder.load("pipeline.stages", stage).Config.model_fields
    file, _, test = detail.test.partition("::")
    assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.MULTILINE), detail.test


def test_its_value_is_that_of_the_run():
    detail = next(detail for detail in DETAILS if "ppo.gamma" in detail.settings)
    assert detail.value({"ppo": {"gamma": 1.0, "lam": 0.95}}) == "gamma 1.0, lam 0.95"
    assert DETAILS[0].value({}) == "fixed"
