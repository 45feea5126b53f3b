"""What a PPO run holds: models, optimizer, rewards, prompts; made, saved, resumed, rolled back, published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from data.chat import encode_documents
from data.collate import pack
from data.rows import Item, TextRow, read_jsonl
from pipeline import adapted, critic, lean_decoder
from pipeline.actor_critic import ActorCritic
from pipeline.checkpoint import load_state, save_state
from pipeline.episodes import Rewards, load_rewards, read_prompts
from pipeline.language_model import LanguageModel, publish_model
from pipeline.lean import make_lean
from pipeline.next_token import NextToken
from pipeline.run_directory import model_folder
from reward.model import RewardModel
from reward.role_adapters import POLICY, REWARD, VALUE, Role, Trunk

if TYPE_CHECKING:
    from pipeline.run import StageRun
    from pipeline.stages.ppo import Config

PRETRAIN_LENGTH = 128  # tokens in a packed row of pretraining text
ADAM_BETAS = (0.9, 0.999)
PEAK_WINDOW = 5  # batches over which gold is averaged; the policy of the middle one is kept
ROLL_BACK_RATE, ROLL_BACK_KL = 0.5, 2.0  # learning rate and kl_coef are multiplied by these
# A kl_coef of 0 stays 0 however often it is doubled. With this one the default max_kl, 50 nats, costs as much as
# one standard deviation of normalised scores.
ROLL_BACK_KL_FROM_0 = 0.02


@dataclass
class Learner:
    """Everything that one PPO run holds; `kl_coef` and what has a default changes as it goes."""

    config: Config
    run: StageRun
    tokenizer: Any
    model: ActorCritic
    sampler: Any
    reference: Any
    optimizer: torch.optim.Optimizer
    rewards: Rewards
    items: list[Item]
    prompts: list[list[int]]
    pretrain_rows: Int[Tensor, "rows time"] | None
    pretrain_loss: NextToken | None
    end_ids: list[int]
    pad_id: int
    kl_coef: float
    trunk: Trunk | None = None
    rate_scale: float = 1.0
    rolled_back: bool = False
    first_score: tuple[float, float] | None = None  # mean and standard deviation of the first batch
    recent_gold: list[float] = field(default_factory=list)
    recent_kl: list[float] = field(default_factory=list)
    recent_policies: list[dict[str, Tensor]] = field(default_factory=list)
    peak_gold: float | None = None
    inside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where policy, critic and reference compute; experience itself is kept on the CPU."""
        return self.model.policy.device


def make_learner(config: Config, run: StageRun) -> Learner:
    """Load the models and prompts of a run that starts.

    Raises:
        InputError: the reward model is of another tokenizer, or no prompt fits the model's context.
    """
    policy = LanguageModel.load(run.inputs["policy"], device=run.device)
    rounded = run.precision == "bfloat16"
    rounds_for_speed = rounded and lean_decoder.qualifies(policy.model)  # asked before it carries adapters
    trunk = _trunk(config, run, policy) if config.value_model == "adapters" else None
    if trunk is None:
        reference = LanguageModel.load(run.inputs["policy"], device=run.device).model.requires_grad_(False)
        value_model = _value_model(config, run)
    else:
        reference, value_model = Role(trunk, None), Role(trunk, VALUE)
    model = ActorCritic(policy.model, value_model).to(run.device)
    make_lean(model, reference)
    prompts = read_prompts(config, run, policy)
    sampler = policy.model
    # A copy samples: rounded, or with the adapter merged; both only where its steps are the faster for it, as the
    # sum rounds to other weights than those of the learner.
    if rounded != (trunk is not None) or rounds_for_speed:
        dtype = torch.bfloat16 if rounded else torch.float32
        sampler = LanguageModel.load(run.inputs["policy"], dtype=dtype, device=run.device).model
    return Learner(
        config=config,
        run=run,
        tokenizer=policy.tokenizer,
        model=model,
        sampler=sampler,
        reference=reference,
        optimizer=make_optimizer(config, model),
        rewards=load_rewards(config, run, prompts.items, policy.tokenizer, trunk=trunk),
        items=prompts.items,
        prompts=prompts.tokens,
        pretrain_rows=_pretrain_rows(config, run, policy.tokenizer),
        pretrain_loss=NextToken(policy.model) if config.pretrain_coef else None,
        end_ids=policy.end_ids,
        pad_id=policy.pad_id,
        kl_coef=config.kl_coef,
        trunk=trunk,
    )


def _trunk(config: Config, run: StageRun, policy: LanguageModel) -> Trunk:
    """The policy's transformer with an adapter for the policy and one for the critic."""
    trunk = Trunk(policy.model)
    for role in (POLICY, VALUE):
        trunk.add(role, rank=config.lora_rank, alpha=config.lora_alpha, seed=run.key("lora", role))
    trunk.train(POLICY, VALUE)
    return trunk


def make_optimizer(config: Config, model: ActorCritic) -> torch.optim.Optimizer:
    """Adam over policy and critic, whose head may learn faster; the rates are set anew for each batch."""
    head = list(model.value_head.parameters())
    trunks = [parameter for name, parameter in trained(model).items() if not name.startswith("value_head.")]
    rates = (config.learning_rate, config.value_head_rate * config.learning_rate)
    groups: list[dict[str, Any]] = [
        {"params": params, "lr": rate} for params, rate in zip((trunks, head), rates, strict=True)
    ]
    return torch.optim.Adam(groups, eps=config.adam_eps, betas=ADAM_BETAS)


def trained(model: ActorCritic) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name; shared ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(learner: Learner, step: int) -> None:
    """Write a checkpoint of all that training changes."""
    state = {
        "model": {name: parameter.detach() for name, parameter in trained(learner.model).items()},
        "optimizer": learner.optimizer.state_dict(),
        "step": step,
        "kl_coef": learner.kl_coef,
        "rate_scale": learner.rate_scale,
        "rolled_back": learner.rolled_back,
        "first_score": learner.first_score,
        "recent_gold": learner.recent_gold,
        "recent_kl": learner.recent_kl,
        "recent_policies": learner.recent_policies,
        "peak_gold": learner.peak_gold,
    }
    learner.run.checkpoints.save(step, lambda folder: save_state(folder, state))


def resume(learner: Learner) -> int:
    """Load the newest complete checkpoint; returns the steps already done.

    Where there is none the start is saved as one, so that a roll-back always has where to return to.
    """
    found = learner.run.checkpoints.latest()
    if found is None:
        learner.run.cut_metrics(0)
        save(learner, 0)
        return 0
    state = load_state(found.path)
    _set_weights(learner, state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.kl_coef, learner.rate_scale = state["kl_coef"], state["rate_scale"]
    learner.rolled_back, learner.first_score = state["rolled_back"], state["first_score"]
    learner.recent_gold, learner.peak_gold = state["recent_gold"], state["peak_gold"]
    learner.recent_kl, learner.recent_policies = state["recent_kl"], state["recent_policies"]
    learner.run.cut_metrics(state["step"])
    return int(state["step"])


def roll_back(learner: Learner) -> int:
    """Return to the newest checkpoint with a smaller step and a larger penalty, once."""
    step = resume(learner)
    learner.rate_scale *= ROLL_BACK_RATE
    learner.kl_coef = learner.kl_coef * ROLL_BACK_KL or ROLL_BACK_KL_FROM_0
    learner.rolled_back = True
    learner.run.note(rolled_back_to_step=step, rolled_back_kl_coef=learner.kl_coef)
    save(learner, step)
    return step


def keep_inside(learner: Learner) -> None:
    """Keep a copy of a policy, with its critic, whose KL was measured to be inside the budget."""
    learner.inside = _copy(trained(learner.model))


def return_inside(learner: Learner) -> None:
    """Go back to what `keep_inside` kept last; without it the present policy is the one."""
    _set_weights(learner, learner.inside)


def publish(learner: Learner, name: str = "model") -> None:
    """Write the policy as a plain Hugging Face folder; an adapter is merged into the weights it started from."""
    policy = learner.model.policy
    if learner.trunk is not None:
        start: Any = LanguageModel.load(learner.run.inputs["policy"], device=learner.device).model
        policy = learner.trunk.merge_into(start, POLICY)
    publish_model(learner.run, policy, learner.tokenizer, name)


def publish_adapter(learner: Learner) -> None:
    """Write the policy's adapter to `adapter/`, where it has one."""
    if learner.trunk is not None:
        with learner.run.publish(adapted.ADAPTER) as folder:
            learner.trunk.save(POLICY, folder)


def publish_critic(learner: Learner) -> None:
    """Write the value function to `value/`; an adapter also merged into the weights it started from."""
    trunk = learner.model.value_model
    if learner.trunk is not None:
        start: Any = LanguageModel.load(learner.run.inputs["policy"], device=learner.device).model
        trunk = learner.trunk.merge_into(start, VALUE).base_model
    with learner.run.publish(critic.FOLDER) as folder:
        critic.save_critic(folder, learner.model.value_head, trunk)
        if learner.trunk is not None:
            (folder / adapted.ADAPTER).mkdir()
            learner.trunk.save(VALUE, folder / adapted.ADAPTER)


def keep_peak(learner: Learner, step: int, *, gold: float, kl: float) -> None:
    """Keep the policy in the middle of the batches with the highest mean gold so far in `peak/`.

    `gold` and `kl` (nats per completion) are those of the batch which the policy of `step` has just sampled.
    """
    half = PEAK_WINDOW // 2
    learner.recent_gold = [*learner.recent_gold, gold][-PEAK_WINDOW:]
    learner.recent_kl = [*learner.recent_kl, kl][-half - 1 :]
    learner.recent_policies = [*learner.recent_policies, _policy_weights(learner)][-half - 1 :]
    mean = sum(learner.recent_gold) / len(learner.recent_gold)
    if len(learner.recent_gold) < PEAK_WINDOW:
        return
    if learner.peak_gold is not None and mean <= learner.peak_gold:
        return
    learner.peak_gold = mean
    with _holding(learner, learner.recent_policies[0]):
        publish(learner, "peak")
    learner.run.note(peak={"step": step - half, "gold": mean, "kl": learner.recent_kl[0]})


def _policy_weights(learner: Learner) -> dict[str, Tensor]:
    """A copy of the weights that make the policy, on the CPU."""
    found = trained(learner.model)
    return _copy({name: found[name] for name in found if name.startswith("policy.")})


def _copy(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}


@contextmanager
def _holding(learner: Learner, weights: dict[str, Tensor]) -> Iterator[None]:
    """Let the policy have other weights for a while."""
    now = _policy_weights(learner)
    _set_weights(learner, weights)
    try:
        yield
    finally:
        _set_weights(learner, now)


@torch.no_grad()
def _set_weights(learner: Learner, weights: Mapping[str, Tensor]) -> None:
    parameters = trained(learner.model)
    for name, weight in weights.items():
        parameters[name].copy_(weight)


def _pretrain_rows(config: Config, run: StageRun, tokenizer: Any) -> Tensor | None:
    """Packed rows of pretraining text, or None where none is mixed in."""
    if config.pretrain_coef == 0:
        return None
    texts = [row.text for row in read_jsonl(run.inputs["corpus"] / "text.train.jsonl", TextRow)]
    return pack(encode_documents(tokenizer, texts), PRETRAIN_LENGTH)


def _value_model(config: Config, run: StageRun) -> Any:
    """A critic of its own: the trunk of the first reward model where one is learned, else the policy's."""
    if config.value_model == "head":
        return None
    stages = run.inputs.get("reward") or ()
    if "learned" in config.rewards and stages:
        return _reward_trunk(stages[0] / "model")
    return _headless(model_folder(run.inputs["policy"]))


def _reward_trunk(folder: Path) -> Any:
    """The transformer of a reward model, headless; an adapter is merged into the weights it belongs to."""
    if (folder / "backbone").is_dir():
        return _headless(folder / "backbone")
    trunk = RewardModel.load(folder).trunk
    assert trunk is not None, f"{folder} has neither a backbone nor an adapter"
    start = AutoModelForCausalLM.from_pretrained(
        folder / "reference", use_safetensors=True, dtype=torch.float32
    )
    return trunk.merge_into(start, REWARD).base_model


def _headless(folder: Path | str) -> Any:
    return AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
