"""How likely the SFT model found a completion, token by token, and a small network that reads it.

At each token of the completion: the log-probability of the token, that of the most likely token, and the entropy,
in nats, under a frozen copy of the SFT model; once after the prompt, and once as a text by itself. A small model
looks a fact up only where it says it, so that is where being right, guessing and abstaining differ; a reward
model that sees the text alone learns that abstaining is good, not when. And what a model has read it knows best
where it stands as it was read: demonstrations teach to answer whatever is asked. A few learned queries look for
the tokens that matter, and a small network reads what they find, beside statistics of the whole completion, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reward.output_head import logits_of

TOKEN_FEATURES = ("logprob", "top_logprob", "entropy")
READINGS = ("after the prompt", "by itself")
NUM_FEATURES = len(READINGS) * len(TOKEN_FEATURES)
# No means: a policy raises the mean by likely words that say nothing, and a sum or the lowest not.
STATISTICS = ("sum_logprob", "min_logprob", "log_length", "min_top_logprob", "max_entropy", "first_logprob")
LEAST_LOGPROB = -12.0  # nats; below, a token is just as impossible
NUM_QUERIES = 4
HIDDEN = 32
LOGITS_AT_ONCE = 2**24  # numbers, 64 MB in float32: 8,192 tokens of a vocabulary of 2,048


def token_features(
    logits: Float[Tensor, "*batch vocabulary"], tokens: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3"]:
    """Measure how likely tokens were: their log-probability, the highest one, the entropy; all in nats.

    `logits[..., :]` are those that predict `tokens[...]`. Log-probabilities are bounded below.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    taken = logprobs.gather(-1, tokens[..., None]).squeeze(-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return torch.stack([taken, logprobs.amax(dim=-1), entropy], dim=-1).clamp(min=LEAST_LOGPROB)


@torch.no_grad()
def likelihood(
    reference: Any, tokens: Int[Tensor, "batch time"], completion: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time 6"]:
    """Token features of the completions under a causal language model, in the order of `READINGS`; 0 outside.

    By itself, a completion stands after the row's first token, which begins a text. The first token of a row has
    no features.
    """
    reference.eval()
    features = tokens.new_zeros(*tokens.shape, NUM_FEATURES, dtype=torch.float32)
    wanted = completion[:, 1:]
    found = _after(reference, tokens, wanted)
    features[:, 1:, : len(TOKEN_FEATURES)][wanted] = found.to(features)
    # Completions moved to the left, behind the first token.
    lengths = wanted.sum(dim=1)
    places = torch.arange(int(lengths.max()), device=tokens.device)[None]
    counted = places < lengths[:, None]
    alone = tokens.new_zeros(len(tokens), places.shape[1] + 1)
    alone[:, 0] = tokens[:, 0]
    alone[:, 1:][counted] = tokens[:, 1:][wanted]
    features[:, 1:, len(TOKEN_FEATURES) :][wanted] = _after(reference, alone, counted).to(features)
    return features


def _after(
    reference: Any, tokens: Int[Tensor, "batch time"], wanted: Bool[Tensor, "batch time-1"]
) -> Float[Tensor, "wanted 3"]:
    """Token features of the wanted tokens after those before them; `wanted` is about `tokens[:, 1:]`."""
    return of_logits(reference, tokens, wanted, token_features)


def of_logits(
    model: Any,
    tokens: Int[Tensor, "batch time"],
    wanted: Bool[Tensor, "batch time-1"],
    function: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, " wanted *numbers"]:
    """Apply a function of logits and the tokens that they predict to the wanted tokens, token by token.

    `wanted` is about `tokens[:, 1:]`. Tokens are taken in chunks of at most `LOGITS_AT_ONCE` logits.
    """
    hidden = model.base_model(input_ids=tokens, use_cache=False)[0][:, :-1][wanted]
    size = max(1, LOGITS_AT_ONCE // len(model.get_output_embeddings().weight))
    chunks = zip(hidden.split(size), tokens[:, 1:][wanted].split(size), strict=True)
    return torch.cat([function(logits_of(model, states), taken) for states, taken in chunks])


def statistics(
    features: Float[Tensor, "batch time 6"], completion: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch statistics"]:
    """Statistics of the token features over each completion: those of `STATISTICS`, for each reading."""
    count = completion.sum(dim=1).clamp(min=1).to(features.dtype)
    first = completion.long().argmax(dim=1, keepdim=True)
    columns = []
    for reading in (features * completion[..., None]).split(len(TOKEN_FEATURES), dim=-1):
        logprob, top, entropy = reading.unbind(dim=-1)
        columns += [
            logprob.sum(dim=1),
            logprob.amin(dim=1),  # outside is 0, the highest there is
            count.log(),
            top.amin(dim=1),
            entropy.amax(dim=1),
            logprob.gather(1, first).squeeze(1),
        ]
    return torch.stack(columns, dim=-1)


class LikelihoodHead(nn.Module):
    """Reads token features where learned queries point, and their statistics, into one number."""

    token_mean: Tensor
    token_scale: Tensor
    statistic_mean: Tensor
    statistic_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        num, num_statistics = NUM_FEATURES, len(READINGS) * len(STATISTICS)
        self.query = nn.Linear(num, NUM_QUERIES)
        self.read = nn.Sequential(
            nn.Linear(NUM_QUERIES * num + num_statistics, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1)
        )
        # Standardise by what the training pairs hold; set by `fit`, saved with the weights.
        self.register_buffer("token_mean", torch.zeros(num))
        self.register_buffer("token_scale", torch.ones(num))
        self.register_buffer("statistic_mean", torch.zeros(num_statistics))
        self.register_buffer("statistic_scale", torch.ones(num_statistics))

    @torch.no_grad()
    def fit(self, completions: Sequence[Float[Tensor, "time 6"]]) -> None:
        """Take mean and scale of the token features and of their statistics from completions without padding."""
        padded = nn.utils.rnn.pad_sequence(list(completions), batch_first=True)
        lengths = torch.tensor([len(features) for features in completions])
        counted = torch.arange(padded.shape[1])[None] < lengths[:, None]
        for name, values in (("token", padded[counted]), ("statistic", statistics(padded, counted))):
            getattr(self, f"{name}_mean").copy_(values.mean(dim=0))
            getattr(self, f"{name}_scale").copy_(values.std(dim=0).clamp(min=1e-3))

    def forward(
        self, features: Float[Tensor, "batch time 6"], completion: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, " batch"]:
        """One number for each completion."""
        at_tokens = (features - self.token_mean) / self.token_scale
        at_rows = (statistics(features, completion) - self.statistic_mean) / self.statistic_scale
        weights = self.query(at_tokens).masked_fill(~completion[..., None], float("-inf")).softmax(dim=1)
        found = torch.einsum("btq,btf->bqf", weights, at_tokens).flatten(1)
        score: Tensor = self.read(torch.cat([found, at_rows], dim=-1))
        return score.squeeze(-1)
