"""Preference pairs as tokens, and the batches that a stage takes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.rows import PreferenceRow, read_jsonl, require_rows
from data.sampler import batches_by_length
from pipeline import trl_adapter
from pipeline.language_model import UNLIMITED, LanguageModel, context_of
from reward.scoring import Row, encode

if TYPE_CHECKING:
    from pipeline.run import StageRun


@dataclass(frozen=True)
class Pairs:
    """Encoded pairs: row 2n is the chosen completion of pair n, row 2n + 1 the rejected one.

    The first `num_train` pairs are for training, the others held out.
    """

    pairs: list[PreferenceRow]
    rows: list[Row]
    num_train: int

    @property
    def held_out(self) -> list[PreferenceRow]:
        """The pairs that are not trained on."""
        return self.pairs[self.num_train :]

    @property
    def train_rows(self) -> list[Row]:
        """The rows of the training pairs."""
        return self.rows[: 2 * self.num_train]

    @property
    def held_out_rows(self) -> list[Row]:
        """The rows of the held-out pairs."""
        return self.rows[2 * self.num_train :]


def read_pairs(config: Any, run: StageRun, policy: LanguageModel) -> Pairs:
    """Read and encode the pairs of every round; what cannot be used is dropped and counted.

    Dropped are pairs longer than `config.max_length` tokens or than the context, pairs that encode alike, and
    training pairs of a cluster that another round holds out. Where there are several, ids begin with the round's
    number, from 1.
    """
    longest = min(config.max_length or UNLIMITED, context_of(policy.model))
    several = len(run.inputs["preferences"]) > 1
    kept: list[PreferenceRow] = []
    rows: list[Row] = []
    counts: list[int] = []
    splits = {name: _rounds(run.inputs["preferences"], name) for name in ("train", "test")}
    held_out = {pair.cluster for pair in splits["test"]}
    for name, found in splits.items():
        removed = {f"longer than {longest} tokens": 0, "equal": 0, "of a cluster held out elsewhere": 0}
        prompts = [row.prompt for row in found]
        chosen = encode(policy.tokenizer, prompts, [row.chosen for row in found])
        rejected = encode(policy.tokenizer, prompts, [row.rejected for row in found])
        before = len(kept)
        for pair, *both in zip(found, chosen, rejected, strict=True):
            if max(len(row.tokens) for row in both) > longest:
                removed[f"longer than {longest} tokens"] += 1
            elif both[0] == both[1]:
                removed["equal"] += 1
            elif several and name == "train" and pair.cluster in held_out:
                removed["of a cluster held out elsewhere"] += 1
            else:
                kept.append(pair)
                rows += both
        require_rows(kept[before:], what=f"{run.name}: {name}.jsonl", removed=removed)
        run.note(**{f"pairs_{name}": len(kept) - before, f"dropped_{name}": sum(removed.values())})
        counts.append(len(kept) - before)
    return Pairs(kept, rows, counts[0])


def _rounds(folders: Sequence[Path], name: str) -> list[PreferenceRow]:
    """The pairs of one split from every stage that made some."""
    rounds = [read_jsonl(folder / f"{name}.jsonl", PreferenceRow) for folder in folders]
    if len(rounds) == 1:
        return rounds[0]
    return [replace(row, id=f"{number}/{row.id}") for number, rows in enumerate(rounds, 1) for row in rows]


def plan(config: Any, run: StageRun, pairs: Pairs) -> trl_adapter.Batches:
    """Batches of pairs of like length for all epochs: `config.epochs`, `batch_size` and `micro_batch_size`."""
    sizes = [[len(row.tokens) for row in pairs.rows[2 * n : 2 * n + 2]] for n in range(pairs.num_train)]
    longest = [max(size) for size in sizes]
    epochs = [
        batches_by_length(longest, config.batch_size, seed=run.key("order"), epoch=epoch)
        for epoch in range(config.epochs)
    ]
    return trl_adapter.batches(
        epochs,
        [sum(size) for size in sizes],
        micro_batch_size=config.micro_batch_size,
        processes=trl_adapter.num_processes(),
    )
