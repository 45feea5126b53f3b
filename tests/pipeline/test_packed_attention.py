"""Attention within the documents of a packed row, against each document alone."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.next_token import NextToken
from pipeline.packed_attention import Documents, keeps_apart, within

BEGIN, END = 1, 2
SIZES = {
    "llama": {"num_key_value_heads": 2},
    "gpt2": {"n_positions": 64},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neox": {},
}


def starts(*rows):
    """Rows of 0 and 1 as a mask."""
    return torch.tensor([[mark == "1" for mark in row] for row in rows])


def documents_of(*lengths):
    """Documents of random words between their begin and their end."""
    generator = torch.Generator().manual_seed(1)
    words = [torch.randint(3, 29, (length - 2,), generator=generator).tolist() for length in lengths]
    return [[BEGIN, *row, END] for row in words]


def test_positions_begin_anew_and_every_token_is_found_again():
    documents = Documents.of(starts("0001000010", "0000000000"))
    assert documents.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 0, 1], [*range(10)]]
    # Documents of 3, 5, 2 and 10 tokens: one group for each power of two above.
    groups = [group.tolist() for group in documents.groups]
    assert groups == [[[8, 9]], [[0, 1, 2]], [[3, 4, 5, 6, 7]], [[*range(10, 20)]]]
    joined = torch.cat([group.flatten() for group in documents.groups])
    assert joined[documents.back].tolist() == [*range(20)]


def test_documents_of_similar_length_share_a_group_and_padding_is_never_read_back():
    documents = Documents.of(starts("10010000"))
    assert [group.tolist() for group in documents.groups] == [[[0, 1, 2]], [[3, 4, 5, 6, 7]]]
    documents = Documents.of(starts("1001000"))
    assert [group.tolist() for group in documents.groups] == [[[0, 1, 2, 0], [3, 4, 5, 6]]]
    assert documents.back.tolist() == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("name", SIZES)
def test_a_packed_document_is_read_as_if_it_stood_alone(tiny_model, name):
    model = tiny_model(name, **SIZES[name])
    assert keeps_apart(model)
    alone = documents_of(5, 9, 8, 10)
    rows = torch.tensor([alone[0] + alone[1] + alone[2], alone[3] + alone[1] + alone[0][:3]])[:, :22]
    documents = Documents.of(rows == BEGIN)
    with within(documents, model), torch.no_grad():
        packed = model.base_model(input_ids=rows, position_ids=documents.positions, use_cache=False)[0]
    with torch.no_grad():
        expected = model.base_model(input_ids=torch.tensor([alone[1]]), use_cache=False)[0][0]
    # The order of sums differs.
    assert torch.allclose(packed[0, 5:14], expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(packed[1, 10:19], expected, rtol=1e-4, atol=1e-5)


def test_the_loss_and_its_gradients_are_those_of_the_documents_alone(tiny_model):
    model = tiny_model("llama", **SIZES["llama"])
    module = NextToken(model)
    assert module.apart
    alone = documents_of(5, 9, 8)
    packed = module(torch.tensor([[*alone[0], *alone[1], *alone[2]]]))
    packed.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    # The end of a document also predicts the begin of the next one.
    rows = [row + following[:1] for row, following in zip(alone, [*alone[1:], []], strict=True)]
    total = sum(module(torch.tensor([row])) * (len(row) - 1) for row in rows) / 21
    total.backward()
    assert packed.item() == pytest.approx(total.item(), rel=1e-5)
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        assert torch.allclose(found, parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_model_without_a_begin_token_reads_whole_rows(tiny_model):
    module = NextToken(tiny_model("llama", bos_token_id=None))
    assert not module.apart
    first, second, third = documents_of(6, 6, 6)
    losses = [module(torch.tensor([before + third])).item() for before in (first, second)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_an_architecture_with_its_own_attention_is_found_out():
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("bloom", vocab_size=29, hidden_size=16, n_layer=1, n_head=2, bos_token_id=BEGIN)
    )
    before = model.config._attn_implementation
    assert not keeps_apart(model)
    assert model.config._attn_implementation == before
    assert not NextToken(model).apart


def test_the_attention_is_as_before_afterwards(tiny_model):
    model = tiny_model("llama", **SIZES["llama"])
    before = model.config._attn_implementation
    with within(Documents.of(starts("1010")), model):
        assert model.config._attn_implementation != before
        # An input that does not fit the documents.
        with pytest.raises(IndexError):
            model(input_ids=torch.ones(1, 3, dtype=torch.long))
    assert model.config._attn_implementation == before
