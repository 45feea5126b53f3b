"""Attention within each document of a packed row, and none across: documents packed together stay strangers.

Without it a token sees the unrelated documents before its own. Small models then hardly learn to copy from a
prompt, since every pattern of the question stands in the row many times, each time with another name.
Packing without contamination: Krell et al. 2021 (arXiv 2107.02027), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.modeling_utils import AttentionInterface

from pipeline import short_attention

NAME = "documents"  # as transformers knows the attention while documents are packed


@dataclass(frozen=True)
class Documents:
    """Where the documents of packed rows lie.

    `positions` counts every row's tokens from the beginning of their document. `groups` holds, for documents
    of similar length, the places of their tokens in the flattened rows, padded on the right with any place;
    `back` gives each token's place in all groups one after the other.
    """

    positions: Int[Tensor, "rows time"]
    groups: tuple[Int[Tensor, "documents length"], ...]
    back: Int[Tensor, " tokens"]

    @classmethod
    def of(cls, starts: Bool[Tensor, "rows time"]) -> Documents:
        """Find the documents from where they start; a row's first token always starts one."""
        starts = starts.clone()
        starts[:, 0] = True
        first = starts.flatten().nonzero().flatten()
        end = torch.cat([first[1:], first.new_tensor([starts.numel()])])
        lengths = end - first
        places = torch.arange(starts.numel(), device=starts.device)
        positions = places - torch.repeat_interleave(first, lengths)

        groups = []
        back = torch.empty_like(places)
        done = 0
        # Documents whose lengths have the same power of two above them are padded to the longest of them.
        sizes = torch.ceil(torch.log2(lengths.float())).long()
        for size in sizes.unique().tolist():
            member = sizes == size
            longest = int(lengths[member].max())
            steps = torch.arange(longest, device=starts.device)
            real = steps < lengths[member, None]
            index = torch.where(real, first[member, None] + steps, first[member, None])
            back[index[real]] = done + real.flatten().nonzero().flatten()
            groups.append(index)
            done += index.numel()
        return cls(positions.view_as(starts), tuple(groups), back)


_DOCUMENTS: ContextVar[Documents] = ContextVar("documents")


@contextmanager
def within(documents: Documents, model: Any) -> Iterator[None]:
    """Let a transformers model attend within these documents; afterwards it attends as before."""
    before = model.config._attn_implementation
    token = _DOCUMENTS.set(documents)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _DOCUMENTS.reset(token)


def keeps_apart(model: Any) -> bool:
    """Whether a model can be made to attend within documents: tried on a row of two of them.

    Not every architecture asks transformers for its attention, or hands positions on.
    """
    row = torch.arange(1, 18, device=model.device)[None] % model.config.vocab_size
    starts = torch.zeros_like(row, dtype=torch.bool)
    starts[:, 8] = True
    documents = Documents.of(starts)
    with torch.no_grad():
        alone = model.base_model(input_ids=row[:, 8:], use_cache=False)
        try:
            with within(documents, model):
                packed = model.base_model(input_ids=row, position_ids=documents.positions, use_cache=False)
        except (TypeError, ValueError, KeyError):
            return False
    return bool(torch.allclose(packed[0][:, 8:], alone[0], rtol=1e-4, atol=1e-5))


def attend(
    module: Any,
    query: Float[Tensor, "rows heads time size"],
    key: Float[Tensor, "rows key_heads time size"],
    value: Float[Tensor, "rows key_heads time size"],
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Float[Tensor, "rows time heads size"], None]:
    """Causal attention within `documents`, group by group, as transformers calls an attention function."""
    documents = _DOCUMENTS.get()
    settings |= {"is_causal": True}
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    outputs = []
    for group in documents.groups:
        q, k, v = (x.index_select(0, group.flatten()).unflatten(0, group.shape).transpose(1, 2) for x in flat)
        output, _ = short_attention.attend(module, q, k, v, None, **settings)
        outputs.append(output.flatten(0, 1))
    joined = torch.cat(outputs).index_select(0, documents.back)
    return joined.view(query.shape[0], query.shape[2], query.shape[1], -1), None


AttentionInterface.register(NAME, attend)
