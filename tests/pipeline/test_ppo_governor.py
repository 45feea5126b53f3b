"""PPO's governor: what it rolls back, what it stops, and what it publishes."""

import pytest

from pipeline import ppo, ppo_learner
from pipeline.errors import TrainingFault
from pipeline.stages import ppo as stage


@pytest.fixture
def make(make_ppo):
    return make_ppo


class Reports:
    """Stands in for measured KL: what `experience` says at each call."""

    def __init__(self, kls):
        self.kls, self.real = list(kls), ppo.experience

    def __call__(self, learner, step):
        batch = self.real(learner, step)
        batch.measured["kl"] = self.kls.pop(0)
        return batch


@pytest.fixture
def run_stage(make, monkeypatch):
    """Runs the stage over toy learners that report the given KLs."""

    def run(kls, **changed):
        settings = {
            "num_episodes": 32 * 4,
            "max_kl": 5.0,
            "gate_prompts": 0,
            "checkpoint_every": 1,
            **changed,
        }
        learners = []

        def made(config, given):
            learners.append(make(**settings))
            learners[-1].run = given
            return learners[-1]

        monkeypatch.setattr(ppo_learner, "make_learner", made)
        monkeypatch.setattr(ppo_learner, "publish", lambda learner, name="model": None)
        monkeypatch.setattr(ppo, "experience", Reports(kls))
        first = make(**settings)
        stage.run(first.config, first.run)
        return learners[0]

    return run


def test_governor_rolls_back_to_the_last_healthy_policy_with_a_gentler_step(run_stage):
    learner = run_stage([0.0, 1.0, 9.0, 1.0, 1.0, 1.0], kl_coef=0.1)
    assert (
        learner.run.notes["rolled_back_to_step"] == 1
    )  # step 2 was never saved: its policy was past the limit
    assert learner.rolled_back
    assert (learner.rate_scale, learner.kl_coef) == (0.5, 0.2)
    lines = (learner.run.dir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4  # no step is counted twice


def test_governor_stops_after_one_roll_back_with_cause_and_remedy(run_stage):
    with pytest.raises(TrainingFault, match=r"Raise kl_coef \(now 0.2\) or lower learning_rate"):
        run_stage([0.0, 9.0, 9.0], kl_coef=0.1)


def test_kl_budget_ends_the_run(run_stage):
    learner = run_stage([0.0, 1.0, 4.0], kl_control="budget", kl_target=3.0)
    assert "spent at step 2" in learner.run.notes["stopped"]


def test_a_roll_back_forgets_the_batches_after_the_checkpoint(make, monkeypatch):
    learner = make()
    monkeypatch.setattr(ppo_learner, "publish", lambda *a: None)
    for step in range(3):
        ppo_learner.keep_peak(learner, step, 1.0)
    monkeypatch.setattr(ppo_learner, "make_learner", lambda config, run: make())
    assert ppo_learner.roll_back(learner) == 0
    assert learner.recent_gold == learner.recent_policies == []
