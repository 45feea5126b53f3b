"""Completions that join and leave a batch while it is decoded, so that many are drawn at the price of few.

Continuous batching (Yu et al. 2022, Orca, section 3: scheduling by iteration). Every completion has its own keyed
stream and its own sampling, so its tokens are those of `rollout.decode` on it alone, but for the rounding of
matrix products of another shape. Models whose layers look back through a window cannot be joined; their
completions are decoded beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.randomness import uniforms
from pipeline.lean_decoder import BLOCK
from pipeline.rollout import Decoder, begin, draw


@dataclass(frozen=True)
class Wanted:
    """A completion to draw: prompt as token ids, key of its random stream, and how its tokens are drawn."""

    name: Hashable
    prompt: Sequence[int]
    key: int
    max_new_tokens: int
    temperature: float
    top_k: int = 0
    top_p: float = 1.0


class Drawn(NamedTuple):
    """The next token of a completion, its log-probability as drawn (nats), and whether it was the last."""

    name: Hashable
    token: int
    logprob: float
    last: bool


class Unread(NamedTuple):
    """A completion that has left because its prompt could not be read, and why."""

    name: Hashable
    error: Exception


@dataclass
class _Rows:
    """Rows that are decoded together; all lists and tensors have an entry for each of `wanted`.

    `logits` are those of the next token; they are None while the tokens drawn last were not read yet.
    """

    wanted: list[Wanted]
    uniforms: list[np.ndarray]
    decoder: Decoder
    positions: Tensor
    logits: Tensor | None
    num_drawn: list[int]
    last: list[int] = field(default_factory=list)

    def read(self) -> None:
        """Read the tokens that were drawn last."""
        if self.logits is None:
            self.positions = self.positions + 1
            tokens = torch.tensor(self.last, device=self.positions.device)
            self.logits = self.decoder.step(tokens, self.positions)

    def join(self, other: _Rows) -> None:
        """Take the rows of others, who have read their prompts, behind its own."""
        assert self.logits is not None, "rows join between reading and drawing"
        assert other.logits is not None, "rows join between reading and drawing"
        self.decoder.join(other.decoder)
        self.logits = torch.cat([self.logits, other.logits])
        self.positions = torch.cat([self.positions, other.positions])
        self.wanted += other.wanted
        self.uniforms += other.uniforms
        self.num_drawn += other.num_drawn

    def draw(self) -> list[tuple[int, float]]:
        """Draw a token for each row: token and log-probability."""
        assert self.logits is not None, "nothing was read to draw from"
        drawn: dict[int, tuple[int, float]] = {}
        for places in self._alike():
            how = self.wanted[places[0]]
            uniform = [self.uniforms[place][self.num_drawn[place]] for place in places]
            tokens, logprobs = draw(
                self.logits if len(places) == len(self.wanted) else self.logits[places],
                torch.tensor(uniform, dtype=torch.float32, device=self.logits.device),
                temperature=how.temperature,
                top_k=how.top_k,
                top_p=how.top_p,
                operations=self.decoder.operations,
            )
            drawn.update(zip(places, zip(tokens.tolist(), logprobs.tolist(), strict=True), strict=True))
        self.logits = None
        self.last = [drawn[place][0] for place in range(len(self.wanted))]
        self.num_drawn = [num + 1 for num in self.num_drawn]
        return [drawn[place] for place in range(len(self.wanted))]

    def _alike(self) -> list[list[int]]:
        """The places of rows whose tokens are drawn in one way."""
        places: dict[tuple[float, int, float], list[int]] = {}
        for place, one in enumerate(self.wanted):
            places.setdefault((one.temperature, one.top_k, one.top_p), []).append(place)
        return list(places.values())

    def keep(self, places: list[int]) -> None:
        """Drop all rows but these."""
        rows = torch.tensor(places, device=self.positions.device)
        self.decoder.keep(rows)
        self.decoder.trim()
        self.positions = self.positions[rows]
        self.logits = None if self.logits is None else self.logits[rows]
        self.wanted = [self.wanted[place] for place in places]
        self.uniforms = [self.uniforms[place] for place in places]
        self.num_drawn = [self.num_drawn[place] for place in places]
        self.last = [self.last[place] for place in places] if self.last else []


class LiveBatch:
    """The completions that a model is drawing at present."""

    def __init__(self, model: Any, *, stop_ids: Sequence[int], pad_id: int) -> None:
        """Take a causal language model; a completion ends with the first of `stop_ids`, which is drawn."""
        self.model, self.stop_ids, self.pad_id = model.eval(), frozenset(stop_ids), pad_id
        self._rows: list[_Rows] = []
        self._waiting: list[Wanted] = []
        self._like: Decoder | None = None

    def __len__(self) -> int:
        """Count the completions under way, those that wait for the next step included."""
        return len(self._waiting) + sum(len(rows.wanted) for rows in self._rows)

    def join(self, wanted: Wanted) -> None:
        """Let a completion take part from the next step on."""
        assert wanted.max_new_tokens > 0, wanted
        assert len(wanted.prompt) > 0, wanted
        self._waiting.append(wanted)

    def leave(self, names: Collection[Hashable]) -> None:
        """Drop completions, wherever they are."""
        self._waiting = [wanted for wanted in self._waiting if wanted.name not in names]
        self._drop(lambda wanted: wanted.name in names)

    @torch.inference_mode()
    def step(self) -> list[Drawn | Unread]:
        """Draw a token for each completion; those that are over leave, and those that cannot be read."""
        for rows in self._rows:
            rows.read()
        found: list[Drawn | Unread] = [*self._admit()]
        over: set[Hashable] = set()
        for rows in self._rows:
            for wanted, num, (token, logprob) in zip(rows.wanted, rows.num_drawn, rows.draw(), strict=True):
                last = token in self.stop_ids or num + 1 == wanted.max_new_tokens
                found.append(Drawn(wanted.name, token, logprob, last))
                if last:
                    over.add(wanted.name)
        if over:
            self._drop(lambda wanted: wanted.name in over)
        return found

    def _admit(self) -> list[Unread]:
        """Read the prompts of those that wait, and put them with the others where they can be joined.

        Where they cannot be read together (memory, say) they are read one by one, so that each fails alone.
        """
        waiting, self._waiting = self._waiting, []
        groups, failed = [waiting] if waiting else [], []
        while groups:
            group = groups.pop()
            try:
                joining = self._begin(group)
            except Exception as error:
                if len(group) == 1:
                    failed.append(Unread(group[0].name, error))
                else:
                    groups += [[wanted] for wanted in reversed(group)]
                continue
            if self._rows and joining.decoder.joins:
                self._rows[0].join(joining)
            else:
                self._rows.append(joining)
        return failed

    def _begin(self, wanted: list[Wanted]) -> _Rows:
        """Read prompts; the logits are those of the first token of each completion."""
        prompts = [one.prompt for one in wanted]
        begun = begin(self.model, prompts, pad_id=self.pad_id, num_steps=BLOCK, like=self._like)
        self._like = begun.decoder
        draws = [uniforms([one.key], one.max_new_tokens)[0] for one in wanted]
        return _Rows(wanted, draws, begun.decoder, begun.positions, begun.logits, [0] * len(wanted))

    def _drop(self, over: Callable[[Wanted], bool]) -> None:
        for rows in list(self._rows):
            places = [place for place, wanted in enumerate(rows.wanted) if not over(wanted)]
            if not places:
                self._rows.remove(rows)
            elif len(places) < len(rows.wanted):
                rows.keep(places)
