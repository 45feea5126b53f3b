"""What a run would do: which stages and why, their size, the time they take on this machine; writes nothing.

Counts come from each stage's own `cost`; time from the seconds that its probe measures, else from its
operations at the speed of a small training step measured here. What a stage does not announce is shown as
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data import open_folder
from pipeline.checkpoint import free_bytes
from pipeline.config import redact
from pipeline.execute import chains, recorded_precision
from pipeline.graph import STAGES, data_root_of
from pipeline.progress import format_bytes, format_seconds
from pipeline.recipe import Cost, CostContext, Recipe, StageSpec
from pipeline.run_directory import STAGE_JSON, check_folder, find_stage, read_json, run_path, stage_dir
from pipeline.schedule import Decision, Selection, schedule

_COUNTS = ("steps", "tokens", "parameters", "memory_bytes", "disk_bytes")


def make_plan(
    recipe: Recipe, *, runs_dir: Path, name: str | None, selection: Selection, probe: bool = True
) -> dict[str, Any]:
    """The plan as plain data: stages of every seed with action, reasons and costs, and what the machine has.

    `seconds` of a stage is None where it is not known; without `probe` it is known only for what is skipped.
    """
    run_dir = run_path(runs_dir, recipe.settings.name if name is None else name)
    check_folder(run_dir, recipe.settings.name, force=selection.force)
    precision = recorded_precision(recipe, run_dir)
    if probe and precision == "auto":
        from pipeline.precision import resolve_precision

        precision, _ = resolve_precision("auto")
    data_root = data_root_of(recipe.settings.data_root)
    speed = _training_speed(precision) if probe else None
    stages: list[dict[str, Any]] = []
    costs: dict[str, Cost] | None = None
    for seed, folder in chains(recipe, run_dir):
        decisions = schedule(
            recipe,
            folder,
            runs_dir=runs_dir,
            seed=seed,
            precision=recorded_precision(recipe, run_dir),
            data_root=data_root,
            selection=selection,
            quick=True,
        )
        if costs is None:  # equal for every seed
            costs = _costs(recipe, CostContext({}, {}, data_root, seed, precision), runs_dir)
            seconds = {
                spec.name: _seconds(costs[spec.name], decisions, spec, speed) for spec in recipe.stages
            }
        stages += [
            _row(item, seed, costs[item.spec.name], seconds[item.spec.name], folder) for item in decisions
        ]
    return {
        "run": str(run_dir),
        "recipe": recipe.settings.name,
        "changes": list(recipe.changes),
        "precision": precision,
        "stages": stages,
        "total": _total(stages),
        "free_disk_bytes": free_bytes(runs_dir),
        "memory_bytes": _memory(),
    }


def _costs(recipe: Recipe, blank: CostContext, runs_dir: Path) -> dict[str, Cost]:
    configs: dict[str, Any] = {spec.name: spec.config for spec in recipe.stages}
    costs: dict[str, Any] = {}
    for spec in recipe.stages:
        if not hasattr(spec.module, "cost"):
            costs[spec.name] = Cost()
            continue
        for _, reference in spec.references():
            if reference.run and str(reference) not in configs:
                configs[str(reference)], costs[str(reference)] = _elsewhere(
                    runs_dir, reference.run, reference.stage, blank
                )
        context = CostContext(
            _by_role(spec, configs), _by_role(spec, costs), blank.data_root, blank.seed, blank.precision
        )
        costs[spec.name] = spec.module.cost(spec.config, context)
    return costs


def _by_role(spec: StageSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role, value in spec.inputs.items():
        if isinstance(value, tuple):
            found[role] = [values.get(str(item)) for item in value]
        elif value is not None:
            found[role] = values.get(str(value))
    return found


def _elsewhere(runs_dir: Path, run: str, stage: str, blank: CostContext) -> tuple[Any, Cost | None]:
    """Settings and cost of a stage of another run, from its record; None where they no longer fit the code."""
    folder, _ = find_stage(runs_dir, run, stage, blank.seed)
    record = read_json(folder / STAGE_JSON) or {}
    try:
        module = open_folder.load(STAGES, record["stage"])
        model = module.config_class(record["config"]) if hasattr(module, "config_class") else module.Config
        config = model.model_validate(record["config"])
    except (KeyError, ValueError):
        return None, None
    if not hasattr(module, "cost"):
        return config, Cost()
    configs: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    for role, pairs in (record.get("inputs") or {}).items():
        wanted = module.INPUTS.get(role)
        places = [name.rpartition("/") for name, _ in pairs]
        found = [_elsewhere(runs_dir, other or run, name, blank) for other, _, name in places]
        if wanted and (wanted.many or found):
            configs[role] = [config for config, _ in found] if wanted.many else found[0][0]
            costs[role] = [cost for _, cost in found] if wanted.many else found[0][1]
    return config, module.cost(config, replace(blank, configs=configs, costs=costs))


def _seconds(cost: Cost, decisions: list[Decision], spec: StageSpec, speed: float | None) -> float | None:
    if speed is None or not next(item for item in decisions if item.spec.name == spec.name).to_do:
        return None
    if cost.probe is not None:
        return cost.probe()
    return cost.flops / speed if cost.flops else None


def _row(decision: Decision, seed: int, cost: Cost, seconds: float | None, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "stage": decision.spec.name,
        "kind": decision.spec.kind,
        "seed": seed,
        "action": decision.action,
        "reasons": list(decision.reasons),
        "settings": redact(decision.spec.config.model_dump(mode="json", exclude_defaults=True)),
        **{name: getattr(cost, name) or None for name in _COUNTS},
        "seconds": seconds if decision.to_do else 0.0,
        "note": cost.note,
    }
    if decision.to_do:
        # The same stage took this long before, perhaps with other settings.
        record = read_json(stage_dir(folder, decision.spec.name) / STAGE_JSON) or {}
        row["seconds_before"] = record.get("timings", {}).get("seconds")
    return row


def _total(stages: list[dict[str, Any]]) -> dict[str, Any]:
    todo = [row for row in stages if row["action"] in ("run", "continue")]
    known = [row["seconds"] for row in todo if row["seconds"] is not None]
    return {
        "stages": len(todo),
        "tokens": sum(row["tokens"] or 0 for row in todo),
        "disk_bytes": sum(row["disk_bytes"] or 0 for row in todo),
        "memory_bytes": max((row["memory_bytes"] or 0 for row in todo), default=0),
        "seconds": sum(known),
        "stages_of_unknown_time": len(todo) - len(known),
    }


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _training_speed(precision: str) -> float:
    """Operations per second of a small training step (forward, backward, AdamW) on this machine."""
    import time

    import torch
    from torch import nn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = [nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)) for _ in range(3)]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    rows, best = torch.ones(4096, 256, device=device), 0.0
    operations = 6.0 * sum(parameter.numel() for parameter in model.parameters()) * len(rows)
    for _ in range(5):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            model(rows).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, operations / (time.perf_counter() - start))
    return best


def format_plan(plan: Mapping[str, Any]) -> str:
    """The plan for a person: one line a stage, then the totals beside what the machine has."""
    lines = [f"run {plan['run']} of recipe {plan['recipe']}, {plan['precision']}"]
    lines += [f"  --set {change}" for change in plan["changes"]]
    seeds = {row["seed"] for row in plan["stages"]}
    for row in plan["stages"]:
        name = f"seed {row['seed']} {row['stage']}" if len(seeds) > 1 else row["stage"]
        lines.append(f"  {name:<16} {row['action']:<8} {_sizes(row)}{'; '.join(row['reasons'])}")
    total = plan["total"]
    unknown = total["stages_of_unknown_time"]
    time = format_seconds(total["seconds"]) + (f" and {unknown} stages of unknown time" if unknown else "")
    lines.append(
        f"{total['stages']} stages to run: {time}; disk {format_bytes(total['disk_bytes'])} of "
        f"{format_bytes(plan['free_disk_bytes'])} free; memory {format_bytes(total['memory_bytes'])} of "
        f"{format_bytes(plan['memory_bytes'])}"
    )
    return "\n".join(lines)


def _sizes(row: Mapping[str, Any]) -> str:
    if row["action"] in ("skip", "leave"):
        return ""
    parts = [f"{row[name]:,} {name}" for name in ("steps", "tokens", "parameters") if row[name]]
    parts += [f"{format_bytes(row['memory_bytes'])} memory"] if row["memory_bytes"] else []
    parts += [f"{format_bytes(row['disk_bytes'])} disk"] if row["disk_bytes"] else []
    parts += [f"about {format_seconds(row['seconds'])}"] if row["seconds"] is not None else []
    parts += [row["note"]] if row["note"] else []
    return f"{', '.join(parts)}; " if parts else ""
