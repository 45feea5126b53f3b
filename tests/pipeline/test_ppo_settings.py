"""Settings of PPO do in a batch and in an update what they say."""

import pytest
import torch

from pipeline import ppo, rl
from pipeline.next_token import NextToken


def gradients(learner, batch):
    """Those of one update, which is not taken."""
    learner.optimizer.step = lambda: None
    chunks = ppo.minibatches(learner, batch.mask, 0, 0)[0]
    ppo._minibatch(learner, batch, chunks, step=0, place=(0, 0))
    return {name: parameter.grad.clone() for name, parameter in learner.model.named_parameters()}


def test_pretraining_text_adds_its_gradient_times_its_weight(make_ppo):
    settings = {"max_grad_norm": 1e9, "num_minibatches": 1, "temperature": 0.8}
    plain, mixed = make_ppo("plain", **settings), make_ppo("mixed", **settings, pretrain_coef=0.3)
    mixed.pretrain_rows = 3 + torch.arange(130).view(10, 13) % 7  # one document each
    mixed.config = mixed.config.model_copy(update={"pretrain_tokens": 26})
    mixed.pretrain_loss = NextToken(mixed.model.policy)
    without = gradients(plain, ppo.experience(plain, 0))
    with_text = gradients(mixed, ppo.experience(mixed, 0))

    # The text alone, by the logits of the whole model.
    purpose = ("pretrain", 0, 0, 0)
    rows = torch.randint(10, (2,), generator=ppo.torch_generator(mixed.run.key(*purpose)))
    text = mixed.pretrain_rows[rows]
    plain.model.zero_grad()
    logits = plain.model.policy(text[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
    for name, parameter in plain.model.named_parameters():
        of_text = 0 if parameter.grad is None else 0.3 * parameter.grad
        torch.testing.assert_close(with_text[name], without[name] + of_text, rtol=1e-4, atol=1e-6)
    assert any((with_text[name] - without[name]).abs().max() > 1e-3 for name in without)


def test_whitened_rewards_have_variance_1_and_their_mean(make_ppo, monkeypatch):
    seen, real = [], rl.gae

    def gae(rewards, values, mask, **settings):
        seen.append(rewards[mask])
        return real(rewards, values, mask, **settings)

    monkeypatch.setattr(ppo.rl, "gae", gae)
    for name, on in [("off", False), ("on", True)]:
        ppo.experience(make_ppo(name, whiten_rewards=on, kl_coef=0.1), 0)
    plain, whitened = seen
    assert plain.var(unbiased=False) < 0.5
    assert whitened.var(unbiased=False) == pytest.approx(1, rel=1e-4)
    assert whitened.mean().item() == pytest.approx(plain.mean().item(), abs=1e-5)


@pytest.mark.parametrize("value_model", ["head", "separate", "adapters"])
def test_the_first_advantages_are_the_returns(make_ppo, value_model):
    batch = ppo.experience(make_ppo(value_model=value_model, whiten_advantages=False), 0)
    assert not batch.old_values.any()
    assert torch.equal(batch.advantages, batch.returns)
