"""Bradley-Terry against enumeration, logistic regression, automatic derivatives and hand-computed arrays."""

import itertools
import math

import pytest
import torch

from reward.preference import accuracy, bradley_terry_loss, probability, wins


def test_hand_computed_losses():
    assert bradley_terry_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2), rel=1e-6)
    loss = bradley_terry_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2, rel=1e-6)
    # A margin moves the point of indifference.
    shifted = bradley_terry_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([2.0]))
    assert shifted.item() == pytest.approx(math.log(2), rel=1e-6)


def test_large_differences_stay_finite():
    loss = bradley_terry_loss(torch.tensor([-200.0]), torch.tensor([200.0]))
    assert loss.item() == pytest.approx(400.0)
    assert bradley_terry_loss(torch.tensor([200.0]), torch.tensor([-200.0])).item() >= 0


def test_adding_a_constant_to_every_score_changes_nothing():
    chosen, rejected = torch.tensor([0.5, -1.0, 3.0]).double(), torch.tensor([0.25, 2.0, 1.0]).double()
    for shift in (-7.0, 11.0):
        torch.testing.assert_close(
            bradley_terry_loss(chosen + shift, rejected + shift), bradley_terry_loss(chosen, rejected)
        )


def test_gradients_by_finite_differences():
    chosen = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.7, -1.3, 0.0], dtype=torch.float64, requires_grad=True)
    margin = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bradley_terry_loss, (chosen, rejected, margin))


def test_the_expected_loss_is_least_at_the_true_strengths():
    # Every ordered pair of five items, each outcome with its true probability: the minimum is at the truth
    # (up to a constant), where the expected loss is the mean entropy of the outcomes.
    truth = torch.tensor([-1.5, -0.2, 0.0, 0.9, 2.0], dtype=torch.float64)
    pairs = list(itertools.combinations(range(5), 2))
    left, right = torch.tensor([a for a, _ in pairs]), torch.tensor([b for _, b in pairs])
    chance = 1 / (1 + torch.exp(truth[right] - truth[left]))

    def expected(scores):
        losses = [
            p * bradley_terry_loss(scores[a : a + 1], scores[b : b + 1])
            + (1 - p) * bradley_terry_loss(scores[b : b + 1], scores[a : a + 1])
            for (a, b), p in zip(pairs, chance, strict=True)
        ]
        return torch.stack(losses).mean()

    scores = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = expected(scores)
        loss.backward()
        return loss

    optimizer.step(closure)
    fitted = scores.detach()
    torch.testing.assert_close(fitted - fitted.mean(), truth - truth.mean(), atol=1e-6, rtol=0)
    entropy = -(chance * chance.log() + (1 - chance) * (1 - chance).log()).mean()
    assert expected(fitted).item() == pytest.approx(entropy.item(), abs=1e-10)


def test_probabilities_of_both_orders_add_to_one():
    scores = torch.tensor([-3.0, 0.0, 0.4, 5.0]).double()
    forward = probability(scores[:, None], scores[None, :])
    torch.testing.assert_close(forward + forward.T, torch.ones(4, 4).double())


def test_equals_logistic_regression_on_differences():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(3)
    chosen = torch.randn(211, 5, generator=generator, dtype=torch.float64) + 0.3
    rejected = torch.randn(211, 5, generator=generator, dtype=torch.float64)
    weight = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = bradley_terry_loss(chosen @ weight, rejected @ weight)
        loss.backward()
        return loss

    optimizer.step(closure)
    # Each difference with label 1 and its negative with label 0: the same likelihood, without an intercept.
    difference = (chosen - rejected).numpy()
    model = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit([*difference, *-difference], [1] * 211 + [0] * 211)
    torch.testing.assert_close(weight.detach(), torch.tensor(model.coef_[0]), atol=1e-5, rtol=0)


def test_a_tie_counts_half_and_nan_stays_nan():
    chosen, rejected = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 5.0])
    assert wins(chosen, rejected).tolist() == [0.5, 1.0, 0.0]
    assert accuracy(chosen, rejected) == 0.5
    assert math.isnan(wins(torch.tensor([math.nan]), torch.tensor([0.0])).item())
