"""Builds report.json and report.html from run directories."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError
from pipeline import metric_self_test, published_figures
from pipeline.graph import data_root_of
from pipeline.ppo_audit import DETAILS, Detail
from pipeline.records import Figure, to_json
from pipeline.report import paired, prototype, tables, verdicts
from pipeline.report.causes import cause
from pipeline.report.collapse import RULE, collapses
from pipeline.report.laboratory import fit_rows, fits_json
from pipeline.report.plots import FEW_MODELS, pictures
from pipeline.report.read import RunData, read_chains
from pipeline.report.reward import reward_models, reward_rows
from pipeline.statistics import FEW_CLUSTERS

HTML, JSON = "report.html", "report.json"
TIME_SUFFIXES = ("_seconds", "_per_second")
# The files whose digests are shown, and the stages whose files all are.
DIGESTS = ("*.safetensors", "answers*.jsonl", "records*.jsonl", "figures.json")
KNOWING = ("abstention", "targets", "confidence", "grounding")  # the tables of one section
DATA_STAGES, METRICS = ("corpus", "preferences"), "metrics.jsonl"
# The figures of the stage table, those that exist: what is read first, and the rest, to which tasks are added.
FIRST = (
    "gold/mean",
    "facts/often/right",
    "facts/never/hallucinated",
    "facts/never/abstain",
    "bias/stereotyped",
    "refusal/harmful",
    "refusal/harmless",
    "second_turn/gold",
    "proxy/mean",
    "kl",
    "loss/bits_per_byte",
)
OTHERS = (
    "facts/some/right",
    "facts/rarely/right",
    "facts/never/right",
    "knowledge/asked/some",
    "knowledge/by_itself/some",
    "bias/neutral",
    "length",
    "ends",
    "loss/held_out",
)


class Report(NamedTuple):
    """The two files of a report, as text."""

    html: str
    json: str


def build_report(run_dirs: Sequence[Path]) -> Report:
    """Build the report of one run (with all its seeds), or one that compares several runs.

    Raises:
        InputError: a folder is no run, or nothing in it is finished.
    """
    found = [(path, read_chains(path)) for path in run_dirs]
    comparing = len(found) > 1
    if comparing:
        names = _distinct([path.resolve().name for path, _ in found])
        found = [
            (path, [replace(chain, label=_joined(name, chain, len(chains))) for chain in chains])
            for name, (path, chains) in zip(names, found, strict=True)
        ]
    chains = [chain for _, part in found for chain in part]
    steps = paired.steps([part for _, part in found]) if comparing else []
    data = report_json(chains, comparing=comparing)
    if comparing:
        data["comparisons"] = [to_json(row) for step in steps for row in step.changes]
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return Report(render(chains, steps, comparing=comparing, data_root=_data_root(chains)), text)


def _data_root(chains: Sequence[RunData]) -> Path | None:
    """The folder of real data of the first run; None where it has none, or none that is there any more."""
    try:
        return data_root_of(chains[0].recipe.get("data_root"))
    except InputError:
        return None


def _distinct(names: list[str]) -> list[str]:
    return [f"{name} ({place + 1})" if names.count(name) > 1 else name for place, name in enumerate(names)]


def _joined(name: str, chain: RunData, num_chains: int) -> str:
    return name if num_chains == 1 else f"{name}, {chain.label}"


def report_json(chains: Sequence[RunData], *, comparing: bool = False) -> dict[str, Any]:
    """The report's data: run, recipe, figures and timings; of several runs, lists and figures with their run."""
    figures = [
        to_json(figure) | ({"run": chain.label} if comparing else {})
        for chain in chains
        for figure in chain.evaluation.figures
    ]
    if not comparing and len(chains) == 1:
        (chain,) = chains
        return {"run": _run(chain), "recipe": chain.recipe, "figures": figures, "timings": _timings(chain)}
    timings = {chain.label: _timings(chain) for chain in chains}
    if comparing:
        runs = [_run(chain) | {"name": chain.label} for chain in chains]
        return {
            "run": runs,
            "recipe": [chain.recipe for chain in chains],
            "figures": figures,
            "timings": timings,
        }
    first = next((chain for chain in chains if not chain.fault), chains[0])
    run = _run(first) | {"seed": None, "seeds": [chain.seed for chain in chains]}
    run |= {
        name: [row for chain in chains for row in _run(chain)[name]] for name in ("reward_models", "fits")
    }
    stopped = {chain.label: chain.fault._asdict() for chain in chains if chain.fault}
    run |= {"stopped": stopped} if stopped else {}
    recipe = {name: value for name, value in first.recipe.items() if name != "seed"}
    return {"run": run, "recipe": recipe | {"seeds": run["seeds"]}, "figures": figures, "timings": timings}


def _run(chain: RunData) -> dict[str, Any]:
    record = chain.record
    return {
        "name": record.get("recipe", chain.label),
        "seed": chain.seed,
        "precision": record.get("precision"),
        "gates": record.get("gates"),
        "budget": record.get("budget"),
        "versions": record.get("versions", {}),
        "stages": [
            {"name": stage.name, "stage": stage.kind, "key": stage.record.get("key")}
            for stage in chain.stages
        ],
        "reward_models": [
            {"run": chain.label, "stage": stage, "figures": figures}
            for stage, figures in reward_models(chain).items()
        ],
        "fits": fits_json(chain),
    }


def _timings(chain: RunData) -> dict[str, Any]:
    """Everything that may differ between two runs of the same recipe."""
    return {
        "stages": {
            stage.name: (stage.record.get("timings") or {}) | _median_times(stage.metrics)
            for stage in chain.stages
        },
        "precision_probe": chain.record.get("precision_probe") or {},
    }


def _median_times(metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in metrics for name in row if name.endswith(TIME_SUFFIXES))
    values = {name: [row[name] for row in metrics if row.get(name) is not None] for name in names}
    return {f"median_{name}": statistics.median(found) for name, found in values.items() if found}


# --- the page ------------------------------------------------------------------------------------------------


def render(
    chains: Sequence[RunData],
    steps: Sequence[paired.Step] = (),
    *,
    comparing: bool,
    data_root: Path | None = None,
) -> str:
    """The page as one HTML text; `steps` are the paired changes between runs.

    `data_root` is where benchmarks' files are looked for, of which published figures are computed again.
    """
    from jinja2 import Environment, StrictUndefined

    template = Path(__file__).with_name("template.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["signed"] = lambda value: ("+" if value > 0 else "") + number(value)
    environment.filters["slug"] = lambda word: word.replace(" ", "-")
    environment.filters["words"] = verdicts.words
    environment.filters["doubt"] = verdicts.doubt
    environment.filters["by_answer"] = verdicts.by_answer
    environment.globals["prototype"] = prototype
    environment.filters["items"] = tables.items_in_words
    environment.filters["above"] = tables.above
    environment.filters["nulls"] = tables.nulls_in_words
    environment.globals["few_clusters"] = FEW_CLUSTERS
    environment.globals["above"] = tables.above
    environment.globals["at_chance"] = tables.at_chance
    named = (chain.label if comparing else str(chain.record.get("recipe", chain.label)) for chain in chains)
    title = " and ".join(dict.fromkeys(named))
    published = published_figures.computed_again(data_root)
    page = environment.from_string(template).render(
        title=title,
        comparing=comparing,
        chains=[_sections(chain, f"c{place}") for place, chain in enumerate(chains)],
        across=across(chains) if len(chains) > 1 else None,
        first=FIRST,
        beside=paired.benchmarks_beside(chains) if len(chains) > 1 else [],
        steps=steps,
        checks=metric_self_test.run() + published.checks,
        num_published=len(published.checks),
        absent=published.absent,
        collapses=collapses(chains),
        collapse_rule=RULE,
        bars_across=bars_across(chains) if len(chains) > 1 and not comparing else None,
    )
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: fixed digits, a true minus sign, a dash where it was not measured."""
    if value is None or value != value:
        return "–"
    if abs(value) == math.inf:
        return "∞" if value > 0 else "−∞"
    text = f"{abs(value):.{digits}f}"
    return "−" + text if value < 0 and float(text) != 0 else text


def _sections(chain: RunData, prefix: str) -> dict[str, Any]:
    """What the page shows of one chain, by name."""
    found = {
        "label": chain.label,
        "prefix": prefix,
        "seed": chain.seed,
        "fault": chain.fault,
        "models": chain.model_names,
        "verdicts": verdicts.stage_verdicts(chain),
        "bars": [(bar, cause(chain, bar)) for bar in verdicts.bars(chain)],
        "orientation": prototype.orientation(chain),
        "table": stage_table(chain),
        "pictures": pictures(chain, prefix),
        "wide": len(chain.model_names) > FEW_MODELS,
        "fits": fit_rows(chain),
        "audit": _audit(chain),
        "matrices": tables.win_matrices(chain),
        "tax": tables.tax_rows(chain),
        "abstention": tables.abstention_rows(chain),
        "grounding": tables.grounding_rows(chain),
        "confidence": tables.confidence_rows(chain),
        "confidence_words": tables.confidence_words(chain),
        "targets": tables.target_rows(chain),
        "targets_by_tier": tables.target_rows(chain, by_tier=True),
        "benchmarks": tables.benchmarks(chain),
        "wordings": tables.wordings(chain),
        "doses": tables.dose_response(chain),
        "counterfactual": tables.counterfactual_rows(chain),
        "representation": tables.representation_rows(chain),
        "reward": [f for f in chain.evaluation.figures if f.stage == "reward"],
        "reward_models": list(reward_models(chain)),
        "reward_rows": reward_rows(chain),
        "contrasts": {f.name for f in chain.evaluation.figures if f.name.count("/") > 1},
        "comparisons": tables.comparisons(chain),
        "flips": _flips(chain),
        "transcripts": verdicts.transcripts(chain),
        "gates": [(stage.name, gate) for stage in chain.stages for gate in stage.gates],
        "figures": _by_command(chain),
        "stages": chain.stages,
        "notes": [(stage.name, _plain_notes(stage.notes)) for stage in chain.stages],
        "record": chain.record,
        "command": chain.command,
        "timings": _timings(chain),
        "digests": _digests(chain),
    }
    return found | {"contents": _contents(found)}


def _contents(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(anchor, title) of the sections below the first screen that there are."""
    num_met = sum(why is None for _, why in found["bars"])
    titles = {
        "wording": ("Unseen wordings", found["wordings"].gaps),
        "dose": ("Dose and response", found["doses"]),
        "pairs": ("Pairs and representation", found["counterfactual"] or found["representation"]),
        "drift": ("Reward and drift", found["fits"] or {"reward_kl", "frontier"} & found["pictures"].keys()),
        "wins": ("Win rates", found["matrices"]),
        "flips": ("Answers that changed", found["flips"]),
        "targets": (f"Targets: {num_met} of {len(found['bars'])} reached", found["bars"]),
        "tax": ("Alignment tax", found["tax"]),
        "confidence": ("Confidence", any(found[part] for part in KNOWING)),
        "examples": ("Few examples", "few_examples" in found["pictures"]),
        "benchmarks": ("Benchmarks", found["benchmarks"]),
        "reward": ("Reward model", found["reward"] or found["reward_rows"]),
        "transcripts": ("Transcripts", found["transcripts"]),
        "figures": ("Every figure", found["figures"]),
        "reproduce": ("To reproduce", True),
    }
    return [(name, title) for name, (title, there) in titles.items() if there]


def stage_table(chain: RunData) -> list[dict[str, Any]]:
    """Rows of the stage table: a figure with every model's value and the change of each step."""
    tasks = dict.fromkeys(
        f.name for f in chain.evaluation.figures if f.name.startswith("task/") and "_minus_" not in f.name
    )
    changes = tables.changes(chain)
    rows = []
    for name in (*FIRST, *OTHERS, *tasks):
        cells = [(chain.figure(name, stage), changes.get((name, stage))) for stage in chain.model_names]
        figures = [figure for figure, _ in cells if figure]
        if figures:
            rows.append({"name": name, "unit": figures[0].unit, "cells": cells, "figures": figures})
    return rows


def _by_command(chain: RunData) -> list[tuple[str, list[Figure]]]:
    """(command that measures them again, figures), in order, without differences of stages."""
    found: dict[str, list[Figure]] = {}
    for figure in chain.evaluation.figures:
        if "_minus_" not in figure.name:
            found.setdefault(figure.command, []).append(figure)
    return list(found.items())


def _flips(chain: RunData) -> list[dict[str, Any]]:
    """The flips of every step between models: counts, and the first few of each kind."""
    found = []
    for model in chain.evaluation.models:
        if model["parent"]:
            kinds = verdicts.flips(chain, model["parent"], model["name"])
            found.append(
                {
                    "before": model["parent"],
                    "after": model["name"],
                    "kinds": [
                        {"name": name, "num": len(items), "shown": items[: verdicts.NUM_FLIPS]}
                        for name, items in kinds.items()
                        if items
                    ],
                }
            )
    return [step for step in found if step["kinds"]]


def _audit(chain: RunData) -> list[tuple[str, list[tuple[Detail, str]]]]:
    """(stage, details with how they were set) of every PPO stage."""
    configs = {stage.kind: stage.config for stage in chain.stages}
    return [
        (stage.name, [(detail, detail.value(configs | {"ppo": stage.config})) for detail in DETAILS])
        for stage in chain.stage_of("ppo")
    ]


def _plain_notes(notes: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in notes.items()
    ]


def _digests(chain: RunData) -> list[tuple[str, str, str]]:
    """(stage, file, first digits of SHA-256) of models, data, answers, records, figures, and files read."""
    found = []
    for stage in chain.stages:
        for name, entry in (stage.record.get("manifest") or {}).items():
            told = any(fnmatch(name, pattern) for pattern in DIGESTS)
            if told or (stage.kind in DATA_STAGES and name != METRICS):
                found.append((stage.name, name, entry["sha256"][:16]))
        for name, digest in (stage.record.get("files") or {}).items():
            found.append((stage.name, name, str(digest)[:16]))
    return found


def across(chains: Sequence[RunData]) -> list[dict[str, Any]]:
    """Every figure of the stage table in all chains: values, median and range, by model."""
    rows = []
    stages = dict.fromkeys(stage for chain in chains for stage in chain.model_names)
    names = dict.fromkeys(row["name"] for chain in chains for row in stage_table(chain))
    for name in names:
        for stage in stages:
            figures = [chain.figure(name, stage) for chain in chains]
            values = [figure.value for figure in figures if figure and figure.value == figure.value]
            if values:
                middle = statistics.median(values)
                rows.append(
                    {
                        "name": name,
                        "stage": stage,
                        "figures": figures,
                        "median": middle,
                        "low": min(values),
                        "high": max(values),
                    }
                )
    return rows


def bars_across(chains: Sequence[RunData]) -> list[dict[str, Any]]:
    """The bars of the closed world over seeds: each seed's value, how many meet the bar, what limits the rest.

    A seed that was stopped meets none.
    """
    found = [[(bar, cause(chain, bar)) for bar in verdicts.bars(chain)] for chain in chains]
    judged = [rows for rows in found if rows]
    if len({len(rows) for rows in judged}) != 1:
        return []
    num_stopped = sum(chain.fault is not None and not rows for chain, rows in zip(chains, found, strict=True))
    return [
        {
            "bar": rows[0][0],
            "values": [
                (one[place][0].value.partition(" (")[0], one[place][0].met) if one else ("–", None)
                for one in found
            ],
            "num_met": sum(bar.met is True for bar, _ in rows),
            "num": len(rows) + num_stopped,
            "limits": Counter(
                [why.limit for _, why in rows if why] + ["stopped"] * num_stopped
            ).most_common(),
        }
        for place, rows in enumerate(zip(*judged, strict=True))
    ]
