"""Micro-batches: a batch cut to what memory holds, and cut again where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from pipeline.errors import NoMemory

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.run import StageRun

T = TypeVar("T")


def num_rows(batch: Mapping[str, Tensor], *, paired: bool = False) -> int:
    """Rows of a batch; with `paired`, the pairs that its first half makes with its second."""
    return len(next(iter(batch.values()))) // (2 if paired else 1)


def micro_batches(
    batch: Mapping[str, Tensor], size: int, *, paired: bool = False
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Cut a batch into micro-batches of `size` rows or pairs, each with its share (0 to 1] of them.

    With `paired`, row n of the first half makes a pair with row n of the second; so it does in every part.
    """
    num = num_rows(batch, paired=paired)
    for first in range(0, num, size):
        rows = torch.arange(first, min(first + size, num))
        places = torch.cat([rows, rows + num]) if paired else rows
        yield {name: x[places.to(x.device)] for name, x in batch.items()}, len(rows) / num


def halve_until_it_fits(
    gradients: Callable[[int], T],
    micro_batch: int,
    run: StageRun,
    *,
    at_hand: int,
    reset: Callable[[], None],
    unit: str = "rows",
    num_processes: int = 1,
) -> tuple[T, int]:
    """Compute gradients; where memory runs out, reset them and compute them in micro-batches of half the size.

    Args:
        gradients: called with the size of a micro-batch; adds up the gradients of all rows at hand.
        micro_batch: the size to begin with.
        run: the stage at work, which says what happens.
        at_hand: rows of the batch; half of them come next where a micro-batch would hold them all.
        reset: takes back what a broken attempt has added up.
        unit: what a micro-batch counts, for the messages.
        num_processes: processes that train together; several cannot halve, as each would alone.

    Returns:
        What `gradients` gave, and the size that fitted.

    Raises:
        NoMemory: memory does not hold one row, or several processes train together.
    """
    while True:
        try:
            return gradients(micro_batch), micro_batch
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        # Only here, after the error is gone, are the tensors free that its traceback held.
        reset()
        clear_device_cache(garbage_collection=True)
        smaller = min(micro_batch, at_hand) // 2
        if smaller < 1 or num_processes > 1:
            raise NoMemory(
                f"{run.name}: out of memory with a micro-batch of {micro_batch} {unit}; "
                "use a smaller model, context or micro-batch"
            )
        micro_batch = smaller
        run.say(f"out of memory: going on with micro-batches of {micro_batch} {unit}")
