"""Contenders in turns, each in a process of its own: a slow moment of the machine falls on all of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def medians(
    file: str, contenders: Sequence[str], *, rounds: int, options: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Run `python file --worker NAME options...` for each contender, `rounds` times over; medians of its figures.

    A worker prints its figures as JSON on its last line. One that fails is told of and left out.
    """
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            command = [sys.executable, file, "--worker", name, *options]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            if done.returncode:
                print(f"{name}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
                continue
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
        if runs
    }


def best(found: dict[str, dict[str, float]], figure: str, beginning: str) -> float:
    """The highest figure among contenders whose name begins so; nan where none ran."""
    return max(
        (figures[figure] for name, figures in found.items() if name.startswith(beginning)),
        default=float("nan"),
    )
