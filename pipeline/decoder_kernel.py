"""The kernel of `pipeline/decoder_kernel.c`, compiled where it first serves for that machine and model.

What lies between a decoding step's matrix products is bound by memory and by the number of calls; one pass over
memory each makes sampling some 1.5 times as fast. It takes a C compiler with OpenMP (`cc`, or what CC names) and
half a second a process; without one, or beside another runtime of threads than PyTorch's, there is no kernel, and
the same is computed by PyTorch. CC=false switches it off.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
# -ffast-math would switch off denormal numbers in the whole process; these are the parts of it that serve here.
FLAGS = (
    "-O3 -march=native -fopenmp -fPIC -shared -fno-strict-aliasing -fno-math-errno -fno-trapping-math "
    "-fassociative-math -fno-signed-zeros -ffinite-math-only -freciprocal-math"
)
COMPILE_SECONDS = 60  # a compiler that takes longer is given up
DEFINED = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
_POINTER, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int


class HeadNorms(NamedTuple):
    """Weights of an RMSNorm of each query and each key before they are turned."""

    query: Float[Tensor, " size"]
    key: Float[Tensor, " size"]
    eps: float


class Kernel:
    """The compiled functions for one number format and head size; their tensors are on the CPU, without gaps."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, size: int) -> None:
        self.dtype, self.size = dtype, size
        self._add_norm, self._gated, self._attend = library.add_norm, library.gated, library.attend
        self._add_norm.argtypes = [*[_POINTER] * 3, _FLOAT, _LONG, _LONG, _POINTER, _INT]
        self._gated.argtypes = [_POINTER, _LONG, _LONG, _POINTER, _INT]
        self._attend.argtypes = [
            *[_POINTER] * 6,
            *[_LONG] * 6,
            _FLOAT,
            _POINTER,
            _POINTER,
            _FLOAT,
            _POINTER,
            _INT,
        ]
        self._add_norm.restype = self._gated.restype = None
        self._attend.restype = _INT

    def add_norm(
        self,
        stream: Float[Tensor, "rows width"],
        added: Float[Tensor, "rows width"] | None,
        weight: Float[Tensor, " width"],
        eps: float,
    ) -> Float[Tensor, "rows width"]:
        """Add to the float32 stream in place; returns its RMSNorm in the kernel's format."""
        rows, width = stream.shape
        normed = torch.empty(rows, width, dtype=self.dtype)
        self._add_norm(
            self._address(stream, (rows, width), torch.float32),
            None if added is None else self._address(added, (rows, width)),
            self._address(weight, (width,)),
            eps,
            rows,
            width,
            normed.data_ptr(),
            torch.get_num_threads(),
        )
        return normed

    def gated(self, both: Float[Tensor, "rows double_width"]) -> Float[Tensor, "rows width"]:
        """Compute `silu(gate) * up` of the two halves of each row."""
        rows, width = both.shape[0], both.shape[1] // 2
        result = torch.empty(rows, width, dtype=self.dtype)
        address = self._address(both, (rows, 2 * width))
        self._gated(address, rows, width, result.data_ptr(), torch.get_num_threads())
        return result

    def attend(
        self,
        projected: Float[Tensor, "rows count heads_and_twice_key_heads size"],
        cos: Float[Tensor, "rows count size"],
        sin: Float[Tensor, "rows count size"],
        first: Int[Tensor, " rows"],
        keys: Float[Tensor, "rows key_heads capacity size"],
        values: Float[Tensor, "rows key_heads capacity size"],
        length: int,
        scale: float,
        norms: HeadNorms | None,
    ) -> Float[Tensor, "rows count heads size"]:
        """Causal attention of new positions, whose keys and values join the cache at `length` in place.

        A row attends from its position `first` in the cache on; what comes before it results in zeros.
        """
        rows, key_heads, capacity, size = keys.shape
        count, heads = projected.shape[1], projected.shape[2] - 2 * key_heads
        if not (size == self.size and 0 <= length <= capacity - count and heads % key_heads == 0):
            raise RuntimeError(f"attention of heads of {size} at {length} of {capacity} has no kernel here")
        result = torch.empty(rows, count, heads, size, dtype=self.dtype)
        failed = self._attend(
            self._address(projected, (rows, count, heads + 2 * key_heads, size)),
            self._address(cos, (rows, count, size), torch.float32),
            self._address(sin, (rows, count, size), torch.float32),
            self._address(first, (rows,), torch.int64),
            self._address(keys, keys.shape),
            self._address(values, keys.shape),
            rows,
            count,
            heads,
            key_heads,
            capacity,
            length,
            scale,
            None if norms is None else self._address(norms.query, (size,)),
            None if norms is None else self._address(norms.key, (size,)),
            0.0 if norms is None else norms.eps,
            result.data_ptr(),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for attention scores")
        return result

    def _address(self, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        """Where a tensor lies, if it is what the kernel will read there."""
        dtype = dtype or self.dtype
        if x.shape != shape or x.dtype != dtype or x.device.type != "cpu" or not x.is_contiguous():
            raise RuntimeError(
                f"the kernel takes {dtype} of {tuple(shape)} without gaps, not {x.dtype} of {tuple(x.shape)}"
            )
        return x.data_ptr()


@cache
def load(dtype: torch.dtype, size: int) -> Kernel | None:
    """The kernel for models in a number format with heads of a size, or None where there can be none."""
    if dtype not in DEFINED or size % 2 or not _shares_threads():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decoder_kernel.so"
        command = [
            *shlex.split(os.environ.get("CC") or "cc"),
            *FLAGS.split(),
            *DEFINED[dtype],
            f"-DHEAD_SIZE={size}",
            str(SOURCE),
            "-lm",
            "-o",
            str(path),
        ]
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
            return Kernel(ctypes.CDLL(str(path)), dtype, size)
    return None


def _shares_threads() -> bool:
    """Whether PyTorch's threads are those of GCC's OpenMP: two runtimes would wait on each other's cores."""
    try:
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except (OSError, AttributeError):
        return False
    return True
