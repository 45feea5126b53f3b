"""The peak of a PPO stage as a model of its own."""

import pytest

from data.errors import InputError
from pipeline.run import StageRun
from pipeline.stages import peak as stage


def test_the_kept_policy_is_copied(tmp_path):
    trained = tmp_path / "ppo"
    (trained / "peak").mkdir(parents=True)
    (trained / "peak" / "config.json").write_text("{}")
    run = StageRun("peak", tmp_path / "run", inputs={"trained": trained, "policy": tmp_path})
    stage.run(stage.Config(), run)
    assert (run.dir / "model" / "config.json").read_text() == "{}"


def test_a_stage_without_a_peak_is_named_with_the_remedy(tmp_path):
    (tmp_path / "ppo").mkdir()
    run = StageRun("peak", tmp_path / "run", inputs={"trained": tmp_path / "ppo", "policy": tmp_path})
    with pytest.raises(InputError, match="ppo kept no peak; set its keep_peak: true"):
        stage.run(stage.Config(), run)
