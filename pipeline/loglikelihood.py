"""Log-probabilities of continuations after contexts; what several texts begin with is computed once.

Multiple-choice benchmarks ask for many continuations of one context, and often begin every context alike. The
texts become a tree of tokens; a row holds a part of the tree, each token attends to its ancestors alone (tree
attention: Miao et al. 2023, SpecInfer, arXiv 2305.09781, section 4) and its position is its depth. A pass reads
several rows where they are short. Logits are computed only where a continuation is predicted.

Tokens are those of EleutherAI's lm-evaluation-harness, so that scores equal its: context and continuation are
encoded together, trailing white space of the context belongs to the continuation, an empty context is the
token that begins a text, and a text too long for the model loses its beginning.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.chat import encode_texts
from data.collate import pad_right
from pipeline.language_model import LanguageModel, context_of

# Lengths of a row of the tree: a longer one shares more, but attention's cost grows with it: attending
# to one token more costs as much as this many parameters for each unit of width in each layer (measured on CPU).
ROW_TOKENS, ATTENTION_COST, TRIED_TEXTS = (128, 256, 512, 1024, 2048), 7, 400
PASS_TOKENS = 1024  # of several short rows; matrix products of fewer are slower for each
PADDED_ROWS = 32  # of a batch where a model cannot attend along a tree
# A model that attends along a tree as asked differs from plain rows by rounding alone: 1e-5 nats in float32. Half
# precision rounds logits of 16 to multiples of 1/8 (bfloat16). One that ignores the mask is off by whole nats.
TRIAL_TEXTS, TRIAL_TOKENS, TRIAL_BOUND, TRIAL_BOUND_HALF = 4, 32, 1e-3, 0.2


class Text(NamedTuple):
    """Tokens of a context with its continuation, and where the continuation starts (at least 1)."""

    tokens: list[int]
    start: int


@torch.inference_mode()
def continuation_logprobs(
    model: LanguageModel,
    requests: Sequence[tuple[str, str]],
    *,
    advance: Callable[[int], None] = lambda num: None,
) -> list[list[float]]:
    """Log-probability of every token of each continuation after its context, in nats, at temperature 1.

    Args:
        model: the model and its tokenizer.
        requests: (context, continuation); an empty context is the beginning of a text.
        advance: is told after each pass how many requests were scored by it.

    Returns:
        One list a request; a continuation that does not fit into the model's context, or has no token, gives
        [nan]: it could not be scored.
    """
    results: list[list[float]] = [[math.nan] for _ in requests]
    limit = context_of(model.model)
    texts = {
        number: fitting
        for number, text in enumerate(encode_requests(model, requests))
        if (fitting := _fit(text, limit)) is not None
    }
    # One pass for equal texts: answers of one kind are asked about again and again.
    numbers: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for number, text in texts.items():
        numbers.setdefault((tuple(text.tokens), text.start), []).append(number)
    different = sorted(numbers)
    for scored in _scored(model, [Text(list(tokens), start) for tokens, start in different]):
        for place, values in scored.items():
            for number in numbers[different[place]]:
                results[number] = values
        advance(sum(len(numbers[different[place]]) for place in scored))
    advance(len(requests) - len(texts))
    return results


def encode_requests(model: LanguageModel, requests: Sequence[tuple[str, str]]) -> list[Text]:
    """Tokens of each context with its continuation; see the head of this file."""
    tokenizer = model.tokenizer
    prefix, begin = _prefix(model), tokenizer.bos_token_id
    begin = tokenizer.eos_token_id if begin is None else begin
    moved = [_move_spaces(context, continuation) for context, continuation in requests]
    contexts = list(dict.fromkeys(context for context, _ in moved))
    lengths = dict(zip(contexts, map(len, encode_texts(tokenizer, contexts)), strict=True))
    whole = encode_texts(tokenizer, [context + continuation for context, continuation in moved])
    texts = []
    for (context, _), tokens in zip(moved, whole, strict=True):
        opening = prefix if context or begin is None else [begin]
        texts.append(Text([*opening, *tokens], len(opening) + lengths[context]))
    return texts


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _prefix(model: LanguageModel) -> list[int]:
    """What the tokenizer puts before a text by itself."""
    tokens = model.tokenizer.encode("a")
    plain = model.tokenizer.encode("a", add_special_tokens=False)
    length = next((n for n in range(len(tokens)) if tokens[n : n + len(plain)] == plain), 0)
    return list(tokens[:length])


def _fit(text: Text, limit: int) -> Text | None:
    """The text without what does not fit (the last token is never read); None where nothing can be scored."""
    num = len(text.tokens) - text.start
    if text.start < 1 or not 0 < num <= limit:
        return None
    cut = max(0, len(text.tokens) - (limit + 1))
    return Text(text.tokens[cut:], text.start - cut)


def _scored(model: LanguageModel, texts: list[Text]) -> Iterator[dict[int, list[float]]]:
    """The log-probabilities of texts in lexical order by their place, pass by pass."""
    row_tokens = _row_tokens(model, texts) if texts and _may_attend_along_trees(model, texts) else None
    if row_tokens is not None and _attends_along_trees(model, texts, row_tokens):
        rows = _rows(texts, row_tokens)
        while together := list(itertools.islice(rows, max(1, PASS_TOKENS // row_tokens))):
            yield _score_rows(model, together)
    else:
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place].tokens))
        for first in range(0, len(by_length), PADDED_ROWS):
            places = by_length[first : first + PADDED_ROWS]
            found = _score_padded(model, [texts[place] for place in places])
            yield dict(zip(places, found, strict=True))


# --- along a tree ----------------------------------------------------------------------------------------


@dataclass
class _Row:
    """A part of the tree: token and depth of each node, runs of nodes below one another, and what is asked."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    runs: list[tuple[int, int, int]] = field(default_factory=list)  # first, end, parent (-1: none)
    asked: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)  # place: nodes, next tokens

    def add(self, text: Text, path: list[int], shared: int) -> list[int]:
        """Hang a text below the `shared` first nodes of a path; returns the path of the text."""
        first = len(self.tokens)
        new = text.tokens[shared:-1]
        self.tokens += new
        self.depths += range(shared, shared + len(new))
        if new:
            self.runs.append((first, first + len(new), path[shared - 1] if shared else -1))
        return [*path[:shared], *range(first, first + len(new))]

    def sees(self) -> Bool[Tensor, "nodes nodes"]:
        """Whether a node (row) attends to another (column)."""
        sees = torch.zeros(len(self.tokens), len(self.tokens), dtype=torch.bool)
        for first, end, parent in self.runs:
            if parent >= 0:
                sees[first:end] = sees[parent]
            sees[first:end, first:end] = torch.ones(end - first, end - first, dtype=torch.bool).tril()
        return sees


def _row_tokens(model: LanguageModel, texts: Sequence[Text]) -> int:
    """The length of a row at which the first texts cost least."""
    config = model.model.config.get_text_config()
    attention = ATTENTION_COST * int(config.hidden_size) * int(config.num_hidden_layers)
    parameters = model.model.num_parameters(exclude_embeddings=True)

    def cost(row_tokens: int) -> int:
        sizes = [len(row.tokens) for row in _rows(texts[:TRIED_TEXTS], row_tokens)]
        return sum(size * (parameters + attention * size) for size in sizes)

    return min(ROW_TOKENS, key=cost)


def _rows(texts: Sequence[Text], row_tokens: int) -> Iterator[_Row]:
    """Rows of the tree of texts in lexical order, each of at most `row_tokens` nodes or of one text."""
    row, path, before = _Row(), list[int](), list[int]()
    for place, text in enumerate(texts):
        shared = _common(before, text.tokens[:-1])
        if row.tokens and len(row.tokens) + len(text.tokens) - 1 - shared > row_tokens:
            yield row
            row, path, shared = _Row(), [], 0
        path = row.add(text, path, shared)
        row.asked[place] = (path[text.start - 1 :], text.tokens[text.start :])
        before = text.tokens[:-1]
    if row.tokens:
        yield row


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return number
    return min(len(first), len(second))


def _score_rows(model: LanguageModel, rows: Sequence[_Row]) -> dict[int, list[float]]:
    device = model.model.device
    nodes = sorted({node for row in rows for asked, _ in row.asked.values() for node in asked})
    logits = model.model(
        input_ids=pad_right([row.tokens for row in rows], model.pad_id).tokens.to(device),
        position_ids=pad_right([row.depths for row in rows], 0).tokens.to(device),
        attention_mask=_mask(rows, model.model.dtype).to(device),
        logits_to_keep=torch.tensor(nodes, device=device),
        use_cache=False,
    ).logits
    place_of = {node: place for place, node in enumerate(nodes)}
    asked = [
        (number * len(nodes) + place_of[node], token)
        for number, row in enumerate(rows)
        for pair in row.asked.values()
        for node, token in zip(*pair, strict=True)
    ]
    where, said = torch.tensor(asked, device=device).unbind(1)
    values = iter(_picked(logits.flatten(0, 1), where, said).tolist())
    return {place: [next(values) for _ in pair[1]] for row in rows for place, pair in row.asked.items()}


def _mask(rows: Sequence[_Row], dtype: torch.dtype) -> Float[Tensor, "rows 1 nodes nodes"]:
    """0 where a node attends to another, the type's least number elsewhere; what is padded attends to itself."""
    longest = max(len(row.tokens) for row in rows)
    sees = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1)
    for number, row in enumerate(rows):
        sees[number, : len(row.tokens), : len(row.tokens)] = row.sees()
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def _picked(
    logits: Float[Tensor, "nodes vocabulary"], where: Int[Tensor, " asked"], said: Int[Tensor, " asked"]
) -> Float[Tensor, " asked"]:
    """Log-probability of each token that is asked about, from the logits of the node before it."""
    norms = torch.logsumexp(logits.float(), dim=-1)
    return logits[where, said].float() - norms[where]


def _may_attend_along_trees(model: LanguageModel, texts: Sequence[Text]) -> bool:
    """Whether the model takes a mask and positions, and no text is longer than a window of its attention."""
    known = inspect.signature(model.model.forward).parameters
    if not {"position_ids", "attention_mask", "logits_to_keep"} <= set(known):
        return False
    config = model.model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    longest = max(len(text.tokens) for text in texts)
    # The mask of a tree would take the place of the window.
    return not any(window is not None and window < longest for window in windows)


def _attends_along_trees(model: LanguageModel, texts: Sequence[Text], row_tokens: int) -> bool:
    """Whether the model heeds mask and positions as trees need them: tried on a few texts and on a long row.

    The long row is one of those to come: some models look only so far back along it, whatever the mask says.
    """
    short = _short_texts(texts)
    together = next(_rows(short, sum(len(text.tokens) for text in short)))
    first = list(texts[:TRIED_TEXTS])
    long = max(_rows(first, row_tokens), key=lambda row: (min(len(row.asked), 2), len(row.tokens)))
    return _scores_as_plain_rows(model, together, short) and _scores_as_plain_rows(model, long, first)


def _scores_as_plain_rows(model: LanguageModel, row: _Row, texts: Sequence[Text]) -> bool:
    """Whether the last texts of a row, which stand farthest from its beginning, score as they do apart."""
    try:
        along = _score_rows(model, [row])
    except (RuntimeError, ValueError, TypeError, IndexError):  # the model cannot take such a mask
        return False
    places = list(row.asked)[-(TRIAL_TEXTS + 1) :]
    plain = _score_padded(model, [texts[place] for place in places])
    found = (along[place] for place in places)
    bound = TRIAL_BOUND if model.model.dtype == torch.float32 else TRIAL_BOUND_HALF
    both = zip(itertools.chain.from_iterable(plain), itertools.chain.from_iterable(found), strict=True)
    return all(abs(a - b) <= bound for a, b in both)


def _short_texts(texts: Sequence[Text]) -> list[Text]:
    """The ends of a few texts with a branch among them, in lexical order."""
    chosen = [_end(text) for text in sorted(texts, key=lambda text: len(text.tokens))[:TRIAL_TEXTS]]
    # Without a branch, a model that ignores the mask would pass.
    branch = Text(chosen[0].tokens[::-1], chosen[0].start)
    return sorted([*chosen, branch])


def _end(text: Text) -> Text:
    cut = max(0, len(text.tokens) - TRIAL_TOKENS)
    return Text(text.tokens[cut:], max(1, text.start - cut))


# --- padded rows -----------------------------------------------------------------------------------------


def _score_padded(model: LanguageModel, texts: Sequence[Text]) -> list[list[float]]:
    device = model.model.device
    tokens, mask = pad_right([text.tokens for text in texts], model.pad_id)
    tokens, mask = tokens.to(device), mask.to(device)
    logits = model.model(input_ids=tokens[:, :-1], attention_mask=mask[:, :-1].long(), use_cache=False).logits
    found = []
    for row, text in zip(logits, texts, strict=True):
        nodes = torch.arange(text.start - 1, len(text.tokens) - 1, device=device)
        said = torch.tensor(text.tokens[text.start :], device=device)
        found.append(_picked(row[nodes], torch.arange(len(nodes), device=device), said).tolist())
    return found
