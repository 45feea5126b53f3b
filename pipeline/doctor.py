"""The machine and the installation: what training will find here."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from pipeline.progress import format_bytes

EXAMINED_HEAD = 64  # numbers of a head; that the kernel compiles for one size says that it does for others


def examine(runs_dir: Path) -> dict[str, Any]:
    """Python, processor, memory, disk, accelerators, the faster number format, libraries, data root."""
    import psutil
    import torch

    from pipeline import decoder_kernel
    from pipeline.checkpoint import free_bytes
    from pipeline.precision import resolve_precision, tune_allocator

    precision, figures = resolve_precision("auto")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "free_disk_bytes": free_bytes(runs_dir),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "precision": precision,
        **figures,
        "allocator_tuned": tune_allocator(),
        "decoder_kernel": (
            "compiled"
            if decoder_kernel.load(torch.float32, EXAMINED_HEAD)
            else "none: sampling on a CPU is slower without a C compiler with OpenMP"
        ),
        "libraries": _libraries(),
        "problems": _problems(),
        "data_root": os.environ.get("FLEDGE_DATA"),
    }


def _requirements() -> list[Any]:
    from packaging.requirements import Requirement

    try:
        found = [Requirement(text) for text in requires("fledge") or ()]
    except PackageNotFoundError:
        return []
    return [item for item in found if item.marker is None or item.marker.evaluate({"extra": ""})]


def _libraries() -> dict[str, str | None]:
    return {item.name: _version(item.name) for item in _requirements()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _problems() -> list[str]:
    problems = [
        f"{item.name} {_version(item.name) or 'is missing'}: {item.specifier} is needed; pip install -e ."
        for item in _requirements()
        if _version(item.name) is None
        or not item.specifier.contains(str(_version(item.name)), prereleases=True)
    ]
    given = os.environ.get("FLEDGE_DATA")
    if given and not Path(given).is_dir():
        problems.append(f"FLEDGE_DATA is {given!r}, which is no folder")
    if shutil.disk_usage(Path.cwd()).free < 2 * 10**9:
        problems.append("less than 2 GB of disk are free here; quickstart needs under 1 GB")
    return problems


def format_examination(found: dict[str, Any]) -> str:
    """The findings for a person, problems last."""
    sizes = {"memory_bytes": "memory", "free_disk_bytes": "free disk"}
    lines = []
    for name, value in found.items():
        if name in sizes:
            lines.append(f"{sizes[name]}: {format_bytes(value)}")
        elif name == "libraries":
            lines.append(
                "libraries: " + ", ".join(f"{library} {number}" for library, number in value.items())
            )
        elif name.endswith("_per_second"):
            lines.append(f"{name.split('_')[0]}: {value:,.0f} GFLOP/s")
        elif name != "problems":
            shown = ", ".join(value) if isinstance(value, list) else value
            lines.append(f"{name.replace('_', ' ')}: {shown if shown not in (None, '') else 'none'}")
    return "\n".join(lines + [f"PROBLEM: {problem}" for problem in found["problems"]])
