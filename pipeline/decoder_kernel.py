"""The kernel of `pipeline/decoder_kernel.c`, compiled where it first serves for that machine and model.

What lies between a decoding step's matrix products is bound by memory and by the number of calls; one pass over
memory each makes sampling about twice as fast. It takes a C compiler with OpenMP (`cc`, or what CC names) and
half a second a process; without one, or beside another runtime of threads than PyTorch's, there is no kernel, and
the same is computed by PyTorch. CC=false switches it off.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from pipeline.decoder_operations import Heads, Kept, Norm, Operations, Place

SOURCE = Path(__file__).with_suffix(".c")
# Of -ffast-math only what lets sums be reordered: the rest hides what is not a number (-ffinite-math-only) and
# switches denormal numbers off in the whole process (crtfastmath).
FLAGS = (
    "-O3 -march=native -fopenmp -fPIC -shared -fno-strict-aliasing -fno-math-errno -fno-trapping-math "
    "-fno-signed-zeros -fassociative-math"
)
COMPILE_SECONDS = 60  # a compiler that takes longer is given up
DEFINED = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
_POINTER, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int


class Kernel(Operations):
    """The compiled operations for one number format and one size of heads; tensors are on the CPU, without gaps.

    A tensor of another type, shape or layout than the kernel reads raises RuntimeError.
    """

    reads_all = False

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, size: int) -> None:
        self.dtype, self.size = dtype, size
        self._add_norm, self._gated, self._attend = library.add_norm, library.gated, library.attend
        self._draw = library.draw
        self._add_norm.argtypes = [*[_POINTER] * 3, _FLOAT, _LONG, _LONG, _POINTER, _INT]
        self._gated.argtypes = [_POINTER, _LONG, _LONG, _POINTER, _INT]
        norms = (_POINTER, _FLOAT) * 2
        self._attend.argtypes = [*[_POINTER] * 6, *[_LONG] * 6, _FLOAT, *norms, _POINTER, _INT]
        self._draw.argtypes = [_POINTER, _POINTER, _LONG, _LONG, _FLOAT, _POINTER, _POINTER, _INT]
        self._add_norm.restype = self._gated.restype = None
        self._attend.restype = self._draw.restype = _INT

    def add_norm(
        self, stream: Float[Tensor, "*rows width"], added: Float[Tensor, "*rows width"] | None, norm: Norm
    ) -> Float[Tensor, "*rows width"]:
        """Add to the stream in place; returns its norm."""
        width = stream.shape[-1]
        normed = torch.empty(stream.shape, dtype=self.dtype)
        self._add_norm(
            self._address(stream, stream.shape, torch.float32),
            None if added is None else self._address(added, stream.shape),
            self._address(norm.weight, (width,)),
            norm.eps,
            stream.numel() // width,
            width,
            normed.data_ptr(),
            torch.get_num_threads(),
        )
        return normed

    def gated(
        self, both: Float[Tensor, "*rows twice_width"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*rows width"]:
        """Compute `activation(gate) * up` of the two halves of each row; only SiLU is compiled."""
        if not isinstance(activation, nn.SiLU | SiLUActivation):
            return super().gated(both, activation)
        width = both.shape[-1] // 2
        result = torch.empty(*both.shape[:-1], width, dtype=self.dtype)
        address = self._address(both, (*both.shape[:-1], 2 * width))
        self._gated(address, result.numel() // width, width, result.data_ptr(), torch.get_num_threads())
        return result

    def attend(
        self, projected: Float[Tensor, "batch count all_heads size"], heads: Heads, kept: Kept, place: Place
    ) -> Float[Tensor, "batch count heads size"]:
        """Causal attention of new positions, whose keys and values join the cache in place.

        What comes before a row's first position results in zeros. Raises MemoryError without room for the scores.
        """
        batch, count, all_heads, size = projected.shape
        cache = (batch, heads.num_key_heads, place.capacity, self.size)
        if all_heads != heads.num_heads + 2 * heads.num_key_heads or heads.num_heads % heads.num_key_heads:
            raise RuntimeError(f"{all_heads} heads are not {heads.num_heads} and twice {heads.num_key_heads}")
        if not 0 <= place.length <= place.end <= place.capacity:
            raise RuntimeError(f"the cache ends at {place.capacity}, before position {place.end}")
        result = torch.empty(batch, count, heads.num_heads, size, dtype=self.dtype)
        failed = self._attend(
            self._address(projected, (*projected.shape[:3], self.size)),
            self._address(place.cos, (batch, count, size), torch.float32),
            self._address(place.sin, (batch, count, size), torch.float32),
            self._address(place.first, (batch,), torch.int64),
            self._address(kept.keys, cache),
            self._address(kept.values, cache),
            batch,
            count,
            heads.num_heads,
            heads.num_key_heads,
            place.capacity,
            place.length,
            heads.scale,
            *self._head_norm(heads.query_norm),
            *self._head_norm(heads.key_norm),
            result.data_ptr(),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the scores of attention")
        return result

    def draw(
        self, logits: Float[Tensor, "batch vocabulary"], uniform: Float[Tensor, " batch"], temperature: float
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Draw a token a row where its cumulative distribution passes `uniform`, with its log-probability (nats).

        Logits in another format than the kernel's are drawn from by PyTorch. Raises MemoryError without room.
        """
        if logits.dtype != self.dtype:
            return super().draw(logits, uniform, temperature)
        batch, vocabulary = logits.shape
        tokens, logprobs = torch.empty(batch, dtype=torch.int64), torch.empty(batch)
        failed = self._draw(
            self._address(logits, logits.shape),
            self._address(uniform, (batch,), torch.float32),
            batch,
            vocabulary,
            1 / temperature,
            tokens.data_ptr(),
            logprobs.data_ptr(),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the shares of a draw")
        return tokens, logprobs

    def _head_norm(self, norm: Norm | None) -> tuple[int | None, float]:
        return (None, 0.0) if norm is None else (self._address(norm.weight, (self.size,)), norm.eps)

    def _address(self, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        """Where a tensor lies, if it is what the kernel will read there."""
        dtype = dtype or self.dtype
        if x.shape != shape or x.dtype != dtype or not x.is_cpu or not x.is_contiguous():
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
