"""What PPO checks on every batch while it runs: the cause is named, and the batch is kept."""

import copy

import pytest
import torch

from pipeline import ppo, ppo_checks
from pipeline.checkpoint import load_state
from pipeline.errors import TrainingFault

KEPT = {"tokens", "mask", "old_logprobs", "old_values", "advantages", "returns", "scores"}


def unchanged(learner, before):
    return all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())


def diagnosis(learner):
    return load_state(learner.run.dir / "diagnosis")


def test_a_broken_update_keeps_all_of_its_batch(make_ppo):
    learner = make_ppo()
    batch = ppo.experience(learner, 0)
    before = copy.deepcopy(learner.model.state_dict())
    batch.returns[batch.mask] = torch.nan
    with pytest.raises(TrainingFault, match=r"value_loss nan.*Lower learning_rate"):
        ppo.update(learner, 0, batch)
    assert unchanged(learner, before)
    assert diagnosis(learner).keys() == KEPT


def test_a_first_ratio_off_1_is_found_before_the_first_step(make_ppo):
    learner = make_ppo()
    batch = ppo.experience(learner, 0)
    before = copy.deepcopy(learner.model.state_dict())
    learner.config = learner.config.model_copy(update={"temperature": 0.8})
    with pytest.raises(TrainingFault, match="first minibatch"):
        ppo.update(learner, 0, batch)
    assert unchanged(learner, before)
    assert diagnosis(learner).keys() == KEPT


def test_a_nan_score_keeps_its_batch(make_ppo):
    learner = make_ppo(score=lambda *_: torch.tensor([1.0] * 31 + [torch.nan]))
    with pytest.raises(TrainingFault, match="not a finite number"):
        ppo.experience(learner, 3)
    kept = diagnosis(learner)
    assert {"tokens", "mask", "old_logprobs", "old_values", "scores"} <= kept.keys()
    assert kept["scores"].isnan().sum() == 1
    assert kept["old_logprobs"][kept["mask"]].max() < 0


def test_a_critic_that_broke_is_named_with_what_it_broke(make_ppo):
    learner = make_ppo()
    torch.nn.init.constant_(learner.model.value_head.bias, torch.nan)
    with pytest.raises(TrainingFault, match=r"PPO at step 2: not finite: .*old_values.*returns.*Lower"):
        ppo.experience(learner, 2)
    assert diagnosis(learner).keys() == KEPT


def test_a_policy_that_gives_one_answer_to_every_prompt_is_named(make_ppo):
    learner = make_ppo(kl_coef=0.1)
    learner.prompts = [[1, 3], [1, 4, 3], [1, 6, 6, 3]]
    with torch.no_grad():  # it repeats the last token, and hardly ever says another
        for layer in learner.model.policy.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        learner.model.policy.model.norm.weight.fill_(100)
    with pytest.raises(TrainingFault, match=r"collapsed.*one answer.*32 completions.*kl_coef"):
        ppo.experience(learner, 3)


def test_equal_scores_of_different_answers_are_noted_and_go_on_after_the_first_batch(make_ppo):
    learner = make_ppo(score=lambda *_: torch.ones(32))
    assert ppo.experience(learner, 3).measured["score_std"] == 0
    assert learner.run.notes["equal_scores_at_step"] == 3
    with pytest.raises(TrainingFault, match="no learning signal"):
        ppo.experience(learner, 0)


def test_scores_too_small_to_whiten_are_named(make_ppo):
    def tiny(items, texts, ended):
        return 1e-6 * torch.tensor([float(len(text)) for text in texts])

    with pytest.raises(TrainingFault, match=r"advantages have mean .* and variance .* larger weight"):
        ppo.experience(make_ppo(score=tiny), 1)
    ppo.experience(make_ppo("not whitened", score=tiny, whiten_advantages=False), 1)


def test_whitening_that_is_off_is_found(make_ppo, monkeypatch):
    monkeypatch.setattr(ppo.rl, "whiten", lambda values, mask, **options: 2 * values + 1)
    with pytest.raises(TrainingFault, match="advantages have mean"):
        ppo.experience(make_ppo(), 1)


def test_a_negative_k3_is_found_before_the_step(make_ppo, monkeypatch):
    learner = make_ppo()
    batch = ppo.experience(learner, 0)
    before = copy.deepcopy(learner.model.state_dict())
    monkeypatch.setattr(ppo.rl, "kl_k3", lambda logprobs, other: torch.full_like(logprobs, -0.1))
    with pytest.raises(TrainingFault, match=r"approx_kl -0\.1"):
        ppo.update(learner, 0, batch)
    assert unchanged(learner, before)


def test_bounds_are_far_from_healthy_batches(make_ppo):
    learner = make_ppo()
    for step in range(4):
        batch = ppo.experience(learner, step)
        counted = batch.advantages[batch.mask]
        assert abs(counted.mean()) < 0.1 * ppo_checks.MAX_WHITENED_MEAN
        assert abs(counted.var(unbiased=False) - 1) < 0.1 * ppo_checks.MAX_WHITENED_GAP
        ppo.update(learner, step, batch)
