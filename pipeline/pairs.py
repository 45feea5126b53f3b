"""Preference pairs as tokens, and the batches that a stage takes of them."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Read and encode both files of pairs; too long ones and ones that encode alike are dropped and counted.

    The longest row is `config.max_length` tokens, or what the context holds.
    """
    longest = min(config.max_length or UNLIMITED, context_of(policy.model))
    kept: list[PreferenceRow] = []
    rows: list[Row] = []
    counts: list[int] = []
    for name in ("train", "test"):
        found = read_jsonl(run.inputs["preferences"] / f"{name}.jsonl", PreferenceRow)
        removed = {f"longer than {longest} tokens": 0, "equal": 0}
        prompts = [row.prompt for row in found]
        chosen = encode(policy.tokenizer, prompts, [row.chosen for row in found])
        rejected = encode(policy.tokenizer, prompts, [row.rejected for row in found])
        before = len(kept)
        for pair, *both in zip(found, chosen, rejected, strict=True):
            if max(len(row.tokens) for row in both) > longest:
                removed[f"longer than {longest} tokens"] += 1
            elif both[0] == both[1]:
                removed["equal"] += 1
            else:
                kept.append(pair)
                rows += both
        require_rows(kept[before:], what=f"{run.name}: {name}.jsonl", removed=removed)
        run.note(**{f"pairs_{name}": len(kept) - before, f"dropped_{name}": sum(removed.values())})
        counts.append(len(kept) - before)
    return Pairs(kept, rows, counts[0])


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
