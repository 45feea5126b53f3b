"""What a model of another family gets before it can chat here: a pad token, role tokens and a template."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.chat import CONTROL_TOKENS, PAD, SYSTEM, encode_prompt, end_of_turn
from data.errors import InputError
from data.rows import user
from pipeline import rollout
from pipeline.actor_critic import token_logprobs
from pipeline.language_model import LanguageModel, first_line
from reward.output_head import is_plain

NOISE = (
    0.1  # deviations of the embeddings by which new ones differ from the mean, so that roles are told apart
)

TRIAL_TOKENS = 6
TRIAL_GAP = 1e-3  # nats; the order of sums differs (by 1e-6 where seen), another form by .05 and more

# As data.chat writes it, with the tokenizer's own begin and end.
TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Unknown role: ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Added(NamedTuple):
    """What was added: the template, and tokens."""

    template: bool
    tokens: list[str]


def check(found: LanguageModel) -> None:
    """Refuse a model that cannot be tuned here.

    Raises:
        InputError: its tokenizer is not a fast one or has no end token, its template hides turns or does
            not end them, or it decodes otherwise than it reads.
    """
    if found.tokenizer.eos_token_id is None:
        raise InputError(
            f"{found.source}: the tokenizer has no end token (eos_token), so the model could never learn to stop"
        )
    if found.tokenizer.chat_template:
        encode_prompt(found.tokenizer, user("A question?"))  # says what is wrong with a template
        end_of_turn(found.tokenizer)
    else:
        found.encode("A text.")
    check_decoding(found.model)


@torch.no_grad()
def check_decoding(model: Any) -> None:
    """Refuse an architecture that says something else of a token when it draws it than when it reads it.

    That is tried on prompts of several lengths, so that some are padded. PPO learns from what was drawn.

    Raises:
        InputError: it cannot be decoded with padding and a cache, or to another result.
    """
    is_plain(model)  # says where its logits are not to be had from states
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompts = [[token % vocabulary for token in range(5, 5 + length)] for length in (2, 9, 5)]
    try:
        drawn = rollout.sample(
            model, prompts, keys=range(3), max_new_tokens=TRIAL_TOKENS, stop_ids=[], pad_id=0, temperature=1.0
        )
        read = torch.cat([_read(model, *row) for row in zip(prompts, drawn.completions(), strict=True)])
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{type(model).__name__} is not supported: it cannot be decoded here ({first_line(error)})"
        ) from error
    gap = (read - drawn.logprobs[drawn.mask]).abs().mean().item()
    if not gap <= TRIAL_GAP:
        raise InputError(
            f"{type(model).__name__} is not supported: decoded in a padded batch with a cache, its tokens' "
            f"log-probabilities differ by {gap:.2g} nats from those of one pass over the text"
        )


def _read(model: Any, prompt: list[int], completion: list[int]) -> Float[Tensor, " completion"]:
    """Log-probabilities of a completion's tokens by one pass over the whole text."""
    tokens = torch.tensor([[*prompt, *completion]], device=model.device)
    mask = torch.arange(tokens.shape[1], device=model.device)[None] >= len(prompt)
    return token_logprobs(model, tokens, mask, temperature=1.0)[mask].cpu()


def complete(found: LanguageModel, *, seed: int) -> Added:
    """Add a pad token where there is none apart from the end token, and roles where there is no template.

    New embeddings are the mean of the old ones with a little noise, drawn from `seed`. Where the template
    ends a turn with another token than those that end a completion, that token ends one as well.
    """
    tokenizer: Any = found.tokenizer
    tokens: list[str] = []
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": CONTROL_TOKENS[PAD]})
        tokens.append(CONTROL_TOKENS[PAD])
    template = not tokenizer.chat_template
    if template:
        roles = list(CONTROL_TOKENS[SYSTEM:])
        tokenizer.add_special_tokens({"extra_special_tokens": roles}, replace_extra_special_tokens=False)
        tokenizer.chat_template = TEMPLATE
        tokens += roles
    grow(found.model, len(tokenizer), seed=seed)
    for config in (found.model.config.get_text_config(), found.model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    end = end_of_turn(tokenizer)[-1]
    if end not in found.end_ids:
        found.model.generation_config.eos_token_id = [*found.end_ids, end]
    return Added(template, tokens)


@torch.no_grad()
def grow(model: Any, num_tokens: int, *, seed: int) -> None:
    """Give the model embeddings for `num_tokens` tokens, where it has fewer."""
    old = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= old:
        return
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    for weight in {id(table.weight): table.weight for table in tables if table is not None}.values():
        known = weight[:old].float()
        drawn = torch.randn(num_tokens - old, weight.shape[1], generator=generator)
        weight[old:] = (known.mean(dim=0) + NOISE * known.std(dim=0) * drawn.to(known)).to(weight)
