"""A batch is cut without loss; want of memory halves the micro-batch, once after another; other errors pass."""

import pytest
import torch

from pipeline.errors import TrainingFault
from pipeline.micro_batches import halve_until_it_fits, micro_batches
from pipeline.run import StageRun

FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


@pytest.fixture
def tried(tmp_path):
    """What was tried, reset and said, and a function that does so with room for `fitting` rows."""
    events = []
    run = StageRun("sft", tmp_path)
    run.say = lambda text: events.append(text.partition(":")[0])

    def start(fitting, micro_batch=12, error=FULL, **options):
        def gradients(size):
            events.append(size)
            if size > fitting:
                raise RuntimeError(error)
            return "done"

        return halve_until_it_fits(
            gradients, micro_batch, run, reset=lambda: events.append("reset"), **{"at_hand": 12, **options}
        )

    return events, start


def test_the_size_is_halved_until_it_fits(tried):
    events, start = tried
    assert start(3) == ("done", 3)
    assert events == [12, "reset", "out of memory", 6, "reset", "out of memory", 3]


def test_what_fits_keeps_its_size_even_where_fewer_rows_are_at_hand(tried):
    events, start = tried
    assert start(12, at_hand=5) == ("done", 12)
    assert events == [12]


def test_half_of_the_rows_at_hand_come_next(tried):
    _, start = tried
    assert start(4, at_hand=8) == ("done", 4)


@pytest.mark.parametrize(("fitting", "options"), [(0, {}), (3, {"num_processes": 2})])
def test_what_cannot_be_halved_stops_with_the_remedy(tried, fitting, options):
    _, start = tried
    with pytest.raises(TrainingFault, match=r"sft: out of memory .* pairs; use a smaller model"):
        start(fitting, unit="pairs", **options)


def test_another_error_is_not_taken_for_want_of_memory(tried):
    _, start = tried
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        start(3, error="shapes do not fit")


@pytest.mark.parametrize("size", [1, 2, 4, 99])
def test_parts_hold_every_row_once_and_keep_pairs_together(size):
    batch = {"x": torch.arange(10), "y": torch.arange(20).view(10, 2)}
    parts = list(micro_batches(batch, size))
    assert torch.equal(torch.cat([part["y"] for part, _ in parts]), batch["y"])
    pairs = list(micro_batches(batch, size, paired=True))
    assert torch.equal(torch.cat([part["x"].view(2, -1) for part, _ in pairs], dim=1), batch["x"].view(2, 5))
    for cut, num in ((parts, 10), (pairs, 5)):
        assert [round(share * num) for _, share in cut] == [
            min(size, num - first) for first in range(0, num, size)
        ]
