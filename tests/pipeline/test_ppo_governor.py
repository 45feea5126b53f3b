"""PPO's governor: what it rolls back, what it stops, and what it publishes."""

import pytest
import torch

from pipeline import ppo, ppo_learner
from pipeline.errors import TrainingFault
from pipeline.metrics import read_metrics
from pipeline.stages import ppo as stage

SETTINGS = {"num_episodes": 32 * 4, "max_kl": 5.0, "gate_prompts": 0, "checkpoint_every": 1}
# Real figures: the policy passes 3 nats in the first steps; at half the rate and twice the penalty it does not.
BAD = {
    **SETTINGS,
    "num_episodes": 32 * 6,
    "max_kl": 3.0,
    "learning_rate": 1e-2,
    "kl_coef": 0.05,
    "checkpoint_every": 2,
}


class Reports:
    """Stands in for measured KL: what each batch has, and the policy after the last update."""

    def __init__(self, monkeypatch, kls):
        self.kls, self.real = list(kls), ppo.experience
        monkeypatch.setattr(ppo, "experience", self.experience)
        monkeypatch.setattr(ppo, "final_kl", lambda learner: self.kls.pop(0))

    def experience(self, learner, step):
        batch = self.real(learner, step)
        batch.measured["kl"] = self.kls.pop(0)
        return batch


class Ran:
    """A stage that ran: its learner, and the policies that it published by name."""

    def __init__(self):
        self.learner, self.published = None, {}


@pytest.fixture
def run_stage(make_ppo, monkeypatch):
    """Runs the stage over a toy learner, with the given KLs where there are some."""

    def run(kls=None, folder="run", **changed):
        settings = {**SETTINGS, **changed}
        ran = Ran()

        def made(config, given):
            assert ran.learner is None, "the models are loaded a second time"
            ran.learner = make_ppo(folder, **settings)
            ran.learner.run = given
            return ran.learner

        def published(learner, name="model"):
            ran.published[name] = weights(learner)

        monkeypatch.setattr(ppo_learner, "make_learner", made)
        monkeypatch.setattr(ppo_learner, "publish", published)
        monkeypatch.setattr(ppo_learner, "publish_critic", lambda learner: None)
        first = make_ppo(folder, **settings)
        with monkeypatch.context() as during:
            if kls is not None:
                Reports(during, kls)
            stage.run(first.config, first.run)
        return ran

    return run


def weights(learner):
    return {name: value.detach().clone() for name, value in learner.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_governor_rolls_back_to_the_last_healthy_policy_with_a_gentler_step(run_stage):
    learner = run_stage([0.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0], kl_coef=0.1).learner
    # step 2 was never saved: its policy was past the limit
    assert learner.run.notes["rolled_back_to_step"] == 1
    assert learner.rolled_back
    assert (learner.rate_scale, learner.kl_coef) == (0.5, 0.2)
    lines = (learner.run.dir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4  # no step is counted twice


def test_governor_stops_after_one_roll_back_with_cause_and_remedy(run_stage):
    with pytest.raises(TrainingFault, match=r"Raise kl_coef \(now 0.2\) or lower learning_rate"):
        run_stage([0.0, 9.0, 9.0], kl_coef=0.1)


def test_the_policy_after_the_last_update_is_held_to_the_limit_too(run_stage):
    ran = run_stage([0.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0], kl_coef=0.1)
    assert ran.learner.run.notes["rolled_back_to_step"] == 3
    assert "model" in ran.published
    with pytest.raises(TrainingFault, match=r"step 4: the policy is 9\.0 nats"):
        run_stage([0.0, 1.0, 1.0, 1.0, 9.0, 1.0, 9.0], folder="again", kl_coef=0.1)


def test_measuring_it_changes_no_weight(run_stage, make_ppo):
    ran = run_stage()
    assert ran.learner.run.notes["final_kl"] > 0
    alone = make_ppo("alone", **SETTINGS)
    for step in range(4):
        ppo.update(alone, step, ppo.experience(alone, step))
    assert same(weights(alone), ran.published["model"])
    assert ran.learner.run.notes["final_kl"] == ppo.experience(alone, 4).measured["kl"]


@pytest.mark.parametrize("value_model", ["head", "separate", "adapters"])
def test_a_kl_budget_ends_the_run_with_the_last_policy_inside_it(run_stage, make_ppo, value_model):
    settings = {"kl_control": "budget", "kl_target": 3.0, "value_model": value_model}
    ran = run_stage([0.0, 1.0, 4.0], **settings)
    assert "spent at step 2" in ran.learner.run.notes["stopped"]
    alone = make_ppo("alone", **{**SETTINGS, **settings})
    ppo.update(alone, 0, ppo.experience(alone, 0))
    assert same(weights(alone), ran.published["model"])
    last = run_stage([0.0, 1.0, 1.0, 1.0, 4.0], folder="last", **settings)
    assert "spent at step 4" in last.learner.run.notes["stopped"]
    assert not same(weights(alone), last.published["model"])


def test_an_adaptive_penalty_follows_the_kl_of_every_batch(run_stage):
    settings = {"kl_control": "adaptive", "kl_target": 2.0, "kl_horizon": 320, "kl_coef": 0.1, "max_kl": 1e6}
    ran = run_stage([0.0, 9.0, 2.2, 2.0, 2.0], **settings)
    used = [line["kl_coef"] for line in read_metrics(ran.learner.run.dir / "metrics.jsonl")]
    # A batch is a tenth of the horizon; the error of 2.2 is .1, and the first two are clipped to -.2 and .2.
    assert used == pytest.approx([0.1, 0.1 * 0.98, 0.1 * 0.98 * 1.02, 0.1 * 0.98 * 1.02 * 1.01])


def test_a_roll_back_forgets_the_batches_after_the_checkpoint(make_ppo, monkeypatch):
    learner = make_ppo()
    assert ppo_learner.resume(learner) == 0
    monkeypatch.setattr(ppo_learner, "publish", lambda *a: None)
    for step in range(3):
        ppo_learner.keep_peak(learner, step, gold=1.0, kl=1.0)
    assert ppo_learner.roll_back(learner) == 0
    assert learner.recent_gold == learner.recent_kl == learner.recent_policies == []


@pytest.mark.parametrize("value_model", ["head", "separate", "adapters"])
def test_a_roll_back_gives_the_modules_that_are_there_their_start(make_ppo, value_model):
    learner = make_ppo(value_model=value_model)
    start, parts = weights(learner), (learner.model, learner.reference, learner.rewards, learner.trunk)
    assert ppo_learner.resume(learner) == 0
    ppo.update(learner, 0, ppo.experience(learner, 0))
    assert ppo_learner.roll_back(learner) == 0
    assert same(start, weights(learner))
    assert not learner.optimizer.state
    assert parts == (learner.model, learner.reference, learner.rewards, learner.trunk)


def test_a_roll_back_turns_a_missing_penalty_on(run_stage):
    learner = run_stage([0.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0], kl_coef=0.0).learner
    assert learner.kl_coef == ppo_learner.ROLL_BACK_KL_FROM_0 > 0


def test_a_run_that_leaves_its_start_too_fast_is_rolled_back_and_finishes(run_stage):
    notes = run_stage(**BAD).learner.run.notes
    assert notes["rolled_back_to_step"] == 2
    assert 0 < notes["final_kl"] < 3


def test_a_hopeless_setting_is_stopped_by_its_real_kl(run_stage):
    hopeless = {**BAD, "max_kl": 0.5, "learning_rate": 0.3, "kl_coef": 0.0}
    with pytest.raises(TrainingFault) as stopped:
        run_stage(**hopeless)
    told = str(stopped.value)
    assert told.startswith("PPO at step ")
    assert "above max_kl 0.5, after one roll-back. Raise kl_coef (now 0.02) or lower learning_rate" in told


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(monkeypatch, place, moment):
    """End at the n-th of all calls that change what is in memory or on the disk; n counts from 0."""
    calls = iter(range(1_000))

    def watched(real):
        def call(*args, **options):
            if next(calls) == moment:
                raise Killed
            return real(*args, **options)

        return call

    for name in place:
        monkeypatch.setattr(ppo_learner, name, watched(getattr(ppo_learner, name)))
    monkeypatch.setattr(ppo, "update", watched(ppo.update))


# With a head the run goes: 0 save, 1 and 2 updates, 3 save, 4 update, 5 and 6 the roll-back, 7 update. With
# adapters it rolls back to its start: 0 save, 1 update, 2 and 3 the roll-back, 4 update.
KILLS = [("head", 4), ("head", 5), ("head", 6), ("head", 7), ("adapters", 3), ("adapters", 4)]


@pytest.mark.parametrize(("value_model", "moment"), KILLS)
def test_a_run_killed_before_in_or_after_its_roll_back_ends_with_the_same_bits(
    run_stage, monkeypatch, value_model, moment
):
    settings = {**BAD, "value_model": value_model}
    whole = run_stage(folder="whole", **settings)
    assert whole.learner.rolled_back
    with monkeypatch.context() as during:
        kill_at(during, ("save", "_set_weights"), moment)
        with pytest.raises(Killed):
            run_stage(folder="killed", **settings)
    again = run_stage(folder="killed", **settings)
    assert same(again.published["model"], whole.published["model"])
    assert untimed(again) == untimed(whole)
    assert again.learner.run.notes == whole.learner.run.notes


def untimed(ran):
    found = read_metrics(ran.learner.run.dir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in found]


def scored(monkeypatch, means):
    """Give the batches these mean scores, with standard deviation 1."""

    def experience(learner, step):
        batch = EXPERIENCE(learner, step)
        batch.measured.update(score=means.pop(0), score_std=1.0)
        return batch

    monkeypatch.setattr(ppo, "experience", experience)


# Half a standard deviation and three standard errors of the difference of two batches of 32.
FALL = 0.5 + 3 * (2 / 32) ** 0.5
EXPERIENCE = ppo.experience


def test_a_score_that_falls_far_below_the_first_rolls_back_and_then_stops(run_stage, monkeypatch):
    scored(monkeypatch, [1.0, 1.01 - FALL, 0.99 - FALL, 1.0, 1.0, 1.0, 1.0])
    ran = run_stage()
    assert ran.learner.run.notes["rolled_back_to_step"] == 1
    assert "model" in ran.published
    scored(monkeypatch, [1.0, -2.0, 1.0, -2.0, -2.0])
    with pytest.raises(
        TrainingFault, match=r"mean score fell from 1\.00 to -2\.00.*after one roll-back.*learning_rate"
    ):
        run_stage(folder="again")


def test_the_first_score_outlives_a_stop(make_ppo):
    learner = make_ppo()
    assert ppo_learner.resume(learner) == 0
    batch = ppo.experience(learner, 0)
    ppo.keep_first_score(learner, batch)
    assert not ppo.harm(learner, 0.0, batch)
    ppo_learner.save(learner, 3)
    again = make_ppo()
    assert ppo_learner.resume(again) == 3
    assert again.first_score == learner.first_score == (batch.measured["score"], batch.measured["score_std"])
    batch.measured["score"] -= 10
    assert "max_score_drop" in ppo.harm(again, 0.0, batch)
