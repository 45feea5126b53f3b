"""PPO learns, measures what it says, and resumes to the same bits."""

import pytest
import torch

from pipeline import ppo, ppo_learner
from pipeline.actor_critic import token_logprobs
from pipeline.errors import TrainingFault
from pipeline.stages.ppo import Config

GOOD = 7


def share_of_good(items, texts, ended):
    return torch.tensor([text.split().count(str(GOOD)) / max(1, len(text.split())) for text in texts])


@pytest.fixture
def make(make_ppo):
    return make_ppo


def train(learner, steps, start=0):
    for step in range(start, steps):
        batch = ppo.experience(learner, step)
        ppo.update(learner, step, batch)
    return ppo.experience(learner, steps).measured


LAYOUTS = ["head", "separate", "adapters"]


@pytest.mark.parametrize("value_model", LAYOUTS)
def test_learns_the_good_token(make, value_model):
    # Two adapters of rank 4 are a tenth of the weights, and learn at a higher rate.
    changed = {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 3e-2} if value_model == "adapters" else {}
    assert train(make(value_model=value_model, **changed), 20)["score"] > 0.9


def test_does_not_learn_when_learning_is_off(make):
    assert train(make(learning_rate=1e-12), 20)["score"] < 0.4


def test_kl_penalty_holds_the_policy_back(make):
    free, held = train(make("free"), 12), train(make("held", kl_coef=1.0), 12)
    assert held["kl"] < 0.2 * free["kl"]


def test_kl_is_zero_and_ratio_one_before_the_first_update(make):
    learner = make()
    batch = ppo.experience(learner, 0)
    assert abs(batch.measured["kl"]) < 1e-5  # float32 sums in another order
    now = learner.model(batch.tokens, batch.mask, temperature=1.0).logprobs
    torch.testing.assert_close(now[batch.mask].exp(), batch.old_logprobs[batch.mask].exp(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value_model", LAYOUTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_first_pass_repeats_the_old_logprobs_bit_for_bit(make, precision, value_model):
    learner = make(value_model=value_model)
    learner.run.precision = precision
    batch = ppo.experience(learner, 0)
    chunks = [rows for pass_ in ppo.minibatches(learner, batch.mask, 0, 0) for rows in pass_]
    assert sorted(torch.cat(chunks).tolist()) == list(range(32))
    deviations = [next(iter(ppo._losses(learner, batch, rows)))[1]["ratio_deviation"] for rows in chunks]
    assert deviations == [0.0] * len(chunks)
    others = [rows for pass_ in ppo.minibatches(learner, batch.mask, 0, 1) for rows in pass_]
    assert torch.cat(others).tolist() != torch.cat(chunks).tolist()


def test_sampling_at_another_temperature_is_found(make, monkeypatch):
    sample = ppo.rollout.sample
    monkeypatch.setattr(ppo.rollout, "sample", lambda *a, **k: sample(*a, **{**k, "temperature": 0.8}))
    with pytest.raises(TrainingFault, match="sampling and learning differ"):
        ppo.experience(make(), 0)


def test_advantages_have_mean_0_and_variance_1_over_counted_tokens(make):
    batch = ppo.experience(make(), 0)
    counted = batch.advantages[batch.mask]
    assert abs(counted.mean()) < 1e-5
    assert abs(counted.var(unbiased=False) - 1) < 1e-2


def test_with_adapters_a_merged_copy_samples_what_the_policy_is_by_now(make):
    learner = make(value_model="adapters", learning_rate=0.05)
    train(learner, 2)
    batch = ppo.experience(learner, 2)
    assert batch.measured["kl"] > 0.01  # nats: the policy has left its start
    assert batch.measured["sampling_gap"] < 1e-5  # nats a token: float32 in another order


@pytest.mark.parametrize("value_model", LAYOUTS)
def test_resumed_run_has_the_bits_of_the_uninterrupted_one(make, value_model):
    whole = make("whole", kl_coef=0.1, value_model=value_model)
    train(whole, 6)
    first = make("parts", kl_coef=0.1, value_model=value_model)
    train(first, 4)
    ppo_learner.save(first, 4)
    second = make("parts", kl_coef=0.1, value_model=value_model)
    assert ppo_learner.resume(second) == 4
    train(second, 6, start=4)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_right_padding_changes_no_logprob(tiny_llama):
    model = tiny_llama()
    tokens = torch.tensor([[1, 5, 9, 4, 2]])
    mask = torch.tensor([[False, False, True, True, True]])
    padded = torch.nn.functional.pad(tokens, (0, 6))
    longer = torch.nn.functional.pad(mask, (0, 6))
    expected = token_logprobs(model, tokens, mask, temperature=0.7)
    got = token_logprobs(model, padded, longer, temperature=0.7)
    torch.testing.assert_close(got[:, :5], expected, atol=1e-5, rtol=0)
    assert not got[:, 5:].any()


def test_join_counts_completions_only():
    tokens, mask = ppo.join([[1, 5], [1, 5, 6]], [[7, 2], [8]], pad_id=0)
    assert tokens.tolist() == [[1, 5, 7, 2], [1, 5, 6, 8]]
    assert mask.tolist() == [[False, False, True, True], [False, False, False, True]]


def test_settings_that_do_not_fit_are_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match="32 is not a multiple of num_minibatches 5"):
        Config(num_episodes=64, batch_size=32, num_minibatches=5)
    with pytest.raises(ValueError, match="num_episodes 8 is less than one batch of 32"):
        Config(num_episodes=8, batch_size=32)


def test_the_value_head_learns_at_its_own_rate_and_both_decay(make):
    learner = make(value_head_rate=10.0, learning_rate=1e-3)
    trunk, head = learner.optimizer.param_groups
    assert {id(p) for p in head["params"]} == {id(p) for p in learner.model.value_head.parameters()}
    every = [id(parameter) for parameter in learner.model.parameters()]
    assert sorted(every) == sorted(id(p) for group in (trunk, head) for p in group["params"])
    num_steps = learner.config.num_steps
    for step in (0, num_steps // 2):
        ppo.update(learner, step, ppo.experience(learner, step))
        left = 1 - step / num_steps
        assert trunk["lr"] == pytest.approx(1e-3 * left)
        assert head["lr"] == pytest.approx(1e-2 * left)


def test_rates_rise_in_the_warm_up_and_reach_0_at_the_end(make):
    learner = make(learning_rate=1e-3, warmup_share=0.1)
    num_steps = learner.config.num_steps
    seen = []
    for step in (0, 3, 4, num_steps - 1):
        ppo.update(learner, step, ppo.experience(learner, step))
        seen.append(learner.optimizer.param_groups[0]["lr"])
    assert num_steps == 40
    assert seen == pytest.approx([0.25e-3, 1e-3, 1e-3, 1e-3 / 36])


def fill(learner, value):
    """Give every weight of the policy one value, which names it."""
    with torch.no_grad():
        for parameter in learner.model.policy.parameters():
            if parameter.requires_grad:
                parameter.fill_(value)


def held(learner):
    (values,) = {weights.unique().item() for weights in ppo_learner._policy_weights(learner).values()}
    return values


@pytest.mark.parametrize("value_model", LAYOUTS)
def test_the_peak_is_the_policy_in_the_middle_of_the_best_batches(make, monkeypatch, value_model):
    published = []
    monkeypatch.setattr(ppo_learner, "publish", lambda learner, name: published.append((name, held(learner))))
    learner = make(value_model=value_model)
    for step, gold in enumerate([0, 0, 1, 1, 0, 0.5, 1, 0, 0]):
        fill(learner, step)
        ppo_learner.keep_peak(learner, step, gold=gold, kl=0.1 * step)
        assert held(learner) == step  # training goes on from where it was
        if step == 5:  # a stop between two steps loses nothing
            ppo_learner.save(learner, step)
            learner = make(value_model=value_model)
            assert ppo_learner.resume(learner) == step
    # Means over five batches, from the fifth on: .4, .5, .7, .5, .3
    assert published == [("peak", 2), ("peak", 3), ("peak", 4)]
    assert learner.run.notes["peak"] == {"step": 4, "gold": pytest.approx(0.7), "kl": 0.4}


def test_a_peak_may_lie_at_or_below_0(make, monkeypatch):
    monkeypatch.setattr(ppo_learner, "publish", lambda learner, name: None)
    learner = make()
    for step, gold in enumerate([-1.0] * 5 + [-2.0] * 5):
        ppo_learner.keep_peak(learner, step, gold=gold, kl=0.1 * step)
    assert learner.run.notes["peak"] == {"step": 2, "gold": -1.0, "kl": 0.2}


def test_the_epochs_of_a_batch_end_when_one_moves_the_policy_too_far(make):
    free, stopped = make("free"), make("stopped", stop_approx_kl=1e-9)
    measured = [ppo.update(learner, 0, ppo.experience(learner, 0))["epochs"] for learner in (free, stopped)]
    assert measured == [2, 1]


def test_gradients_are_clipped_before_the_step(make):
    learner = make(max_grad_norm=0.01, num_epochs=1, num_minibatches=1)
    learner.optimizer = torch.optim.SGD([{"params": list(learner.model.parameters()), "lr": 1.0}])
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    batch = ppo.experience(learner, 0)
    chunks = ppo.minibatches(learner, batch.mask, 0, 0)[0]
    measured = ppo._minibatch(learner, batch, chunks, step=0, place=(0, 0))
    moved = [value - before[name] for name, value in learner.model.state_dict().items()]
    assert measured["grad_norm"] > 0.01
    assert (
        torch.stack([change.norm() for change in moved]).norm() <= 0.0101 * 2**0.5
    )  # tied weights count twice
