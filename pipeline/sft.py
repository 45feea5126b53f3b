"""The parts of supervised fine-tuning: rows and their labels, the trainer, what is published, the gates."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from data.chat import encode_chats, encode_documents
from data.collate import pad_chats
from data.errors import InputError
from data.rows import ChatRow, TextRow, read_jsonl, require_rows, write_jsonl
from data.sampler import batches_by_length, indices, order
from pipeline import trl_adapter
from pipeline.adapted import ADAPTER
from pipeline.language_model import UNLIMITED, LanguageModel, context_of, publish_model
from pipeline.lean import make_lean
from pipeline.metrics import read_metrics
from reward.output_head import logits_of
from reward.role_adapters import make_reproducible

if TYPE_CHECKING:
    from pipeline.run import StageRun
    from pipeline.stages.sft import Config

EVALUATED_ROWS = 512  # held-out conversations on which the loss is measured
EVALUATED_AT_ONCE = 64
DOCUMENTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rows:
    """Encoded rows: tokens, which of them are targets, and for each epoch the rows it visits."""

    tokens: list[list[int]]
    targets: list[list[bool]]
    epochs: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row) for row in self.tokens]


def load(config: Config, run: StageRun) -> tuple[Any, Any]:
    """Load the pretrained model, ready for the kind of training asked for, and its tokenizer."""
    source = LanguageModel.load(run.inputs["policy"])
    model: Any = source.model
    if config.trainable == "last_layer":
        freeze_all_but_last_layer(model)
    if config.trainable == "lora":
        model = with_lora(config, model, seed=run.key("lora"))
    return model, source.tokenizer


def freeze_all_but_last_layer(model: Any) -> None:
    """Let the last transformer layer learn, and what follows it: the last norm and an untied output head."""
    trunk = model.base_model
    layers = max((m for m in trunk.modules() if isinstance(m, nn.ModuleList)), key=len, default=None)
    if layers is None:
        raise InputError(f"{type(model).__name__} has no list of layers; use trainable: all or lora")
    model.requires_grad_(False)
    children = list(trunk.children())
    after = children[
        next(i for i, child in enumerate(children) if any(m is layers for m in child.modules())) + 1 :
    ]
    head = model.get_output_embeddings()
    tied = head is None or head.weight is model.get_input_embeddings().weight
    for module in [layers[-1], *after, *([] if tied else [head])]:
        module.requires_grad_(True)


def with_lora(config: Config, model: Any, *, seed: int) -> Any:
    """Put low-rank adapters on every linear map but the output head; their start is drawn from `seed`."""
    import peft

    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a deprecated name
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # it sets it itself where a layer needs it
        warnings.filterwarnings("ignore", ".*(rank|alpha)_pattern")  # and so it does for experts
        torch.manual_seed(seed)
        adapted: Any = peft.get_peft_model(model, settings)
    return adapted


def encode(config: Config, run: StageRun, model: Any, tokenizer: Any) -> Rows:
    """Encode the conversations and, for each epoch, its own pretraining documents."""
    corpus = run.inputs["corpus"]
    longest = min(config.max_length or UNLIMITED, context_of(model))
    chats = encode_chats(
        tokenizer, [row.messages for row in read_jsonl(corpus / "chat.train.jsonl", ChatRow)]
    )
    kept = [chat for chat in chats if len(chat.tokens) <= longest and any(chat.mask)]
    too_long = sum(len(chat.tokens) > longest for chat in chats)
    removed = {f"longer than {longest} tokens": too_long, "no target": len(chats) - len(kept) - too_long}
    require_rows(kept, what=f"{run.name}: chat.train.jsonl", removed=removed)
    tokens, targets = [chat.tokens for chat in kept], [chat.mask for chat in kept]
    num_chats, num_chat_tokens = len(tokens), sum(map(len, tokens))
    wanted = round(num_chat_tokens * config.pretrain_share / (1 - config.pretrain_share))
    epochs = []
    documents = _documents(run, tokenizer, wanted * config.epochs, longest)
    for _ in range(config.epochs):
        visited, num = list(range(num_chats)), 0
        while num < wanted:
            tokens.append(next(documents))
            targets.append([True] * len(tokens[-1]))
            visited.append(len(tokens) - 1)
            num += len(tokens[-1])
        epochs.append(visited)
    run.note(
        conversations=num_chats,
        dropped_too_long=too_long,
        dropped_without_target=removed["no target"],
        documents_mixed_in=len(tokens) - num_chats,
    )
    return Rows(tokens, targets, epochs)


def _documents(run: StageRun, tokenizer: Any, num_tokens: int, longest: int) -> Iterator[list[int]]:
    """Endless pretraining documents in keyed order, a long one in pieces of at most `longest` tokens."""
    if num_tokens == 0:
        return
    texts = [row.text for row in read_jsonl(run.inputs["corpus"] / "text.train.jsonl", TextRow)]
    require_rows(texts, what=f"{run.name}: text.train.jsonl, for pretrain_share", removed={})
    position = 0
    while True:
        places = indices(run.key("documents"), position, DOCUMENTS_AT_ONCE, len(texts))
        for ids in encode_documents(tokenizer, [texts[place] for place in places]):
            pieces = (ids[start : start + longest] for start in range(0, len(ids), longest))
            yield from (piece for piece in pieces if len(piece) > 1)
        position += DOCUMENTS_AT_ONCE


def plan(config: Config, run: StageRun, rows: Rows) -> trl_adapter.Batches:
    """Batches of rows of like length for all epochs; a function of the seed and the rows alone."""
    lengths = rows.lengths
    epochs = []
    for epoch, visited in enumerate(rows.epochs):
        places = batches_by_length(
            [lengths[row] for row in visited], config.batch_size, seed=run.key("order"), epoch=epoch
        )
        epochs.append([[visited[place] for place in batch] for batch in places])
    return trl_adapter.batches(
        epochs, lengths, micro_batch_size=config.micro_batch_size, processes=trl_adapter.num_processes()
    )


def train(
    config: Config, run: StageRun, plan: trl_adapter.Batches, rows: Rows, model: Any, tokenizer: Any
) -> Any:
    """Fine-tune by TRL's SFTTrainer from the newest checkpoint; returns the model."""
    from datasets import Dataset
    from trl import SFTConfig

    columns = {"input_ids": rows.tokens, "assistant_masks": [[int(x) for x in row] for row in rows.targets]}
    settings = trl_adapter.arguments(
        run, plan, max_grad_norm=config.max_grad_norm, max_length=None, shuffle_dataset=False
    )
    text_config = model.config.get_text_config()
    asked = getattr(text_config, "output_router_logits", None)
    trainer = trl_adapter.train(
        trainer_class(),
        run,
        plan,
        checkpoint_every=config.checkpoint_every,
        model=model,
        args=SFTConfig(**settings),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        optimizers=trl_adapter.optimizer_and_schedule(config, run, model, plan.num_steps),
    )
    if asked is not None:  # the trainer asks for them, and with a cache they cannot be had
        text_config.output_router_logits = asked
    return trainer.model


def trainer_class() -> type:
    """TRL's SFTTrainer, with an output head that is as lean on a CPU as TRL's own is on a GPU."""
    from trl import SFTTrainer

    class LeanSFTTrainer(SFTTrainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # The balance of a mixture of experts needs its routers, which only TRL's own head hands on.
            if self.args.device.type == "cpu" and not self.aux_loss_enabled:
                base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
                use_lean_head(base)

    return LeanSFTTrainer


def use_lean_head(model: Any) -> None:
    """Send only the counted positions through the output head, no padding mask through attention, and be lean.

    TRL's fused head sends every position through it wherever there is no Triton: a sixth of the step's time for
    a model of few layers. Rows are padded on the right, so causal attention never sees the padding.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    make_lean(model)
    full_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return full_forward(*args, **inputs)
        labels = inputs["labels"][:, 1:]
        mask = labels != -100
        hidden = self.base_model(input_ids=inputs["input_ids"], use_cache=False)[0][:, :-1]
        logits = logits_of(self, hidden[mask]).float()
        logprobs = logits.log_softmax(dim=-1)
        taken = labels[mask]
        with torch.no_grad():
            mean_logits = logits.mean(dim=-1)
            entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
            hits = logprobs.argmax(dim=-1) == taken

        def laid_out(flat: Tensor) -> Tensor:
            return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

        return FusedCausalLMOutput(
            log_probs=laid_out(logprobs.gather(1, taken[:, None]).squeeze(1)),
            entropy=laid_out(entropy),
            is_top1=laid_out(hits),
            mean_logits=laid_out(mean_logits),
            label_mask=mask,
        )

    model.forward = types.MethodType(forward, model)


def publish(config: Config, run: StageRun, model: Any, tokenizer: Any) -> None:
    """Write the chat model to `model/`; adapters go to `adapter/` and, merged, into the model."""
    if config.trainable == "lora":
        with run.publish(ADAPTER) as folder:
            model.save_pretrained(folder)
            make_reproducible(folder)
        model = model.merge_and_unload()
    publish_model(run, model, tokenizer)


@torch.inference_mode()
def held_out_loss(model: Any, tokenizer: Any, run: StageRun) -> float | None:
    """Mean loss of what the assistant says in held-out conversations, in nats per token; None without any."""
    path = run.inputs["corpus"] / "chat.valid.jsonl"
    if not path.exists():
        return None
    rows = read_jsonl(path, ChatRow)[:EVALUATED_ROWS]
    chats = encode_chats(tokenizer, [row.messages for row in rows])
    fitting = [chat for chat in chats if any(chat.mask) and len(chat.tokens) <= context_of(model)]
    chats = sorted(fitting, key=lambda chat: len(chat.tokens))
    total, count = 0.0, 0
    for start in range(0, len(chats), EVALUATED_AT_ONCE):
        tokens, _, targets = pad_chats(chats[start : start + EVALUATED_AT_ONCE], 0)
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits
        wanted = targets[:, 1:]
        losses = nn.functional.cross_entropy(
            logits[:, :-1][wanted].float(), tokens[:, 1:][wanted].to(logits.device), reduction="sum"
        )
        total, count = total + losses.item(), count + int(wanted.sum())
    return total / count if count else None


def gates(config: Config, run: StageRun, num_steps: int) -> None:
    """Measure the published model on held-out conversations: loss of the answers, and how many end."""
    chat = LanguageModel.load(run.dir, device=run.device)
    before = next(iter(read_metrics(run.dir / "metrics.jsonl")), {}).get("held_out_loss")
    after = held_out_loss(chat.model, chat.tokenizer, run)
    if before is None or after is None:
        run.gate("held_out_loss", None, "not measurable: the corpus has no held-out conversation")
    else:
        run.note(held_out_loss_before=before, held_out_loss=after)
        remedy = (
            f"; mend {run.name}: lower learning_rate (now {config.learning_rate:g}), fewer epochs, or training "
            "conversations more like the held-out ones"
        )
        told = f"{after:.3f} nats per answered token, {before:.3f} before"
        run.gate("held_out_loss", after < before, told + ("" if after < before else remedy))
    rate = _end_rate(config, run, chat)
    if rate is None:
        run.gate("end_rate", None, "not measured: gate_prompts is 0 or there is no held-out conversation")
    else:
        run.note(end_rate=rate)
        remedy = "" if rate >= config.min_end_rate else "; train longer or raise max_new_tokens"
        run.gate("end_rate", rate >= config.min_end_rate, f"{rate:.0%} of greedy answers end{remedy}")


def _end_rate(config: Config, run: StageRun, chat: LanguageModel) -> float | None:
    """Share of greedy answers to held-out prompts that end; the answers are kept in samples/."""
    path = run.inputs["corpus"] / "chat.valid.jsonl"
    rows = read_jsonl(path, ChatRow) if path.exists() else []
    rows = [rows[place] for place in order(run.key("gate"), 0, len(rows))[: config.gate_prompts]]
    if not rows:
        return None
    answers = chat.generate(
        [row.messages[:-1] for row in rows],
        keys=[run.key("gate", row.id) for row in rows],
        max_new_tokens=config.max_new_tokens,
        temperature=0.0,
    )
    with run.publish("samples/held_out.jsonl") as file:
        records = [
            {"id": row.id, "prompt": row.messages[:-1], "completion": answer.text, "ended": answer.ended}
            for row, answer in zip(rows, answers, strict=True)
        ]
        write_jsonl(file, records)
    return sum(answer.ended for answer in answers) / len(answers)
