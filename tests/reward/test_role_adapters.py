"""One trunk with an adapter for each role equals as many separate models, in passes and in an update."""

import copy

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline import ppo, ppo_learner, rl
from pipeline.actor_critic import ActorCritic, token_logprobs
from pipeline.run import StageRun
from pipeline.stages.ppo import Config
from reward.role_adapters import POLICY, REWARD, VALUE, Role, Trunk

ROLES = (POLICY, VALUE, REWARD)


@pytest.fixture(params=["llama", "gpt2"])
def start(request, tiny_llama):
    if request.param == "llama":
        return tiny_llama()
    config = GPT2Config(
        vocab_size=29, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture
def trunk(start):
    made = Trunk(copy.deepcopy(start))
    for seed, role in enumerate(ROLES):
        made.add(role, rank=3, alpha=6.0, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for role in ROLES:
            for parameter in made.parameters(role).values():
                parameter.data.normal_(std=0.2)
    made.train(POLICY, VALUE)
    return made


@pytest.fixture
def batch():
    tokens = torch.arange(24).view(3, 8) % 29
    return tokens, torch.arange(8)[None].expand(3, 8) >= torch.tensor([2, 3, 4])[:, None]


def merged(trunk, start, role):
    return trunk.merge_into(copy.deepcopy(start), role)


def test_a_new_adapter_changes_nothing(start, batch):
    trunk = Trunk(copy.deepcopy(start))
    trunk.add(POLICY, rank=2, alpha=4.0, seed=0)
    with torch.no_grad():
        assert torch.equal(trunk.model(batch[0]).logits, start(batch[0]).logits)


def test_every_role_equals_a_separate_model_with_its_adapter_merged(trunk, start, batch):
    with torch.no_grad():
        for role in ROLES:
            whole = merged(trunk, start, role).base_model(batch[0])[0]
            torch.testing.assert_close(Role(trunk, role)(input_ids=batch[0])[0], whole, atol=2e-5, rtol=1e-4)
        assert torch.equal(Role(trunk, None)(input_ids=batch[0])[0], start.base_model(batch[0])[0])


def test_policy_critic_and_reference_equal_four_separate_models(trunk, start, batch):
    shared = ActorCritic(trunk.model, Role(trunk, VALUE))
    separate = ActorCritic(merged(trunk, start, POLICY), merged(trunk, start, VALUE).base_model)
    for model in (shared, separate):
        torch.nn.init.constant_(model.value_head.weight, 0.1)
    with torch.no_grad():
        for ours, theirs in zip(
            shared(*batch, temperature=0.7), separate(*batch, temperature=0.7), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        ours = token_logprobs(Role(trunk, None), *batch, temperature=0.7)
        assert torch.equal(ours, token_logprobs(start, *batch, temperature=0.7))


def test_gradients_reach_the_learning_roles_and_nothing_else(trunk, batch):
    model = ActorCritic(trunk.model, Role(trunk, VALUE))
    torch.nn.init.constant_(model.value_head.weight, 0.1)
    found = model(*batch, temperature=1.0)
    (found.logprobs.sum() + found.values.pow(2).sum()).backward()
    for role in (POLICY, VALUE):
        assert all(p.grad is not None and p.grad.any() for p in trunk.parameters(role).values()), role
    learning = {id(p) for role in (POLICY, VALUE) for p in trunk.parameters(role).values()}
    others = [p for p in trunk.model.parameters() if id(p) not in learning]
    assert others
    assert not any(p.requires_grad or p.grad is not None for p in others)


def with_lora(start, trunk, role):
    """A model of its own with a role's adapter as peft puts it there, and the weights of that."""
    model = copy.deepcopy(start)
    settings = peft.LoraConfig(
        r=3, lora_alpha=6.0, target_modules=trunk.places, fan_in_fan_out=isinstance(start, GPT2LMHeadModel)
    )
    peft.inject_adapter_in_model(settings, model.base_model, adapter_name=role)
    adapter = {
        name.removesuffix(f".{role}.weight"): parameter
        for name, parameter in model.base_model.named_parameters()
        if ".lora_" in name
    }
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    with torch.no_grad():
        for name, weight in trunk.parameters(role).items():
            adapter[name].copy_(weight)
    return model, adapter


def update(model, batch, run):
    """Two passes of PPO over a batch in two minibatches of two micro-batches each."""
    config = Config(
        num_episodes=8,
        batch_size=8,
        num_minibatches=2,
        micro_batch_size=2,
        num_epochs=2,
        value_model="separate",
        learning_rate=1e-2,
        stop_approx_kl=1e6,
    )
    torch.nn.init.constant_(model.value_head.weight, 0.1)
    tokens, mask = batch
    generator = torch.Generator().manual_seed(0)
    advantages, returns = (torch.randn(mask.shape, generator=generator) for _ in range(2))
    advantages = rl.whiten(advantages, mask)
    with torch.no_grad():
        old = model(tokens, mask, temperature=config.temperature)
    unused = dict.fromkeys(("tokenizer", "sampler", "reference", "rewards", "items", "prompts"))
    learner = ppo_learner.Learner(
        config=config,
        run=run,
        model=model,
        optimizer=ppo_learner.make_optimizer(config, model),
        pretrain_rows=None,
        pretrain_loss=None,
        end_ids=[2],
        pad_id=0,
        kl_coef=0.0,
        **unused,
    )
    experience = ppo.Experience(
        tokens, mask, old.logprobs, old.values, advantages, returns, scores=torch.zeros(len(mask))
    )
    return ppo.update(learner, 0, experience)


def test_an_update_moves_the_adapters_as_it_moves_those_of_separate_models(trunk, start, tmp_path):
    tokens = torch.randint(29, (8, 11), generator=torch.Generator().manual_seed(3))
    batch = tokens, torch.arange(11)[None] >= torch.arange(2, 10)[:, None]
    before = {role: {n: p.detach().clone() for n, p in trunk.parameters(role).items()} for role in ROLES}
    plain = {name: weight.clone() for name, weight in trunk.plain_state().items()}
    (policy, policy_adapter), (critic, critic_adapter) = (
        with_lora(start, trunk, role) for role in (POLICY, VALUE)
    )
    shared, separate = ActorCritic(trunk.model, Role(trunk, VALUE)), ActorCritic(policy, critic.base_model)
    run = StageRun("ppo", tmp_path)
    ours, theirs = update(shared, batch, run), update(separate, batch, run)
    # The norm that clips sums gradients in another order, so they differ by float32's rounding; Adam's
    # epsilon of 1e-5 keeps that small where they are near 0. 3e-7 was seen, and moves of 1e-2 a step.
    for role, adapter in ((POLICY, policy_adapter), (VALUE, critic_adapter)):
        for name, weight in trunk.parameters(role).items():
            assert (weight - before[role][name]).abs().max() > 5e-3, name
            torch.testing.assert_close(weight, adapter[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(shared.value_head.weight, separate.value_head.weight, atol=1e-5, rtol=0)
    for name in ("policy_loss", "value_loss", "approx_kl", "clipfrac", "grad_norm"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    # What does not learn is as it was.
    assert all(torch.equal(p, before[REWARD][name]) for name, p in trunk.parameters(REWARD).items())
    assert all(torch.equal(trunk.plain_state()[name], weight) for name, weight in plain.items())


def test_a_role_ends_with_its_call_even_when_that_fails(trunk, batch):
    with torch.no_grad():
        before = trunk.model(batch[0]).logits
        with pytest.raises((TypeError, ValueError)):
            Role(trunk, VALUE)()
        assert torch.equal(trunk.model(batch[0]).logits, before)


def test_an_adapter_travels_as_tensors(trunk, start, batch):
    other = Trunk(copy.deepcopy(start))
    other.add(REWARD, rank=3, alpha=6.0, seed=9)
    other.load(REWARD, {name: p.detach().clone() for name, p in trunk.parameters(REWARD).items()})
    with torch.no_grad():
        expected = Role(trunk, REWARD)(input_ids=batch[0])[0]
        torch.testing.assert_close(Role(other, REWARD)(input_ids=batch[0])[0], expected)
