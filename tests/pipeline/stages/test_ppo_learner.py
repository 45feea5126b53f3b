"""What PPO starts from in every layout and with every form of reward model."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from pipeline import lean_decoder, ppo, ppo_learner
from pipeline.run import StageRun
from pipeline.stages.ppo import Config
from reward.model import RewardModel
from reward.role_adapters import POLICY, REWARD, Trunk

SETTINGS = {"num_episodes": 8, "batch_size": 8, "max_new_tokens": 6, "unended_score": None, "gate_prompts": 0}
TOKENS = torch.tensor([[5, 7, 11, 13, 17]])


def load(folder, kind=AutoModelForCausalLM):
    return kind.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def shift(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def make_run(small_world, tmp_path):
    """A factory of PPO stages with reward models of the given forms; none of them was trained."""
    policy = small_world / "stages" / "sft"
    tokenizer = AutoTokenizer.from_pretrained(policy / "model")

    def reward(form, number):
        folder = tmp_path / f"reward {number}"
        (folder / "model").mkdir(parents=True)
        backbone = load(policy / "model", AutoModel)
        if form == "adapter":
            backbone = Trunk(load(policy / "model"))
            backbone.add(REWARD, rank=2, alpha=4.0, seed=0)
        shift(backbone.parameters(REWARD).values() if form == "adapter" else backbone.parameters(), number)
        RewardModel(backbone, features="none", seed=number).save(folder / "model", tokenizer)
        return folder

    def make(*forms):
        rewards = [reward(form, number) for number, form in enumerate(forms)]
        inputs = {"corpus": small_world / "stages" / "corpus", "policy": policy, "reward": rewards}
        return StageRun("ppo", tmp_path / "ppo", seed=5, inputs=inputs)

    return make


def states(model):
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False)[0]


@pytest.mark.parametrize("forms", [["whole"], ["adapter"], ["whole", "adapter"], ["adapter", "whole"]])
def test_a_critic_of_its_own_starts_from_the_first_reward_model(make_run, forms):
    run = make_run(*forms)
    learner = ppo_learner.make_learner(Config(**SETTINGS), run)
    reward = RewardModel.load(run.inputs["reward"][0] / "model")
    torch.testing.assert_close(states(learner.model.value_model), states(reward.backbone), atol=1e-5, rtol=0)
    far = (states(learner.model.value_model) - states(learner.model.policy.base_model)).abs().max()
    assert far > 0.1
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
    ppo.update(learner, 0, ppo.experience(learner, 0))
    ppo_learner.publish_critic(learner)


def test_without_a_learned_reward_it_starts_from_the_policy(make_run):
    learner = ppo_learner.make_learner(Config(**SETTINGS, rewards={"length": 1.0}), make_run("whole"))
    assert torch.equal(states(learner.model.value_model), states(learner.model.policy.base_model))


@pytest.mark.parametrize("forms", [["whole"], ["adapter"], ["whole", "whole"]])
@pytest.mark.parametrize("value_model", ["head", "adapters"])
def test_the_other_layouts_have_no_transformer_of_their_own(make_run, value_model, forms):
    learner = ppo_learner.make_learner(Config(**SETTINGS, value_model=value_model), make_run(*forms))
    assert (learner.trunk is not None) == (value_model == "adapters")
    assert not isinstance(learner.model.value_model, torch.nn.Module)
    ppo.update(learner, 0, ppo.experience(learner, 0))


def test_a_rounded_copy_with_the_adapter_merged_samples_where_its_steps_are_the_faster_for_it(
    make_run, monkeypatch
):
    config = Config(**SETTINGS, value_model="adapters")
    run = make_run("whole")
    run.precision = "bfloat16"
    learner = ppo_learner.make_learner(config, run)
    assert learner.sampler is not learner.model.policy
    assert learner.sampler.dtype == torch.bfloat16
    shift(learner.trunk.parameters(POLICY).values(), seed=3)
    measured = ppo.experience(learner, 0).measured
    assert measured["kl"] > 0.1  # nats: the adapter has moved the policy
    assert measured["sampling_gap"] > 0  # rounded
    monkeypatch.setattr(lean_decoder, "qualifies", lambda model: False)
    learner = ppo_learner.make_learner(config, run)
    assert learner.sampler is learner.model.policy
