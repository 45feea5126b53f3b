"""A causal language model with its tokenizer: load, generate, stream, log-probabilities.

All that evaluation and chat need. A prompt is either text, which the model continues, or a conversation,
which it answers in its chat format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data.chat import decode, encode_plain, encode_prompt, encode_text
from data.collate import pad_right
from data.errors import InputError
from data.rows import Message
from pipeline import rollout
from pipeline.rl import logprobs_of
from pipeline.run_directory import model_folder
from reward.stored import quiet

if TYPE_CHECKING:
    from pipeline.run import StageRun

Prompt = str | Sequence[Message]
UNLIMITED = 2**31


@dataclass(frozen=True)
class Completion:
    """What a model answered: its text without control tokens, its tokens with the one that ended it."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, its tokenizer and where both came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str

    @classmethod
    def load(
        cls, source: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> LanguageModel:
        """Load a stage directory, a Hugging Face folder (with or without an adapter) or a hub id.

        Weights are read from safetensors only and no code of a model folder is ever run.

        Raises:
            InputError: there is no model at `source`, it lacks safetensors weights, or is not a causal one.
        """
        folder = model_folder(source)
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # damaged files raise errors of several libraries
            raise InputError(
                f"{source}: no model could be loaded ({first_line(error)}); a model is a stage "
                "directory, a Hugging Face folder with safetensors weights, or a hub id"
            ) from error
        if missing := sorted(found["missing_keys"]):
            raise InputError(
                f"{source}: {len(missing)} weights of {type(model).__name__} are not there, such as "
                f"{missing[0]}, and would be random; accepted is a whole causal language model"
            )
        text_config = model.config.get_text_config()
        if getattr(text_config, "output_router_logits", False):
            # Their balance is training's, and needs all tokens at once.
            text_config.output_router_logits = False
        loaded = cls(model.to(device).eval(), tokenizer, str(source))
        if loaded._looks_ahead():
            raise InputError(
                f"{source}: {type(model).__name__} predicts a token with what follows it in view; accepted is a "
                "causal language model"
            )
        return loaded

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer whose texts the model cannot read.

        Raises:
            InputError: it has more tokens than the model, beside those that were added to it.
        """
        known, size = self.tokenizer.vocab_size, self.model.get_input_embeddings().weight.shape[0]
        if known > size:
            raise InputError(
                f"{self.source}: the tokenizer knows {known} tokens and the model {size}; give the tokenizer "
                "that belongs to the model"
            )

    @torch.inference_mode()
    def _looks_ahead(self) -> bool:
        """Whether the logits of a first token depend on the second."""
        tokens = torch.tensor([[0, 1], [0, 2]], device=self.model.device)
        # All are attended to, also where 0 or 1 fills what is not counted.
        logits = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, 0].float()
        bound = 1e-3 if self.model.dtype == torch.float32 else 0.2  # rounding
        return bool((logits[0] - logits[1]).abs().max() > bound)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; text in it can never become a control token."""
        if isinstance(prompt, str):
            return encode_plain(self.tokenizer, prompt)
        return encode_prompt(self.tokenizer, prompt)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        keys: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: str | None = None,
        batch_size: int = 256,
    ) -> list[Completion]:
        """Complete each prompt with its own random stream.

        Args:
            prompts: text to continue, or conversations to answer.
            keys: one key of a random stream for each prompt.
            max_new_tokens: the longest completion, in tokens.
            temperature: 0 is greedy.
            top_k: keep the k most likely tokens; 0 keeps all.
            top_p: keep the smallest set of tokens with this probability; 1 keeps all.
            stop: a single character that ends a completion as well; it and what follows is cut from the text.
            batch_size: prompts decoded together.
        """
        drawn = rollout.sample(
            self.model,
            [self.encode(prompt) for prompt in prompts],
            keys=keys,
            max_new_tokens=max_new_tokens,
            stop_ids=[*self.end_ids, *(self._tokens_with(stop) if stop else ())],
            pad_id=self.pad_id,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_size=batch_size,
        )
        return [
            Completion(
                decode(self.tokenizer, tokens).split(stop)[0] if stop else decode(self.tokenizer, tokens),
                tokens,
                logprobs[: len(tokens)],
                ended,
            )
            for tokens, logprobs, ended in zip(
                drawn.completions(), drawn.logprobs.tolist(), drawn.ended.tolist(), strict=True
            )
        ]

    def stream(
        self, prompt: Prompt, *, key: int, max_new_tokens: int, temperature: float, **options: Any
    ) -> Iterator[tuple[int, float]]:
        """Tokens of one completion with their log-probabilities as they are drawn; those of `generate`."""
        steps = rollout.decode(
            self.model,
            [self.encode(prompt)],
            keys=[key],
            max_new_tokens=max_new_tokens,
            stop_ids=self.end_ids,
            pad_id=self.pad_id,
            temperature=temperature,
            **options,
        )
        for step in steps:
            yield int(step.tokens[0]), float(step.logprobs[0])

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[str], *, batch_size: int = 64
    ) -> list[list[float]]:
        """Log-probability of each token of each completion after its prompt, in nats, at temperature 1.

        The end of the turn is not scored. A completion after a conversation is its next turn.
        """
        sequences, starts = [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = self.encode(prompt)
            starts.append(len(ids))
            sequences.append(ids + encode_text(self.tokenizer, completion))
        results: list[list[float]] = [[] for _ in sequences]
        by_length = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
        for first in range(0, len(by_length), batch_size):
            rows = by_length[first : first + batch_size]
            tokens, mask = pad_right([sequences[row] for row in rows], self.pad_id)
            tokens = tokens.to(self.model.device)
            logits = self.model(input_ids=tokens, attention_mask=mask.to(tokens.device)).logits[:, :-1]
            scored: Tensor = logprobs_of(logits, tokens[:, 1:])
            for row, values, length in zip(rows, scored.cpu(), mask.sum(dim=1).tolist(), strict=True):
                results[row] = values[starts[row] - 1 : length - 1].tolist()
        return results

    @property
    def pad_id(self) -> int:
        """Fills what is not counted; where no pad token has an embedding, any id serves behind a mask."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < self.model.get_input_embeddings().weight.shape[0] else 0

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a completion: the model's own list, else the tokenizer's."""
        config = getattr(self.model, "generation_config", None)
        own = getattr(config, "eos_token_id", None)
        if own is None:
            own = self.tokenizer.eos_token_id
        return [] if own is None else [own] if isinstance(own, int) else list(own)

    def _tokens_with(self, character: str) -> list[int]:
        """The tokens whose text holds the character."""
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        return [token for token, text in enumerate(texts) if character in text]


def first_line(error: Exception) -> str:
    """What an error of a library says, in a line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def context_of(model: PreTrainedModel) -> int:
    """The longest sequence that a model takes, in tokens; a very large number where it has no limit."""
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return int(next(filter(None, named), UNLIMITED))


def publish_model(run: StageRun, model: Any, tokenizer: Any, name: str = "model") -> None:
    """Write a model with its tokenizer to a folder of the stage, as plain transformers reads it."""
    model.config.use_cache = True  # trainers turn it off, and it would be saved so
    with run.publish(name) as folder, quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
