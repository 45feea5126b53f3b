"""Where a run stands, also while it runs: each stage's state, its last metrics and the seconds it took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.metrics import read_metrics
from pipeline.progress import format_seconds
from pipeline.run_directory import (
    BEGUN_JSON,
    FAULT_JSON,
    RUN_JSON,
    STAGE_JSON,
    is_locked,
    read_json,
    seed_dir,
    stage_dir,
)


def run_status(run_dir: Path) -> dict[str, Any]:
    """A run's state as plain data; `active` tells whether a process works on it now."""
    record = read_json(run_dir / RUN_JSON) or {}
    active = is_locked(run_dir)
    chains = [(seed, seed_dir(run_dir, seed)) for seed in record.get("seeds") or ()]
    chains = chains or [(record.get("seed"), run_dir)]
    return {
        "run": str(run_dir),
        "recipe": record.get("recipe"),
        "precision": record.get("precision"),
        "active": active,
        "stages": [row for seed, folder in chains for row in _stages(folder, seed, active, record)],
        "report": str(run_dir / "report.html") if (run_dir / "report.html").is_file() else None,
    }


def _stages(folder: Path, seed: int | None, active: bool, parent: Mapping[str, Any]) -> list[dict[str, Any]]:
    record = read_json(folder / RUN_JSON) or parent
    return [_stage(folder, stage["name"], seed, active) for stage in record.get("stages", [])]


def _stage(run_dir: Path, name: str, seed: int | None, active: bool) -> dict[str, Any]:
    folder = stage_dir(run_dir, name)
    done = read_json(folder / STAGE_JSON)
    fault = None if done else read_json(folder / FAULT_JSON)
    lines = read_metrics(folder / "metrics.jsonl")
    return {
        "stage": name,
        "seed": seed,
        "state": "done" if done else "stopped" if fault else _not_done(folder, active),
        "seconds": (done or {}).get("timings", {}).get("seconds"),
        "failed_gates": [gate["name"] for gate in (done or {}).get("gates", []) if gate["passed"] is False],
        "cause": fault["cause"] if fault else None,
        "last": lines[-1] if lines else None,
    }


def _not_done(folder: Path, active: bool) -> str:
    if not (folder / BEGUN_JSON).is_file():
        return "waiting"
    return "running" if active else "unfinished"


def format_status(status: Mapping[str, Any]) -> str:
    """The state for a person: one line a stage."""
    lines = [f"{status['run']} (recipe {status['recipe']}){', running now' if status['active'] else ''}"]
    seeds = {row["seed"] for row in status["stages"]}
    for row in status["stages"]:
        name = f"seed {row['seed']} {row['stage']}" if len(seeds) > 1 else row["stage"]
        took = f" in {format_seconds(row['seconds'])}" if row["seconds"] is not None else ""
        gates = f"; failed gates: {', '.join(row['failed_gates'])}" if row["failed_gates"] else ""
        last = f"; {_last(row['last'])}" if row["last"] and row["state"] != "done" else ""
        cause = f": {row['cause']}" if row["cause"] else ""
        lines.append(f"  {name:<16} {row['state']}{cause}{took}{gates}{last}")
    if status["report"]:
        lines.append(f"report: {status['report']}")
    return "\n".join(lines)


def _last(line: Mapping[str, Any]) -> str:
    shown = list(line.items())[:5]
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown
    )
