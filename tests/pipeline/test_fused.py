"""The lean forms give the values and gradients of the plain ones."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.functional import rms_norm as torch_rms_norm

from pipeline import fused


def drawn(*shape, dtype=torch.float64):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype
    ).requires_grad_()


@pytest.mark.parametrize("chunk", [11, 3 * 11, 10**6])
def test_the_loss_has_the_value_and_gradients_of_cross_entropy(monkeypatch, chunk):
    monkeypatch.setattr(fused, "CHUNK_NUMBERS", chunk)
    hidden, weight = drawn(7, 5), drawn(11, 5)
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 2])
    ours = fused.linear_cross_entropy(hidden, weight, targets)
    plain = cross_entropy(hidden @ weight.T, targets)
    assert torch.allclose(ours, plain)
    # Twice the loss: the gradient that arrives is passed on.
    found = torch.autograd.grad(2 * ours, (hidden, weight))
    for mine, theirs in zip(found, torch.autograd.grad(2 * plain, (hidden, weight)), strict=True):
        assert torch.allclose(mine, theirs)


def test_the_loss_needs_no_gradient_of_what_is_frozen():
    hidden, weight, targets = drawn(7, 5), drawn(11, 5).detach(), torch.arange(7)
    fused.linear_cross_entropy(hidden, weight, targets).backward()
    assert hidden.grad.norm() > 0
    with torch.no_grad():
        assert not fused.linear_cross_entropy(hidden, weight, targets).requires_grad


def test_the_loss_under_autocast_is_that_of_bfloat16_products():
    hidden, weight, targets = (
        drawn(7, 5, dtype=torch.float32),
        drawn(11, 5, dtype=torch.float32),
        torch.arange(7),
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours = fused.linear_cross_entropy(hidden, weight, targets)
        plain = cross_entropy(torch.nn.functional.linear(hidden, weight), targets)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, plain, rtol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, theirs, atol=4e-3)  # bfloat16 has 8 bits; entries are below 1


@pytest.mark.parametrize("chunk", [11, 3 * 11, 10**6])
def test_log_probabilities_have_the_values_and_gradients_of_the_plain_form(monkeypatch, chunk):
    monkeypatch.setattr(fused, "CHUNK_NUMBERS", chunk)
    hidden, weight, tokens = drawn(7, 5), drawn(11, 5), torch.tensor([0, 10, 3, 3, 7, 1, 2])
    ours = fused.linear_logprobs(hidden, weight, tokens, temperature=0.7, entropy=True)
    shares = (hidden @ weight.T / 0.7).softmax(dim=-1)
    plain = shares.log().gather(1, tokens[:, None]).squeeze(1)
    assert torch.allclose(ours.logprobs, plain)
    assert torch.allclose(ours.entropy, -(shares * shares.log()).sum(dim=-1))
    assert not ours.entropy.requires_grad
    each = torch.linspace(-1, 2, 7, dtype=torch.float64)
    found = torch.autograd.grad(ours.logprobs @ each, (hidden, weight))
    for mine, theirs in zip(found, torch.autograd.grad(plain @ each, (hidden, weight)), strict=True):
        assert torch.allclose(mine, theirs)


def test_log_probabilities_under_autocast_have_a_softmax_in_float32():
    hidden, weight, tokens = (
        drawn(7, 5, dtype=torch.float32),
        drawn(11, 5, dtype=torch.float32),
        torch.arange(7),
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours = fused.linear_logprobs(hidden, weight, tokens).logprobs
        logits = torch.nn.functional.linear(hidden, weight)
    plain = logits.float().log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, plain, rtol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(ours.sum(), (hidden, weight)),
        torch.autograd.grad(plain.sum(), (hidden, weight)),
        strict=True,
    ):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, theirs, atol=4e-2)  # bfloat16 has 8 bits; entries are below 8


def test_log_probabilities_keep_no_logits():
    hidden, weight, kept = drawn(7, 5), drawn(11, 5), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        fused.linear_logprobs(hidden, weight, torch.arange(7))
    assert max(kept) < 7 * 11


def test_the_norm_has_torchs_value_and_gradients():
    x, weight = drawn(2, 3, 7), drawn(7)
    assert torch.allclose(fused.rms_norm(x, weight, 1e-6), torch_rms_norm(x, (7,), weight, 1e-6))
    assert torch.autograd.gradcheck(lambda x, weight: fused.rms_norm(x, weight, 1e-3), (x, weight))


def test_only_norms_of_this_form_are_replaced(tiny_llama):
    class OtherRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.zeros(16)), 1e-6

        def forward(self, x):
            return torch_rms_norm(x, (16,), 1 + self.weight, 1e-6)

    model, plain = tiny_llama(), tiny_llama()
    tokens = torch.arange(21).view(3, 7)
    assert fused.fuse_norms(torch.nn.ModuleList([model, OtherRMSNorm()])) == 5
    ours, theirs = (m(input_ids=tokens, labels=tokens).loss for m in (model, plain))
    assert torch.allclose(ours, theirs, rtol=1e-5)
    ours.backward()
    theirs.backward()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-6)
    assert model.state_dict().keys() == plain.state_dict().keys()
