"""PPO computes without dropout, wherever an architecture keeps it."""

import pytest
import torch

from pipeline import ppo
from pipeline.next_token import NextToken

FAMILIES = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5, "n_head": 2},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},  # read from its config in every pass
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5, "word_embed_proj_dim": 32},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
}


@pytest.mark.parametrize("value_model", ["head", "separate"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_drops_nothing(make_ppo, tiny_model, family, value_model):
    policy = tiny_model(family, vocab_size=10, **FAMILIES[family]).train()
    tokens = torch.arange(10)[None]
    assert not torch.equal(policy(tokens).logits, policy(tokens).logits)  # it would drop
    learner = make_ppo(policy=policy, value_model=value_model, num_minibatches=1, learning_rate=1e-12)
    torch.nn.init.ones_(learner.model.value_head.weight)
    learner.pretrain_rows, learner.pretrain_loss = torch.arange(10).repeat(3, 2), NextToken(policy)
    batch = ppo.experience(learner, 0)
    chunks = ppo.minibatches(learner, batch.mask, 0, 0)[0]
    first, again = (ppo._minibatch(learner, batch, chunks, step=0, place=(0, 0)) for _ in range(2))
    assert first["ratio_deviation"] == 0
    assert first["value_loss"] == pytest.approx(
        (batch.old_values - batch.returns)[batch.mask].square().mean().item() / 2, rel=1e-5
    )
    assert again == pytest.approx(first, rel=1e-5, abs=1e-7)
