"""The parts of pretraining: the model from its settings, packed text, the loss, what is measured at the end."""

from __future__ import annotations

import bz2
import itertools
import json
import math
import time
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from data.chat import encode_documents
from data.collate import pack
from data.errors import InputError
from data.randomness import key
from data.rows import TextRow, read_jsonl, require_rows
from data.sampler import order
from pipeline import ngram
from pipeline.byte_ngram import gzip_bits_per_byte
from pipeline.config import suggest
from pipeline.language_model import LanguageModel
from pipeline.next_token import NextToken
from pipeline.optimizers import make_optimizer
from pipeline.precision import tune_allocator

if TYPE_CHECKING:
    from pipeline.run import StageRun
    from pipeline.stages.pretrain import Config

MEASURED_ROWS = 16  # of held-out text, in one forward pass
NGRAM_TOKENS = 20_000_000  # training tokens that the n-gram floor is counted on at most
BEGINNING_CHARACTERS = 40  # of a held-out document, which a sample continues


def load(run: StageRun) -> tuple[Any, list[list[int]]]:
    """Load the tokenizer and the corpus' training documents as tokens.

    Raises:
        InputError: the corpus has no documents.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.inputs["tokenizer"] / "model")
    rows = _documents(run, "train")
    require_rows(rows, what=f"{run.name}: documents in the corpus' text.train.jsonl", removed={})
    return tokenizer, encode_documents(tokenizer, [row.text for row in rows])


def _documents(run: StageRun, split: str) -> list[TextRow]:
    path = run.inputs["corpus"] / f"text.{split}.jsonl"
    return read_jsonl(path, TextRow) if path.exists() else []


# --- the model ---------------------------------------------------------------------------------------------


def check_architecture(config: Config) -> None:
    """Raise InputError for an architecture of which there is no causal language model, or a setting it lacks."""
    _model_config(config, vocab_size=512)


def make_model(config: Config, tokenizer: Any, *, seed: int) -> Any:
    """Make a model with weights drawn from `seed`, in float32, for a tokenizer's vocabulary."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model_config = _model_config(config, vocab_size=len(tokenizer), **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
    model.generation_config = GenerationConfig(**ids)
    return model


def _model_config(config: Config, *, vocab_size: int, **ids: int | None) -> Any:
    """Build the architecture's own configuration; names differ between architectures, `hasattr` knows them."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = config.architecture
    if name not in CONFIG_MAPPING_NAMES or name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        hint = suggest(name, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise InputError(
            f"architecture {name}: transformers has no causal language model of this type{hint}; give its "
            "model type, such as llama, gpt2 or qwen3"
        )
    blank = AutoConfig.for_model(name)
    known = blank.to_dict()
    sizes: dict[str, Any] = {
        "hidden_size": config.width,
        "word_embed_proj_dim": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.width // config.heads,
        "max_position_embeddings": config.context,
        "intermediate_size": config.inner_size,
        "ffn_dim": config.feed_forward or 4 * config.width,
        "n_inner": config.feed_forward,
        # Keeps a unit input at unit size; the usual .02 is that of widths of some thousands.
        "initializer_range": config.width**-0.5,
    }
    sizes = {size: value for size, value in sizes.items() if hasattr(blank, size)}
    # One or two passes over the text do not overfit, and dropout would draw from a global random state.
    sizes |= {size: 0.0 for size, value in known.items() if "drop" in size and isinstance(value, float)}
    sizes |= {"vocab_size": vocab_size, "tie_word_embeddings": config.tie_embeddings, **ids}
    if unknown := set(config.architecture_settings) - {*known, *sizes}:
        odd = min(unknown)
        raise InputError(
            f"architecture_settings: {name} has no setting {odd}{suggest(odd, list(known))}; the names are "
            f"those of {type(blank).__name__}"
        )
    try:
        return AutoConfig.for_model(name, **(sizes | config.architecture_settings))
    except (ValueError, TypeError) as error:
        raise InputError(f"architecture {name} cannot be built with these sizes: {error}") from error


# --- text and loss -----------------------------------------------------------------------------------------


class PackedText:
    """Rows of `context + 1` tokens, packed from documents; the endless stream of rows over all epochs.

    A row gives `context` inputs and as many targets. Documents are joined in another order every epoch, and the
    rows are mixed, since long documents fill many.
    """

    def __init__(self, documents: list[list[int]], context: int, *, seed: int) -> None:
        self.documents, self.length, self.seed = documents, context + 1, seed
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return sum(map(len, self.documents))

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return -(-self.num_tokens // self.length)

    def _epoch(self, epoch: int) -> Int[Tensor, "rows length"]:
        rows = pack(self.documents, self.length, seed=key(self.seed, "documents", epoch))
        return rows[torch.from_numpy(order(key(self.seed, "rows"), epoch, len(rows)))]

    def rows(self, first: int, num: int) -> Int[Tensor, "num length"]:
        """The rows at positions `first` to `first + num - 1`, over the borders of epochs."""
        parts: list[Tensor] = []
        position, stop = first, first + num
        while position < stop:
            epoch, index = divmod(position, self.num_rows)
            parts.append(self.epoch(epoch)[index : index + stop - position])
            position += len(parts[-1])
        return torch.cat(parts)


def seconds_per_step(config: Config, vocab_size: int, precision: str) -> float:
    """Time one training step of this machine: the better of two, after a first one."""
    from transformers import AutoModelForCausalLM

    tune_allocator()
    module = NextToken(AutoModelForCausalLM.from_config(_model_config(config, vocab_size=vocab_size)))
    optimizer = make_optimizer(
        module.model, config.optimizer, learning_rate=1e-4, weight_decay=0.0, precision=precision
    )
    tokens = torch.arange(config.batch_rows * (config.context + 1)).view(config.batch_rows, -1) % vocab_size
    rows_at_once = max(1, config.micro_batch_tokens // config.context)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for part in tokens.split(rows_at_once):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = module(part)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


# --- what is measured at the end ---------------------------------------------------------------------------


@torch.inference_mode()
def held_out(
    config: Config, run: StageRun, module: nn.Module, tokenizer: Any, documents: list[list[int]]
) -> dict[str, Any] | None:
    """Measure the loss on held-out documents beside an n-gram model over the same tokens, gzip and bz2.

    Documents are joined as in training and every token but the first is predicted, the marks of begin and end
    included; bits are counted per byte of text alone, so all pay for the borders. Each row of one context
    starts without history, while the n-gram model always has it. None where the corpus has no held-out text.
    """
    rows = _documents(run, "valid")
    taken = [rows[place] for place in order(run.key("held out"), 0, len(rows))]
    encoded = encode_documents(tokenizer, [row.text for row in taken])
    sizes = np.cumsum([len(document) for document in encoded])
    num = max(1, int(np.searchsorted(sizes, config.held_out_tokens, side="right")))
    texts = [row.text.encode() for row in taken[:num]]
    stream = np.fromiter(itertools.chain.from_iterable(encoded[:num]), dtype=np.int64)
    if len(stream) < 2:
        return None
    num_bytes = max(1, sum(map(len, texts)))
    loss = _loss_of_stream(module, torch.from_numpy(stream).to(run.device), config.context, run.precision)

    trained = itertools.islice(itertools.chain.from_iterable(documents), NGRAM_TOKENS)
    counts = ngram.train(np.fromiter(trained, dtype=np.int64), len(tokenizer), order=config.ngram_order)
    by_order = -ngram.logprobs(counts, stream)[:, 1:].mean(axis=1)
    best = int(by_order.argmin())
    bits = (len(stream) - 1) / num_bytes / math.log(2)
    joined = b"\0".join(texts)
    return {
        "loss": loss,
        "bits_per_byte": loss * bits,
        "ngram_loss": float(by_order[best]),
        "ngram_bits_per_byte": float(by_order[best]) * bits,
        "ngram_order": best + 1,
        "gzip_bits_per_byte": gzip_bits_per_byte(joined),
        "bz2_bits_per_byte": 8 * len(bz2.compress(joined)) / num_bytes,
        "num_tokens": len(stream) - 1,
        "num_bytes": num_bytes,
        "num_documents": num,
    }


def _loss_of_stream(module: nn.Module, stream: Tensor, context: int, precision: str) -> float:
    """Mean loss of every token but the first; rows overlap by one token, the last row is what is left."""
    num_rows = (len(stream) - 1) // context
    rows = [stream[place * context : (place + 1) * context + 1] for place in range(num_rows)]
    batches = [torch.stack(part) for part in _batched(rows, MEASURED_ROWS)]
    if num_rows * context < len(stream) - 1:
        batches.append(stream[None, num_rows * context :])
    total = 0.0
    for batch in batches:
        with torch.autocast(stream.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            total += module(batch).item() * batch[:, 1:].numel()
    return total / (len(stream) - 1)


def _batched(rows: list[Tensor], num: int) -> list[list[Tensor]]:
    return [rows[first : first + num] for first in range(0, len(rows), num)]


def write_samples(config: Config, run: StageRun) -> None:
    """Let the published model continue the beginnings of held-out documents, into samples/samples.jsonl."""
    model = LanguageModel.load(run.dir, device=run.device)
    rows = _documents(run, "valid") or _documents(run, "train")
    chosen = [rows[place] for place in order(run.key("samples"), 0, len(rows))[: config.num_samples]]
    prompts = [row.text[:BEGINNING_CHARACTERS].rpartition(" ")[0] for row in chosen]
    completions = model.generate(
        prompts,
        keys=[run.key("sample", row.id) for row in chosen],
        max_new_tokens=min(config.sample_tokens, config.context // 2),
        temperature=0.7,
    )
    lines = [
        json.dumps(
            {"prompt": prompt, "completion": completion.text, "ended": completion.ended}, ensure_ascii=False
        )
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    with run.publish("samples") as folder:
        (folder / "samples.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
