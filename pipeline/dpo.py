"""The parts of direct preference optimisation: TRL's trainer on our rows, what it publishes and measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import trl_adapter
from pipeline.language_model import LanguageModel
from pipeline.pairs import Pairs
from pipeline.reward_report import report
from pipeline.sft import use_lean_head
from reward.implicit import log_ratios

if TYPE_CHECKING:
    from pipeline.run import StageRun
    from pipeline.stages.dpo import Config


def train(
    config: Config,
    run: StageRun,
    plan: trl_adapter.Batches,
    policy: LanguageModel,
    reference: LanguageModel,
    pairs: Pairs,
) -> Any:
    """Train by TRL's DPOTrainer from the newest checkpoint; returns the model."""
    from datasets import Dataset
    from trl import DPOConfig

    chosen, rejected = pairs.train_rows[::2], pairs.train_rows[1::2]
    columns = {
        "prompt_ids": [row.tokens[: row.start] for row in chosen],
        "chosen_ids": [row.tokens[row.start :] for row in chosen],
        "rejected_ids": [row.tokens[row.start :] for row in rejected],
    }
    settings = trl_adapter.arguments(
        run,
        plan,
        max_grad_norm=config.max_grad_norm,
        max_length=None,
        beta=config.beta,
        loss_type=[config.loss],
        label_smoothing=config.label_smoothing,
    )
    model: Any = policy.model.requires_grad_(True)
    frozen: Any = reference.model.requires_grad_(False)
    trainer = trl_adapter.train(
        trainer_class(),
        run,
        plan,
        checkpoint_every=config.checkpoint_every,
        paired=True,
        model=model,
        ref_model=frozen,
        args=DPOConfig(**settings),
        train_dataset=Dataset.from_dict(columns),
        processing_class=policy.tokenizer,
        optimizers=trl_adapter.optimizer_and_schedule(config, run, model, plan.num_steps),
    )
    return trainer.model


def trainer_class() -> type:
    """TRL's DPOTrainer on rows that are encoded already, with a lean output head on a CPU."""
    from trl import DPOTrainer

    class RowsDPOTrainer(DPOTrainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            if self.args.device.type == "cpu":
                for model in (self.model, self.ref_model):
                    use_lean_head(model)

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            """Give back the rows as they are: text that TRL encodes could forge control tokens."""
            return dataset

    return RowsDPOTrainer


def measure(config: Config, run: StageRun, model: Any, reference: LanguageModel, pairs: Pairs) -> None:
    """Report how the implicit reward orders the held-out pairs, as the reward stage reports its model."""
    model.eval()
    ratios = log_ratios(model, reference.model, pairs.held_out_rows, bfloat16=run.precision == "bfloat16")
    report(run, pairs.held_out, pairs.held_out_rows, config.beta * ratios.view(-1, 2), None)
