"""What PPO announces before it runs."""

import pytest
from pydantic import ValidationError

from data.world import Settings
from pipeline.recipe import Cost, CostContext
from pipeline.shared_costs import TOKENS_PER_EPISODE
from pipeline.stages import ppo as stage

POLICY = Cost(parameters=1000)
SMALL = {"num_episodes": 40, "batch_size": 20, "num_epochs": 3, "gate_prompts": 0}
EPISODE = TOKENS_PER_EPISODE


def announced(costs=None, corpus=None, precision="float32", **settings):
    costs = {"policy": POLICY} if costs is None else costs
    context = CostContext({"corpus": corpus or Settings()}, costs, precision=precision)
    return stage.cost(stage.Config(**SMALL | settings), context)


def test_steps_tokens_and_operations_follow_from_the_episodes():
    cost = announced(value_model="head", rewards={"length": 1.0})
    assert (cost.steps, cost.tokens, cost.parameters) == (2, 40 * EPISODE, 1000)
    # Sampling 6, old and reference log-probabilities 2 each, three passes of 6; the KL of the last policy takes
    # a batch of 20 more, which nothing is learned from.
    assert cost.flops == ((6 + 4) * (40 + 20) + 3 * 6 * 40) * 1000 * EPISODE
    assert cost.memory_bytes == (16 + 4) * 1000
    assert cost.disk_bytes == 4 * 1000 * (1 + 2 * 3)


def test_a_critic_a_learned_reward_pretraining_text_and_the_gate_cost_more():
    plain = announced(value_model="head", rewards={"length": 1.0})
    critic = announced(value_model="separate", rewards={"length": 1.0})
    assert critic.flops - plain.flops == (2 * (40 + 20) + 3 * 6 * 40) * 1000 * EPISODE
    assert critic.memory_bytes - plain.memory_bytes == 16 * 1000
    assert critic.parameters == plain.parameters == 1000  # those of the model that it gives
    learned = announced({"policy": POLICY, "reward": [POLICY]}, value_model="head")
    assert learned.flops - plain.flops == 4 * 1000 * 40 * EPISODE
    assert learned.memory_bytes - plain.memory_bytes == 8 * 1000
    mixed = announced(value_model="head", rewards={"length": 1.0}, pretrain_coef=0.1, pretrain_tokens=64)
    assert mixed.flops - plain.flops == 6 * 1000 * 64 * 2 * 3
    gated = announced(value_model="head", rewards={"length": 1.0}, gate_prompts=2, gate_samples=5)
    assert gated.flops - plain.flops == 6 * 1000 * 10 * EPISODE
    halved = announced(value_model="head", rewards={"length": 1.0}, precision="bfloat16")
    assert halved.memory_bytes - plain.memory_bytes == 2 * 1000


@pytest.mark.parametrize("costs", [{}, {"policy": None}])
def test_without_a_known_policy_the_time_stays_unknown(costs):
    assert announced(costs, value_model="head").flops == 0


def test_on_other_prompts_completions_count_in_full_and_the_plan_says_so():
    other = type("Corpus", (), {})()
    cost = announced(corpus=other, max_new_tokens=100)
    assert cost.tokens == 40 * 100
    assert "max_new_tokens" in cost.note


def test_an_adaptive_penalty_that_cannot_move_is_refused():
    with pytest.raises(ValidationError, match="kl_coef 0 stays 0 with kl_control: adaptive"):
        stage.Config(kl_control="adaptive", kl_coef=0)
    assert stage.Config(kl_control="fixed", kl_coef=0).kl_coef == 0
