"""TRL's trainers that sample (RLOO, GRPO) under the rules of a stage: our prompts, sampling, rewards and order.

They cut a batch that they sampled into micro-batches themselves, and keep it for several passes; a checkpoint in
between would lose it, so there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from data.chat import decode
from data.sampler import indices
from pipeline import rollout, trl_adapter
from pipeline.episodes import Prompts, Rewards, load_rewards, read_prompts
from pipeline.language_model import LanguageModel, publish_model

if TYPE_CHECKING:
    from pipeline.run import StageRun


@dataclass(frozen=True)
class Generations(trl_adapter.Batches):
    """Batches of prompts, each repeated for its group and taken `reuse` times; counts episodes."""

    unit: str = "episodes"
    batch_size: int = 0

    def counted_after(self, step: int) -> int:
        """Completions sampled up to and with this step."""
        return -(-step // self.reuse) * self.batch_size


def plan(config: Any, run: StageRun, num_prompts: int) -> Generations:
    """The prompts of every batch: `batch_size` completions in groups of `group_size`, `num_episodes` in all."""
    num_groups = config.batch_size // config.group_size
    accumulation = config.batch_size // config.micro_batch_size
    micro: list[list[int]] = []
    for batch in range(config.num_episodes // config.batch_size):
        places = indices(run.seed, batch * num_groups, num_groups, num_prompts).tolist()
        rows = [place for place in places for _ in range(config.group_size)]
        micro += [rows] * (accumulation * config.num_epochs)
    return Generations(
        micro, (), accumulation=accumulation, reuse=config.num_epochs, batch_size=config.batch_size
    )


def train(config: Any, run: StageRun, trainer_class: type, settings_class: type, **settings: Any) -> Any:
    """Sample and learn by one of TRL's trainers, from the newest checkpoint, and publish the policy.

    `config` has the fields of `pipeline.stages.rloo.Config`; `settings` are those of the one trainer.
    """
    from datasets import Dataset

    policy = LanguageModel.load(run.inputs["policy"], device=run.device)
    prompts = read_prompts(config, run, policy)
    rewards = load_rewards(config, run, prompts.items, policy.tokenizer)
    batches = plan(config, run, len(prompts.items))
    run.note(num_steps=batches.num_steps)
    arguments = trl_adapter.arguments(
        run,
        batches,
        max_grad_norm=config.max_grad_norm,
        per_device_train_batch_size=config.micro_batch_size,
        steps_per_generation=batches.accumulation,
        num_generations=config.group_size,
        num_iterations=config.num_epochs,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        beta=config.kl_coef,
        epsilon=config.clip_range,
        **settings,
    )
    trainer = trl_adapter.train(
        sampling(trainer_class, run, prompts, rewards, policy),
        run,
        batches,
        checkpoint_every=config.checkpoint_every,
        model=policy.model,
        reward_funcs=[_placeholder],
        args=settings_class(**arguments),
        # A prompt is the place of its tokens: TRL never sees text that could forge control tokens.
        train_dataset=Dataset.from_dict({"prompt": [str(row) for row in range(len(prompts.items))]}),
        processing_class=policy.tokenizer,
        optimizers=trl_adapter.optimizer_and_schedule(config, run, policy.model, batches.num_steps),
    )
    publish_model(run, trainer.model, policy.tokenizer)


def sampling(
    trainer_class: type, run: StageRun, prompts: Prompts, rewards: Rewards, policy: LanguageModel
) -> type:
    """Make a trainer class that reads token rows, samples by our rollout and scores by `rewards`."""
    from trl import GRPOTrainer

    with_logprobs = issubclass(trainer_class, GRPOTrainer)  # it has a place for those of another engine

    class Sampling(trainer_class):
        def _tokenize_prompts(self, places: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [prompts.tokens[int(place)] for place in places], None, {}

        def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
            step = self.state.global_step
            drawn = rollout.sample(
                self.accelerator.unwrap_model(self.model),
                prompt_ids,
                keys=[run.key("rollout", step, place) for place in range(len(prompt_ids))],
                max_new_tokens=self.max_completion_length,
                stop_ids=policy.end_ids,
                pad_id=policy.pad_id,
                temperature=self.temperature,
            )
            completions = drawn.completions()
            return (completions, None) if with_logprobs else completions

        def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            # TRL's disable_dropout does not reach the dropout that some architectures read from their config.
            learns = model.training
            model.eval()
            try:
                return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            finally:
                model.train(learns)  # TRL asks the mode whether it trains

        def _calculate_rewards(
            self, inputs: Any, places: list[str], completions: Any, completion_ids: Sequence[Sequence[int]]
        ) -> torch.Tensor:
            items = [prompts.items[int(place)] for place in places]
            ended = [bool(tokens) and tokens[-1] in policy.end_ids for tokens in completion_ids]
            texts = [decode(policy.tokenizer, tokens) for tokens in completion_ids]
            step = self.state.global_step
            scored = rewards.score(items, texts, ended, where=f"{run.name} at step {step}", first=step == 0)
            lengths = [len(tokens) for tokens in completion_ids]
            measured = {
                **scored.means(),
                "length": sum(lengths) / len(lengths),
                "ends": sum(ended) / len(ended),
            }
            for name, value in measured.items():
                self._metrics["train"][name].append(value)
            return scored.scores[:, None].to(self.accelerator.device)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            found = self._metrics["train"]
            if found.get("kl") and found.get("length"):  # the mean over tokens times tokens per completion
                found["kl_per_completion"] = [sum(found["kl"]) / len(found["kl"]) * found["length"][0]]
            super().log(logs, start_time)

    Sampling.__name__ = trainer_class.__name__
    return Sampling


def _placeholder(**kwargs: Any) -> list[float]:
    raise AssertionError("`_calculate_rewards` scores")
