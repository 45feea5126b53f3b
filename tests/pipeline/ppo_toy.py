"""PPO on a toy: a vocabulary of ten tokens, three prompts, and a reward for the good token."""

import copy

import torch

from data.rows import Item
from pipeline import ppo_learner
from pipeline.actor_critic import ActorCritic
from pipeline.episodes import Rewards
from pipeline.run import StageRun
from pipeline.stages.ppo import Config
from reward.role_adapters import POLICY, VALUE, Role, Trunk

GOOD, STOP, VOCABULARY = 7, 2, 10
SETTINGS = {
    "num_episodes": 32 * 40,
    "batch_size": 32,
    "max_new_tokens": 5,
    "temperature": 1.0,
    "learning_rate": 5e-3,
    "kl_coef": 0.0,
    "value_model": "head",
    "num_epochs": 2,
    "num_minibatches": 2,
    "micro_batch_size": 13,
    "unended_score": None,
    "max_kl": 1e6,
}


def share_of_good(items, texts, ended):
    return torch.tensor([text.split().count(str(GOOD)) / max(1, len(text.split())) for text in texts])


def make(folder, policy, *, score=share_of_good, gold=None, **changed):
    """A learner of a policy with ten tokens, whose stage writes to a folder."""
    config = Config(**{**SETTINGS, **changed})
    items = [Item(str(n), ({"role": "user", "content": "?"},), str(n), "toy", "", None, {}) for n in range(3)]
    trunk, reference, critic = None, copy.deepcopy(policy).requires_grad_(False), None
    sampler = copy.deepcopy(policy) if config.value_model == "adapters" else policy
    if config.value_model == "separate":
        critic = copy.deepcopy(policy.base_model)
    if config.value_model == "adapters":
        trunk = Trunk(policy)
        for seed, role in enumerate((POLICY, VALUE)):
            trunk.add(role, rank=config.lora_rank, alpha=config.lora_alpha, seed=seed)
        trunk.train(POLICY, VALUE)
        reference, critic = Role(trunk, None), Role(trunk, VALUE)
    model = ActorCritic(policy, critic)
    return ppo_learner.Learner(
        config=config,
        run=StageRun("ppo", folder),
        tokenizer=None,
        model=model,
        sampler=sampler,
        reference=reference,
        trunk=trunk,
        optimizer=ppo_learner.make_optimizer(config, model),
        rewards=Rewards({"learned": 1.0}, {"learned": score}, config.unended_score, gold),
        items=items,
        prompts=[[1, 3], [1, 4, 5], [1, 6, 6, 8]],
        pretrain_rows=None,
        pretrain_loss=None,
        end_ids=[STOP],
        pad_id=0,
        kl_coef=config.kl_coef,
    )
