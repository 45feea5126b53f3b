"""The maths of PPO: hand-computed arrays, enumeration, relations, gradients, invariances; prime sizes."""

import math

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch.testing import assert_close

from pipeline import rl

BATCH, TIME, VOCABULARY = 3, 7, 5
EXACT = {"rtol": 0, "atol": 1e-12}


def checked(name):
    """The function with its shapes checked at run time."""
    return jaxtyped(typechecker=beartype)(getattr(rl, name))


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def mask():
    """A prompt of another length in each row, then a completion, then padding."""
    return torch.tensor(
        [[0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0]], dtype=torch.bool
    )


# --- log-probabilities


def test_logprobs_are_the_log_of_the_softmax_at_the_temperature():
    logits, tokens = (
        random(BATCH, TIME, VOCABULARY, dtype=torch.float32),
        torch.arange(BATCH * TIME) % VOCABULARY,
    )
    got = checked("logprobs_of")(logits, tokens.view(BATCH, TIME), temperature=0.7)
    weights = np.exp(logits.double().numpy() / 0.7)
    expected = np.log(weights / weights.sum(-1, keepdims=True)).reshape(-1, VOCABULARY)
    assert_close(
        got.flatten().double(), torch.tensor(expected[range(BATCH * TIME), tokens]), rtol=0, atol=1e-6
    )


def test_logprobs_of_bf16_logits_are_computed_in_float32():
    logits, tokens = random(11, 13, dtype=torch.bfloat16) * 10, torch.arange(11)
    got = rl.logprobs_of(logits, tokens)
    assert got.dtype == torch.float32
    assert_close(got, rl.logprobs_of(logits.float(), tokens), rtol=0, atol=0)


def test_logprobs_take_flat_and_batched_tokens_alike():
    logits, tokens = random(BATCH, TIME, VOCABULARY), torch.ones(BATCH, TIME, dtype=torch.int32)
    flat = rl.logprobs_of(logits.flatten(0, 1), tokens.flatten(), temperature=2.0)
    assert torch.equal(flat.view(BATCH, TIME), rl.logprobs_of(logits, tokens, temperature=2.0))


def test_temperature_zero_is_refused():
    with pytest.raises(AssertionError, match="temperature is 0"):
        rl.logprobs_of(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), temperature=0)


def test_entropy_of_uniform_is_log_n_and_of_certainty_0():
    assert_close(checked("entropy_of")(torch.zeros(2, VOCABULARY)), torch.full((2,), math.log(VOCABULARY)))
    certain = torch.full((VOCABULARY,), -math.inf).index_fill(0, torch.tensor(2), 0.0)
    assert rl.entropy_of(certain).item() == 0


def test_entropy_grows_with_temperature():
    logits = random(VOCABULARY)
    values = [rl.entropy_of(logits, temperature=t).item() for t in (0.1, 0.5, 1, 2, 100)]
    assert values == sorted(values)


# --- averages


def test_masked_mean_counts_true_positions_only(mask):
    values = torch.arange(BATCH * TIME, dtype=torch.float64).view(BATCH, TIME)
    assert checked("masked_mean")(values, mask).item() == pytest.approx(
        (2 + 3 + 4 + sum(range(8, 14)) + 17) / 10
    )
    assert rl.masked_mean(values, torch.zeros_like(mask)).item() == 0


def test_masked_mean_ignores_nan_that_does_not_count(mask):
    assert rl.masked_mean(torch.ones(BATCH, TIME).masked_fill(~mask, math.nan), mask).item() == 1


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask(mask):
    got = checked("whiten")(7 + 3 * random(BATCH, TIME), mask)
    assert abs(got[mask].mean()) < 1e-7
    assert abs(got[mask].var(unbiased=False) - 1) < 1e-7
    assert not got[~mask].any()


def test_whitening_equals_a_plain_reference_in_float64(mask):
    values = 3 + 2 * random(BATCH, TIME, seed=4)
    counted = [values[b, t].item() for b, t in mask.nonzero().tolist()]
    mean, deviation = np.mean(counted), math.sqrt(np.var(counted) + 1e-8)
    for shift in (True, False):
        got = rl.whiten(values, mask, shift_mean=shift)
        expected = [(value - mean) / deviation + (0 if shift else mean) for value in counted]
        np.testing.assert_allclose(got[mask].numpy(), expected, rtol=0, atol=1e-12)


def test_whitening_without_shift_keeps_the_mean(mask):
    values = 7 + 3 * random(BATCH, TIME)
    got = rl.whiten(values, mask, shift_mean=False)
    assert_close(got[mask].mean(), values[mask].mean(), **EXACT)
    assert abs(got[mask].var(unbiased=False) - 1) < 1e-7


def test_whitening_a_constant_gives_0_not_nan(mask):
    assert not rl.whiten(torch.full((BATCH, TIME), 4.0), mask).any()


def test_explained_variance_is_1_for_the_returns_and_0_for_a_constant(mask):
    returns = random(BATCH, TIME)
    assert checked("explained_variance")(returns, returns, mask) == 1
    assert rl.explained_variance(torch.ones_like(returns), returns, mask) == pytest.approx(0)
    assert rl.explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert math.isnan(rl.explained_variance(returns, torch.ones_like(returns), mask))


# --- KL


@pytest.fixture
def distributions():
    return tuple(torch.log_softmax(random(VOCABULARY, seed=seed), 0) for seed in (3, 4))


def test_expectation_of_k1_and_k3_over_five_tokens_is_the_exact_kl(distributions):
    policy, reference = distributions
    exact = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=x) for x in distributions)
    )
    reversed_kl = (reference.exp() * (reference - policy)).sum()
    assert abs(exact - reversed_kl) > 0.05  # a swapped direction would be seen
    for name in ("kl_k1", "kl_k3"):
        assert_close((policy.exp() * checked(name)(policy, reference)).sum(), exact, **EXACT)


def test_k2_and_k3_are_never_negative_and_agree_to_second_order(distributions):
    policy, reference = distributions
    assert (rl.kl_k2(policy, reference) > 0).all()
    assert (rl.kl_k3(policy, reference) > 0).all()
    near = policy + 1e-4 * random(VOCABULARY)
    assert_close(rl.kl_k3(policy, near), rl.kl_k2(policy, near), rtol=1e-3, atol=0)


def test_k3_of_a_tiny_difference_keeps_its_digits_in_float32():
    got = rl.kl_k3(torch.tensor([0.0]), torch.tensor([0.0007])).item()
    assert got == pytest.approx(0.0007**2 / 2, rel=1e-3)


def test_k3_stays_finite_for_impossible_tokens():
    assert torch.isfinite(rl.kl_k3(torch.tensor([-1e4]), torch.tensor([-0.1]))).all()


def test_adaptive_kl_coef_in_closed_form():
    settings = {"target": 6.0, "horizon": 10_000, "num_episodes": 256}
    assert rl.adaptive_kl_coef(0.1, 6.0, **settings) == 0.1
    assert rl.adaptive_kl_coef(0.1, 6.6, **settings) == pytest.approx(0.1 * (1 + 0.1 * 256 / 10_000))
    assert rl.adaptive_kl_coef(0.1, 600, **settings) == pytest.approx(0.1 * (1 + 0.2 * 0.0256))  # clipped
    assert rl.adaptive_kl_coef(0.1, 0, **settings) == pytest.approx(0.1 * (1 - 0.2 * 0.0256))


# --- rewards and advantages


def test_token_rewards_hold_the_penalty_everywhere_and_the_score_once(mask):
    logprobs, reference, scores = (
        random(BATCH, TIME, seed=1),
        random(BATCH, TIME, seed=2),
        random(BATCH, seed=3),
    )
    got = checked("token_rewards")(logprobs, reference, scores, mask, kl_coef=0.3)
    expected = torch.zeros(BATCH, TIME, dtype=torch.float64)
    for row, last in enumerate((4, 6, 3)):
        for t in range(TIME):
            if mask[row, t]:
                expected[row, t] = -0.3 * (logprobs[row, t] - reference[row, t])
        expected[row, last] += scores[row]
    assert_close(got, expected, **EXACT)


def test_a_completion_without_tokens_cannot_lose_its_score_silently(mask):
    zeros = torch.zeros(BATCH, TIME)
    with pytest.raises(AssertionError, match="without a counted token"):
        rl.token_rewards(
            zeros, zeros, torch.ones(BATCH), mask & torch.tensor([[True], [False], [True]]), kl_coef=0.1
        )


def test_unended_scores_are_replaced_not_lowered():
    ended = torch.tensor([True, False, False])
    got = checked("replace_unended_scores")(torch.tensor([2.0, 5.0, -9.0]), ended, unended_score=-1.0)
    assert got.tolist() == [2, -1, -1]


@pytest.mark.parametrize(
    ("lam", "advantages"),
    [
        (0.0, [1 + 0.5 * 6 - 4, 2 + 0.5 * 8 - 6, 3 - 8]),  # the deltas 0, 0, -5
        (0.5, [0 + 0.25 * (0 + 0.25 * -5), 0 + 0.25 * -5, -5]),
        (1.0, [1 + 0.5 * 2 + 0.25 * 3 - 4, 2 + 0.5 * 3 - 6, 3 - 8]),
    ],
)
def test_gae_on_three_steps_by_hand(lam, advantages):
    rewards, values = torch.tensor([[1.0, 2, 3]]), torch.tensor([[4.0, 6, 8]])
    got = checked("gae")(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.5, lam=lam)
    assert_close(got.advantages, torch.tensor([advantages]))
    assert_close(got.returns, got.advantages + values)


def test_gae_at_lambda_1_is_monte_carlo_minus_value(mask):
    rewards, values = random(BATCH, TIME, seed=1), random(BATCH, TIME, seed=2)
    got = rl.gae(rewards, values, mask, gamma=0.9, lam=1.0)
    returns = checked("monte_carlo_returns")(rewards, mask, gamma=0.9)
    assert_close(got.advantages[mask], (returns - values)[mask], **EXACT)
    assert_close(got.returns, returns, **EXACT)


def test_gae_at_lambda_0_is_the_one_step_error(mask):
    rewards, values = random(BATCH, TIME, seed=1), random(BATCH, TIME, seed=2)
    got = rl.gae(rewards, values, mask, gamma=0.9, lam=0.0).advantages
    following = torch.cat([values[:, 1:] * mask[:, 1:], torch.zeros(BATCH, 1)], dim=1)
    assert_close(got[mask], (rewards + 0.9 * following - values)[mask], **EXACT)


def test_gae_equals_a_plain_reference_in_float64(mask):
    rewards, values = random(BATCH, TIME, seed=1), random(BATCH, TIME, seed=2)
    got = rl.gae(rewards, values, mask, gamma=0.97, lam=0.83)
    for row in range(BATCH):
        places = [t for t in range(TIME) if mask[row, t]]
        r, v = [rewards[row, t].item() for t in places], [values[row, t].item() for t in places] + [0.0]
        for i, t in enumerate(places):
            expected = sum(
                (0.97 * 0.83) ** (j - i) * (r[j] + 0.97 * v[j + 1] - v[j]) for j in range(i, len(r))
            )
            assert got.advantages[row, t].item() == pytest.approx(expected, abs=1e-12)


def test_steps_that_do_not_count_are_skipped_wherever_they_stand():
    rewards, values = random(1, 3, seed=1), random(1, 3, seed=2)
    packed = rl.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.9, lam=0.8)
    places = torch.tensor([1, 3, 6])
    spread = [
        torch.full((1, TIME), 99.0, dtype=torch.float64).index_copy(1, places, x) for x in (rewards, values)
    ]
    mask = torch.zeros(1, TIME, dtype=torch.bool).index_fill(1, places, True)
    got = rl.gae(*spread, mask, gamma=0.9, lam=0.8)
    assert_close(got.advantages[:, places], packed.advantages, **EXACT)
    assert not got.advantages[~mask].any()
    assert not got.returns[~mask].any()


# --- losses


def test_at_ratio_1_the_loss_is_minus_the_mean_advantage(mask):
    logprobs, advantages = random(BATCH, TIME, seed=1), random(BATCH, TIME, seed=2)
    got = checked("policy_loss")(logprobs, logprobs, advantages, mask, clip_range=0.2)
    assert_close(got.loss, -advantages[mask].mean(), **EXACT)
    assert (got.clipfrac, got.approx_kl, got.max_ratio_deviation) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [(1.5, 1.0, -1.2, 1), (1.5, -1.0, 1.5, 0), (0.5, 1.0, -0.5, 0), (0.5, -1.0, 0.8, 1), (1.1, 2.0, -2.2, 0)],
)
def test_clipping_takes_the_pessimistic_side(ratio, advantage, loss, clipped):
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
    got = rl.policy_loss(
        new, new * 0, torch.full_like(new, advantage), torch.ones(1, 1, dtype=torch.bool), clip_range=0.2
    )
    assert got.loss.item() == pytest.approx(loss)
    assert got.clipfrac.item() == clipped
    assert got.max_ratio_deviation.item() == pytest.approx(abs(ratio - 1))


def test_policy_loss_equals_a_plain_reference_in_float64(mask):
    new, old, advantages = (
        random(BATCH, TIME, seed=1),
        random(BATCH, TIME, seed=2),
        random(BATCH, TIME, seed=3),
    )
    got = rl.policy_loss(new, old, advantages, mask, clip_range=0.2)
    losses, kls = [], []
    for b, t in mask.nonzero().tolist():
        ratio, a = math.exp(new[b, t] - old[b, t]), advantages[b, t].item()
        losses.append(-min(ratio * a, min(max(ratio, 0.8), 1.2) * a))
        kls.append(ratio - 1 - math.log(ratio))
    assert got.loss.item() == pytest.approx(np.mean(losses), abs=1e-12)
    assert got.approx_kl.item() == pytest.approx(np.mean(kls), abs=1e-12)


def test_an_exploded_ratio_stays_finite(mask):
    new = torch.zeros(BATCH, TIME, requires_grad=True)
    got = rl.policy_loss(new, torch.full((BATCH, TIME), -1e4), -torch.ones(BATCH, TIME), mask, clip_range=0.2)
    got.loss.backward()
    assert torch.isfinite(got.loss)
    assert torch.isfinite(new.grad).all()


def test_value_loss_by_hand():
    one = torch.ones(1, 2, dtype=torch.bool)
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.zeros(1, 2), torch.tensor([[2.0, 1.0]])
    got = checked("value_loss")(values, old, returns, one, clip_range_value=0.2)
    # 1 is clipped to 0.2, whose error 1.8 is the larger; 0.1 is not clipped.
    assert got.loss.item() == pytest.approx(0.5 * (1.8**2 + 0.9**2) / 2)
    assert got.clipfrac.item() == 0.5


def test_value_loss_equals_a_plain_reference_in_float64(mask):
    values, old, returns = (random(BATCH, TIME, seed=seed) for seed in (1, 2, 3))
    got = rl.value_loss(values, old, returns, mask, clip_range_value=0.2)
    losses = []
    for b, t in mask.nonzero().tolist():
        v, before, goal = (array[b, t].item() for array in (values, old, returns))
        clipped = min(max(v, before - 0.2), before + 0.2)
        losses.append(0.5 * max((v - goal) ** 2, (clipped - goal) ** 2))
    assert got.loss.item() == pytest.approx(np.mean(losses), abs=1e-12)


def test_value_loss_takes_the_larger_error_not_the_clipped_one():
    one = torch.ones(1, 1, dtype=torch.bool)
    values, returns = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    assert rl.value_loss(values, returns, returns, one, clip_range_value=0.2).loss.item() == 0.5


def losses(mask, arrays):
    new, old, advantages, values, old_values, returns = arrays
    return (
        rl.policy_loss(new, old, advantages, mask, clip_range=0.2).loss
        + rl.value_loss(values, old_values, returns, mask, clip_range_value=0.2).loss
    )


@pytest.fixture
def arrays():
    return [random(BATCH, TIME, seed=seed) for seed in range(6)]


def test_gradients_are_exact_and_0_where_nothing_counts(mask, arrays):
    new, values = arrays[0].requires_grad_(), arrays[3].requires_grad_()
    losses(mask, arrays).backward()
    assert not new.grad[~mask].any()
    assert not values.grad[~mask].any()
    assert values.grad[mask].any()
    torch.autograd.gradcheck(lambda n, v: losses(mask, [n, *arrays[1:3], v, *arrays[4:]]), (new, values))


def test_more_padding_changes_nothing(mask, arrays):
    padded = [torch.nn.functional.pad(x, (2, 5), value=1e3) for x in arrays]
    wider = torch.nn.functional.pad(mask, (2, 5))
    assert_close(losses(wider, padded), losses(mask, arrays), **EXACT)
    narrow = rl.gae(*arrays[:2], mask, gamma=0.9, lam=0.8)
    wide = rl.gae(*padded[:2], wider, gamma=0.9, lam=0.8)
    assert_close(wide.advantages[:, 2:-5], narrow.advantages, **EXACT)
    assert_close(rl.whiten(padded[0], wider)[:, 2:-5], rl.whiten(arrays[0], mask), **EXACT)


def test_permuting_the_batch_permutes_the_result(mask, arrays):
    order = torch.tensor([2, 0, 1])
    shuffled = [x[order] for x in arrays]
    assert_close(losses(mask[order], shuffled), losses(mask, arrays), **EXACT)
    got = rl.gae(*shuffled[:2], mask[order], gamma=0.9, lam=0.8).advantages
    assert_close(got, rl.gae(*arrays[:2], mask, gamma=0.9, lam=0.8).advantages[order], **EXACT)
