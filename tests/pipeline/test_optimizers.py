"""The combined optimizer is its two parts, Muon's step is torch's, schedules have their closed forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.optimizers import (
    BatchedMuon,
    MuonAdamW,
    make_optimizer,
    orthogonalise,
    rate,
    set_rate,
    split_parameters,
)


def loss_of(model, seed):
    tokens = torch.randint(0, 29, (3, 11), generator=torch.Generator().manual_seed(seed))
    return model(input_ids=tokens, labels=tokens).loss


def train(model, optimizer, steps):
    for step in steps:
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_matrices_embeddings_and_vectors_are_told_apart(tiny_llama):
    model = tiny_llama()
    split = split_parameters(model)
    assert {p.shape for p in split.matrices} == {(16, 16), (32, 16), (16, 32)}
    assert len(split.matrices) == 2 * 7
    assert [p is model.get_input_embeddings().weight for p in split.embeddings] == [True]
    assert all(p.ndim == 1 for p in split.vectors)
    assert sum(map(len, split)) == len(list(model.parameters()))


def test_an_untied_head_and_learned_positions_are_no_hidden_matrices():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=29, n_embd=16, n_layer=1, n_head=2, n_positions=13, tie_word_embeddings=False
    )
    model = GPT2LMHeadModel(config)
    split = split_parameters(model)
    assert {p.shape for p in split.embeddings} == {(29, 16), (13, 16)}
    assert len(split.embeddings) == 3
    model.requires_grad_(False)
    assert split_parameters(model) == ([], [], [])


def test_the_combined_optimizer_equals_torchs_two(tiny_llama):
    one, two = tiny_llama(), tiny_llama()
    split = split_parameters(two)
    parts = [
        torch.optim.Muon(split.matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*split.embeddings, *split.vectors], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    combined = make_optimizer(one, "muon", learning_rate=0.01, weight_decay=0.1, precision="bfloat16")
    assert isinstance(combined, MuonAdamW)
    start = weights(one)
    for step in range(3):
        train(one, combined, [step])
        loss_of(two, step).backward()
        for part in parts:
            part.step()
            part.zero_grad()
    moved = (weights(two) - start).norm()
    # Batched products in bfloat16 (8 bits) are summed in another order.
    assert (weights(one) - weights(two)).norm() < 0.01 * moved


def test_the_matrices_move_as_far_in_float32_as_in_bfloat16(tiny_llama):
    moved = {}
    for precision in ("float32", "bfloat16"):
        model = tiny_llama()
        start = weights(model)
        train(
            model,
            make_optimizer(model, "muon", learning_rate=0.01, weight_decay=0.0, precision=precision),
            [0],
        )
        moved[precision] = weights(model) - start
    difference = (moved["float32"] - moved["bfloat16"]).norm()
    assert 0 < difference < 0.05 * moved["float32"].norm()


def test_embeddings_and_norms_take_their_multiple_of_the_rate_through_the_schedule(tiny_llama):
    options = {"learning_rate": 0.01, "weight_decay": 0.0, "embedding_rate": 3.0}
    optimizer = make_optimizer(tiny_llama(), "muon", **options)
    set_rate(optimizer.param_groups, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.015])


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 11, 5), (1, 7, 7)])
def test_orthogonalising_keeps_singular_vectors_and_evens_out_singular_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ orthogonalise(matrices) @ v.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(core, torch.diag_embed(values), atol=1e-9)
    # The iteration is tuned for speed: it stops anywhere near 1 (Jordan et al.: about 0.7 to 1.2).
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_matrices_of_one_shape_do_not_mix():
    matrices = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    assert torch.allclose(orthogonalise(matrices), alone, atol=1e-5)


def test_decay_takes_its_share_where_there_is_no_gradient():
    weight = torch.nn.Parameter(torch.ones(3, 5))
    weight.grad = torch.zeros(3, 5)
    BatchedMuon([weight], lr=0.5, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    assert torch.allclose(weight, torch.full((3, 5), 0.95))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_loaded_state_continues_bit_for_bit(tiny_llama, kind):
    options = {"learning_rate": 0.01, "weight_decay": 0.1}
    whole = tiny_llama()
    train(whole, make_optimizer(whole, kind, **options), range(5))
    first = tiny_llama()
    optimizer = make_optimizer(first, kind, **options)
    train(first, optimizer, range(2))
    second = tiny_llama(seed=1)
    second.load_state_dict(first.state_dict())
    restored = make_optimizer(second, kind, **options)
    restored.load_state_dict(optimizer.state_dict())
    train(second, restored, range(2, 5))
    assert torch.equal(weights(second), weights(whole))
    forgetful = tiny_llama()
    forgetful.load_state_dict(first.state_dict())
    train(forgetful, make_optimizer(forgetful, kind, **options), range(2, 5))
    assert not torch.equal(weights(forgetful), weights(whole))


def test_a_rate_of_zero_moves_nothing_in_either_part(tiny_llama):
    model = tiny_llama()
    start = weights(model)
    optimizer = make_optimizer(model, "muon", learning_rate=0.01, weight_decay=0.1)
    set_rate(optimizer.param_groups, 0.0)
    train(model, optimizer, [0])
    assert torch.equal(weights(model), start)
    set_rate(optimizer.param_groups, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.005}


def test_schedules_have_their_closed_forms():
    options = {"num_steps": 12, "num_warmup": 2}
    for schedule in ("constant", "linear", "cosine", "warmup_stable_decay"):
        assert [rate(schedule, step, **options) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert rate("linear", 7, **options) == 0.5
    assert rate("linear", 12, **options, final=0.25) == 0.25
    assert rate("cosine", 7, **options) == pytest.approx(0.5)
    assert rate("cosine", 4, **options, final=0.1) == pytest.approx(
        0.1 + 0.9 * (1 + math.cos(0.2 * math.pi)) / 2
    )
    stable = [rate("warmup_stable_decay", step, **options, decay_share=0.5) for step in range(13)]
    assert stable[2:7] == [1.0] * 5
    assert stable[7:] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    assert rate("constant", 11, **options) == 1.0


@given(
    schedule=st.sampled_from(["linear", "cosine", "warmup_stable_decay"]),
    num_steps=st.integers(1, 200),
    warmup=st.floats(0, 0.5),
    final=st.floats(0, 1),
)
def test_rates_rise_then_fall_within_their_bounds(schedule, num_steps, warmup, final):
    num_warmup = round(warmup * num_steps)
    rates = [
        rate(schedule, step, num_steps=num_steps, num_warmup=num_warmup, final=final)
        for step in range(num_steps)
    ]
    assert all(0 < value <= 1 for value in rates) or final == 0
    assert rates[:num_warmup] == sorted(rates[:num_warmup])
    after = rates[num_warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(after))
    assert all(value >= final - 1e-12 for value in after)
