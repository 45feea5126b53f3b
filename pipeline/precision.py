"""The number format of training, chosen by measurement, and the allocator's settings."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from typing import Any

from data.errors import InputError

CLEARLY_FASTER = 1.2  # bfloat16 is taken only above this ratio: below, its rounding buys nothing
_SIZE = 512  # rows and columns of the probed products, those of a small model's layers
_SECONDS = 0.05  # of each measurement; the fastest of five counts


def resolve_precision(wanted: str) -> tuple[str, dict[str, float]]:
    """Turn "auto" into "float32" or "bfloat16" by timing matrix products; returns the choice and the figures.

    "bfloat16" itself is refused with InputError on an accelerator without it.
    """
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "bfloat16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("precision bfloat16: this accelerator has none; use precision: float32 or auto")
    if wanted != "auto":
        return wanted, {}
    if cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32", {}
    device = torch.device("cuda" if cuda else "cpu")
    speeds = {name: _products_per_second(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    figures = {f"{name}_gflops_per_second": 2e-9 * _SIZE**3 * speed for name, speed in speeds.items()}
    faster = speeds["bfloat16"] > CLEARLY_FASTER * speeds["float32"]
    return ("bfloat16" if faster else "float32"), figures


def _products_per_second(dtype: Any, device: Any) -> float:
    import torch

    left = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    right = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < _SECONDS:
            left @ right
            count += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
        best = max(best, count / (time.perf_counter() - start))
    return best


def tune_allocator() -> bool:
    """Keep freed memory in the process (glibc): large tensors are not mapped and cleared anew at every step.

    Returns whether the C library took the settings; elsewhere nothing is changed.
    """
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        settings = ((m_mmap_threshold, 1 << 30), (m_trim_threshold, 2**31 - 1), (m_top_pad, 1 << 28))
        return all(libc.mallopt(name, value) == 1 for name, value in settings)
    return False
