"""A value function that was saved says what it said in training."""

import pytest
import torch
from transformers import AutoModel

from pipeline.actor_critic import ActorCritic
from pipeline.critic import FOLDER, load_critic, save_critic


@pytest.mark.parametrize("separate", [False, True])
def test_values_are_those_of_training(tiny_model, tmp_path, separate):
    policy = tiny_model("llama")
    trunk = None
    if separate:
        trunk = AutoModel.from_config(policy.config).eval()
    model = ActorCritic(policy, trunk)
    torch.nn.init.normal_(model.value_head.weight)
    torch.nn.init.constant_(model.value_head.bias, 0.3)
    (tmp_path / FOLDER).mkdir()
    save_critic(tmp_path / FOLDER, model.value_head, trunk)

    tokens = torch.tensor([[1, 5, 9, 11, 7, 2]])
    mask = torch.tensor([[False, False, True, True, True, True]])
    with torch.no_grad():
        expected = model(tokens, mask, temperature=1.0).values[0]
    values = load_critic(tmp_path, policy)(tokens[0].tolist())
    assert values.shape == (6,)
    torch.testing.assert_close(values[2:], expected[2:])
    assert expected[2:].std() > 0


def test_a_stage_without_a_critic_has_no_values(tiny_model, tmp_path):
    assert load_critic(tmp_path, tiny_model("llama")) is None
