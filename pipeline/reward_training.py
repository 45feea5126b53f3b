"""The parts of the reward stage: likelihoods, training, normalisation, the control."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput

from data.randomness import key
from data.rows import prompt_hash
from data.sampler import order
from pipeline import trl_adapter
from pipeline.errors import TrainingFault
from pipeline.language_model import LanguageModel
from pipeline.lean import make_lean
from pipeline.micro_batches import halve_until_it_fits, micro_batches
from pipeline.optimizers import BETAS
from pipeline.pairs import Pairs
from pipeline.run_directory import model_folder
from reward.model import TRANSFORMERS, RewardModel
from reward.preference import bradley_terry_loss
from reward.role_adapters import REWARD, Trunk
from reward.scoring import Row, encode, likelihood_of_rows, of_rows, pad, score_rows
from reward.stored import NormalisedReward

if TYPE_CHECKING:
    from pipeline.run import StageRun
    from pipeline.stages.reward import Config

Likelihoods = list[Float[Tensor, "time 6"]]
HEAD_BATCH = 64  # pairs in a step of the heads alone, whatever a step of all weights takes


def load_policy(run: StageRun) -> LanguageModel:
    """Load the SFT model: reference of the likelihoods and source of the completions."""
    policy = LanguageModel.load(run.inputs["policy"], device=run.device)
    policy.model.requires_grad_(False)
    return policy


def new_model(config: Config, run: StageRun, *parts: str) -> RewardModel:
    """Make a reward model that starts from the SFT weights; `parts` name another draw of its heads."""
    backbone: Any
    if config.trainable == "lora":
        backbone = Trunk(LanguageModel.load(run.inputs["policy"], device=run.device).model)
        backbone.add(REWARD, rank=config.lora_rank, alpha=config.lora_alpha, seed=run.key("lora", *parts))
        backbone.train(REWARD)
    else:
        with trl_adapter.quiet_libraries():
            backbone = AutoModel.from_pretrained(
                model_folder(run.inputs["policy"]), use_safetensors=True, dtype=torch.float32
            )
    model = RewardModel(backbone, features=config.features, seed=run.key("heads", *parts)).to(run.device)
    make_lean(model)
    return model


def likelihoods(config: Config, run: StageRun, policy: LanguageModel, pairs: Pairs) -> Likelihoods | None:
    """How likely the SFT model found the completions of the training pairs; one pass before training."""
    if config.features == "none":
        return None
    return likelihood_of_rows(policy.model, pairs.train_rows, bfloat16=run.precision == "bfloat16")


def standardise(model: RewardModel, pairs: Pairs, known: Likelihoods | None) -> None:
    """Give the likelihood head the mean and scale of what it will see."""
    if model.likelihood is not None and known is not None:
        starts = [row.start for row in pairs.train_rows]
        model.likelihood.fit([features[start:] for features, start in zip(known, starts, strict=True)])


def fit_heads(
    config: Config,
    run: StageRun,
    model: RewardModel,
    pairs: Pairs,
    known: Likelihoods | None,
    better: Sequence[int],
    *parts: str,
) -> None:
    """Train the heads alone on the states of the SFT model, `head_epochs` times over the pairs.

    Linear probing, then fine-tuning (LP-FT; Kumar et al. 2022, arXiv 2202.10054): where all weights learn at
    once, the backbone fits the pairs by their words before heads that start from nothing read the likelihoods.

    `better` are the rows of the better completions, each beside that of the worse (row ^ 1); `parts` name another
    draw of the order.
    """
    if not config.head_epochs:
        return
    rows = [pairs.rows[place] for first in better for place in (first, first ^ 1)]
    states = states_at_end(model, rows, run).view(len(better), 2, -1)
    heads = _heads(model)
    optimizer = torch.optim.AdamW(heads, lr=config.head_epochs_learning_rate, betas=BETAS, weight_decay=0.0)
    steps = -(-len(better) // HEAD_BATCH)
    schedule = trl_adapter.schedule_of(config, optimizer, config.head_epochs * steps)
    collate = Collator(pairs, known)
    with run.progress("heads", config.head_epochs * len(better), "pairs") as bar:
        for epoch in range(config.head_epochs):
            picked = order(run.key("heads", *parts), epoch, len(better))
            for numbers in np.array_split(picked, steps):
                first = [better[n] for n in numbers]
                places = first + [place ^ 1 for place in first]
                batch = {name: x.to(run.device) for name, x in collate.of_rows(places).items()}
                at_end = states[numbers].transpose(0, 1).flatten(0, 1).to(run.device)
                scores = model.of_heads(at_end, batch.get("features"), batch["completion"])
                bradley_terry_loss(*scores.chunk(2)).backward()
                nn.utils.clip_grad_norm_(heads, config.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            bar.advance(len(better))
            run.check_stop()


def states_at_end(model: RewardModel, rows: Sequence[Row], run: StageRun) -> Float[Tensor, "rows width"]:
    """The backbone's state at the last token of each row, on the CPU."""
    model.eval()
    return of_rows(
        rows,
        lambda batch: model.at_end(batch.tokens, batch.mask),
        device=run.device,
        shape=(model.head.in_features,),
        bfloat16=run.precision == "bfloat16",
    )


def _heads(model: RewardModel) -> list[nn.Parameter]:
    return [x for name, x in model.named_parameters() if not name.startswith(TRANSFORMERS)]


class Classifier(nn.Module):
    """A reward model as TRL's trainer sees it: a sequence classifier of one label, raw scores as logits."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model
        # A copy: the trainer writes its own values into it.
        self.config = copy.deepcopy(model.backbone.config)
        self.config.num_labels = 1

    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        attention_mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 6"] | None = None,
        use_cache: bool = False,
    ) -> SequenceClassifierOutput:
        """Score rows; `logits` is (batch, 1)."""
        scores = self.model.raw(input_ids, attention_mask, completion, features)
        return SequenceClassifierOutput(logits=scores[:, None])

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """What training changes: of a frozen trunk its adapters alone."""
        whole = super().state_dict(*args, **kwargs)
        return {name: x for name, x in whole.items() if self._learns(name)}

    @staticmethod
    def _learns(name: str) -> bool:
        return not name.startswith("model.frozen.") or ".lora_" in name

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Take that back; the frozen weights are not missing, they are where they were."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        found.missing_keys[:] = [name for name in found.missing_keys if self._learns(name)]
        return found

    def add_model_tags(self, tags: Any) -> None:
        """Nothing: TRL tags what it trains for the hub."""


class Collator:
    """Makes a batch of pairs: all chosen completions, then all rejected ones, as TRL's trainer expects."""

    def __init__(self, pairs: Pairs, known: Likelihoods | None) -> None:
        self.pairs, self.known = pairs, known

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate the pairs named by `pair`."""
        numbers = [example["pair"] for example in examples]
        places = [2 * n for n in numbers] + [2 * n + 1 for n in numbers]
        return self.of_rows(places)

    def of_rows(self, places: Sequence[int]) -> dict[str, Tensor]:
        """Collate rows."""
        padded = pad([self.pairs.rows[place] for place in places])
        batch = {"input_ids": padded.tokens, "attention_mask": padded.mask, "completion": padded.completion}
        if self.known is not None:
            batch["features"] = nn.utils.rnn.pad_sequence([self.known[p] for p in places], batch_first=True)
        return batch


def train(
    config: Config,
    run: StageRun,
    plan: trl_adapter.Batches,
    model: RewardModel,
    pairs: Pairs,
    known: Likelihoods | None,
    tokenizer: Any,
) -> None:
    """Train by TRL's RewardTrainer from the newest checkpoint; changes the model."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    columns = {
        "pair": list(range(pairs.num_train)),
        "chosen_ids": [row.tokens for row in pairs.train_rows[::2]],
        "rejected_ids": [row.tokens for row in pairs.train_rows[1::2]],
    }
    classifier = Classifier(model)
    trl_adapter.train(
        RewardTrainer,
        run,
        plan,
        checkpoint_every=config.checkpoint_every,
        paired=True,
        model=classifier,
        args=RewardConfig(
            **trl_adapter.arguments(run, plan, max_grad_norm=config.max_grad_norm, max_length=None)
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        data_collator=Collator(pairs, known),
        optimizers=optimizer_and_schedule(config, model, plan.num_steps),
    )
    model.eval()


def optimizer_and_schedule(config: Config, model: RewardModel, num_steps: int) -> tuple[Any, Any]:
    """AdamW with a higher rate for the heads, which are new, than for the SFT weights.

    At one rate for both, one epoch leaves either the heads untrained or the backbone overfitted.
    """
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = _heads(model)
    backbone = [parameter for name, parameter in learning.items() if name.startswith(TRANSFORMERS)]
    groups = [
        {"params": [p for p in backbone if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in backbone if p.ndim <= 1], "weight_decay": 0.0},
        {"params": heads, "lr": config.head_learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS)
    return optimizer, trl_adapter.schedule_of(config, optimizer, num_steps)


def normalise(
    config: Any, run: StageRun, model: NormalisedReward, policy: LanguageModel, pairs: Pairs
) -> None:
    """Sample completions of the SFT model and make their scores' mean 0 and variance 1.

    `config` has `normalise_prompts`, `temperature` and `max_new_tokens`.

    Raises:
        TrainingFault: there is one score, or all are equal.
    """
    by_prompt = {prompt_hash(row): row.prompt for row in pairs.pairs[: pairs.num_train]}
    names = sorted(by_prompt)
    chosen = [
        names[place] for place in order(run.key("normalise"), 0, len(names))[: config.normalise_prompts]
    ]
    prompts = [by_prompt[name] for name in chosen]
    drawn = policy.generate(
        prompts,
        keys=[run.key("normalise", name) for name in chosen],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
    )
    ended = [completion.ended for completion in drawn]
    rows = encode(policy.tokenizer, prompts, [completion.text for completion in drawn], ended)
    kept = [row for row, has_ended in zip(rows, ended, strict=True) if has_ended] or rows
    raw = score_rows(model, kept, raw=True, bfloat16=run.precision == "bfloat16")
    if not (raw - raw[0]).any():
        raise TrainingFault(
            f"{run.name}: the scores to normalise by have no variance: {len(raw)} sampled completions, to "
            f"{len(chosen)} of the {len(names)} prompts of the training pairs; give more pairs or raise "
            "normalise_prompts, and check that the pairs differ in what is learned from"
        )
    model.normalise(raw)
    run.note(normalised_on=len(kept), offset=model.offset, scale=model.scale)


def attach(model: RewardModel, policy: LanguageModel) -> None:
    """Give a trained model its reference, which it needs to score text it has not seen."""
    if model.features == "likelihood" and model.trunk is None:
        model.reference = policy.model


def score_held_out(run: StageRun, model: NormalisedReward, pairs: Pairs) -> Float[Tensor, "pairs 2"]:
    """Normalised scores of the held-out pairs: of the chosen and of the rejected completion."""
    scores = score_rows(model, pairs.held_out_rows, bfloat16=run.precision == "bfloat16")
    return scores.view(-1, 2)


def shuffled_control(
    config: Config, run: StageRun, policy: LanguageModel, pairs: Pairs, known: Likelihoods | None
) -> Float[Tensor, "pairs 2"] | None:
    """Scores of the held-out pairs by a model trained on pairs whose order a coin decided: a null, near 1/2.

    It learns from `control_pairs` pairs alone: enough to show a leak, and cheap.
    """
    num = min(config.control_pairs, pairs.num_train)
    if num == 0:
        return None
    model = new_model(config, run, "control")
    standardise(model, pairs, known)
    optimizer, schedule = optimizer_and_schedule(config, model, -(-num // config.batch_size))
    collate, micro_batch = Collator(pairs, known), config.micro_batch_size
    picked = order(run.key("control"), 0, pairs.num_train)[:num].tolist()
    better = [2 * n + (key(run.key("flip"), n) & 1) for n in picked]
    fit_heads(config, run, model, pairs, known, better, "control")
    for start in range(0, num, config.batch_size):
        first = better[start : start + config.batch_size]
        batch = collate.of_rows(first + [place ^ 1 for place in first])
        batch = {name: tensor.to(run.device) for name, tensor in batch.items()}
        _, micro_batch = halve_until_it_fits(
            partial(_control_gradients, run, model, batch),
            micro_batch,
            run,
            at_hand=len(first),
            reset=optimizer.zero_grad,
            unit="pairs",
        )
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        run.check_stop()
    attach(model, policy)
    return score_held_out(run, model, pairs)


def _control_gradients(
    run: StageRun, model: RewardModel, batch: Mapping[str, Tensor], micro_batch: int
) -> None:
    """Add up the gradients of a batch of pairs, micro-batch after micro-batch."""
    for part, share in micro_batches(batch, micro_batch, paired=True):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
            scores = Classifier(model)(**part).logits.squeeze(-1)
        (bradley_terry_loss(*scores.chunk(2)) * share).backward()
