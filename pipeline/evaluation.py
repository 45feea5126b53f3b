"""`fledge evaluate`: the evaluations on runs, stages and any Hugging Face model, outside a recipe."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from pipeline.graph import data_root_of
from pipeline.kept_work import kept_work
from pipeline.run_directory import (
    RUN_JSON,
    STAGE_JSON,
    find_run,
    finished_stages,
    read_json,
    seed_dir,
    stage_dir,
)

if TYPE_CHECKING:
    from rich.console import Console

MODELS = ("pretrain", "pretrained", "sft", "ppo", "dpo", "rloo", "grpo", "peak")
SINGLE = ("corpus", "preferences", "reward")


def evaluate(
    sources: Sequence[str],
    *,
    suite: Sequence[str] | None = None,
    data: str | None = None,
    data_root: str | None = None,
    runs_dir: Path = Path("runs"),
    as_json: bool = False,
) -> dict[str, Any]:
    """Evaluate runs or models and print the figures; returns them in the shape of report.json.

    Args:
        sources: one run (all its models are compared), or stage folders, Hugging Face folders or ids.
        suite: evaluations by name, or whole suites; None takes all that need no data beside the run's.
        data: the run whose items, pairs and texts are used; needed where no source belongs to a run and the
            suite names no benchmark, which brings its own.
        data_root: the folder of the benchmarks' files; None takes FLEDGE_DATA.
        runs_dir: where runs are looked for by name.
        as_json: print JSON instead of a table.

    Raises:
        InputError: an unknown evaluation or run, or no data to evaluate on.
    """
    from rich.console import Console

    started = time.monotonic()
    wanted = None if suite is None else _checked(suite)
    root = data_root_of(data_root)
    jobs = _jobs(sources, data, runs_dir, benchmarks=bool(wanted))
    found = [_results(chain, models, suite, root) for chain, models in jobs]
    results: dict[str, Any] = {
        "run": [label for label, _ in found] if len(found) > 1 else found[0][0],
        "recipe": None,
        "figures": [figure for _, part in found for figure in part["figures"]],
        "timings": {"seconds": time.monotonic() - started},
    }
    if as_json:
        print(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        for label, part in found:
            print_figures(label, part, Console())
    return results


def _checked(suite: Sequence[str]) -> list[str]:
    """The benchmarks among the evaluations that a suite names.

    Raises:
        InputError: it names none at all, or one that does not exist.
    """
    from data import open_folder
    from pipeline.stages.evaluate import EVALS, evaluations, is_benchmark

    if not suite:
        raise InputError("--suite names no evaluation; name one or more, or leave the option out for all")
    return [name for name in evaluations(suite) if is_benchmark(open_folder.load(EVALS, name))]


def _jobs(
    sources: Sequence[str], data: str | None, runs_dir: Path, *, benchmarks: bool
) -> list[tuple[Path | None, list[Path]]]:
    """Pairs of the chain that supplies the data (None: the benchmarks' own), and the models to evaluate."""
    if (
        len(sources) == 1
        and not (Path(sources[0]) / "config.json").is_file()
        and _is_run(sources[0], runs_dir)
    ):
        chains = _chains(find_run(runs_dir, sources[0]))
        return [(chain, [stage_dir(chain, name) for name in _stages(chain, MODELS)]) for chain in chains]
    models = [path for source in sources for path in _models(source, runs_dir)]
    if data is not None:
        return [(_chains(find_run(runs_dir, data))[0], models)]
    owners = [path.parent.parent for path in models if (path / STAGE_JSON).is_file()]
    if not owners and not benchmarks:
        raise InputError(
            f"{', '.join(sources)}: no run to take the questions from; evaluate a run or a stage of one, name "
            "one as well (fledge evaluate RUN MODEL), or name benchmarks: --suite truthfulness,bias"
        )
    return [(owners[0] if owners else None, models)]


def _is_run(source: str, runs_dir: Path) -> bool:
    return any((path / RUN_JSON).is_file() for path in (Path(source), runs_dir / source))


def _models(source: str, runs_dir: Path) -> list[Path]:
    """The models that a source names: those of a run, one of its stages (`run/stage`), or a model itself."""
    if _is_run(source, runs_dir):
        chain = _chains(find_run(runs_dir, source))[0]
        return [stage_dir(chain, name) for name in _stages(chain, MODELS)]
    run, _, stage = source.rpartition("/")
    if run and _is_run(run, runs_dir):
        chain = _chains(find_run(runs_dir, run))[0]
        if stage in finished_stages(chain):
            return [stage_dir(chain, stage)]
    return [Path(source)]


def _chains(run_dir: Path) -> list[Path]:
    """The folders of a run's chains: the run itself, or one a seed."""
    seeds = (read_json(run_dir / RUN_JSON) or {}).get("seeds")
    return [seed_dir(run_dir, seed) for seed in seeds] if seeds else [run_dir]


def _stages(chain: Path, kinds: Sequence[str]) -> list[str]:
    names = finished_stages(chain)
    return [
        name for name in names if (read_json(stage_dir(chain, name) / STAGE_JSON) or {}).get("stage") in kinds
    ]


def _results(
    chain: Path | None, models: list[Path], suite: Sequence[str] | None, data_root: Path | None
) -> tuple[str, dict[str, Any]]:
    """Run the evaluate stage in a folder of its own on a chain's data; the chain's label and the results.

    Where it is interrupted, the folder keeps the answers of models and judge for the same command.
    """
    from pipeline.progress import make_reporter
    from pipeline.run import StageRun
    from pipeline.stages import evaluate as stage

    if not models:
        raise InputError(f"{chain} has no finished model yet; run it first")
    settings = _settings(chain) if chain else {}
    if suite is not None:
        settings["suite"] = list(suite)
    model = stage.config_class(settings)
    known = {name: value for name, value in settings.items() if name in model.model_fields}
    config = model.model_validate(known)
    assert isinstance(config, stage.Config)
    inputs: dict[str, Any] = {"models": models}
    record: dict[str, Any] = {}
    label = " ".join(path.name for path in models)
    if chain:
        record = read_json(chain / RUN_JSON) or {}
        label = record.get("recipe", chain.name)
        for kind in SINGLE:
            names = _stages(chain, (kind,))
            if names:
                inputs[kind] = stage_dir(chain, names[-1])
    seed = int(record.get("seed") or 0)
    what = {"settings": config.model_dump(mode="json"), "seed": seed, "label": label}
    with kept_work(what, [*models, *(inputs[kind] for kind in SINGLE if kind in inputs)]) as folder:
        run = StageRun(
            "evaluate",
            folder,
            seed=seed,
            inputs=inputs,
            precision=record.get("precision", "float32"),
            data_root=data_root,
            reporter=make_reporter(),
        )
        stage.run(config, run, command=f"fledge evaluate {label}")
        return label, json.loads((run.dir / "figures.json").read_text(encoding="utf-8"))


def _settings(chain: Path) -> dict[str, Any]:
    """The settings of the chain's own evaluation, so that figures can be reproduced; defaults without one."""
    names = _stages(chain, ("evaluate",))
    record = read_json(stage_dir(chain, names[-1]) / STAGE_JSON) if names else None
    return dict((record or {}).get("config") or {})


def print_figures(label: str, results: dict[str, Any], console: Console) -> None:
    """Print every figure with its interval, and the comparisons that found something."""
    from rich.table import Table

    table = Table(title=label, title_justify="left", box=None, pad_edge=False)
    for column, justify in (
        ("figure", "left"),
        ("stage", "left"),
        ("value", "right"),
        ("interval", "right"),
        ("n", "right"),
    ):
        table.add_column(column, justify="right" if justify == "right" else "left")
    for figure in results["figures"]:
        if "_minus_" in figure["name"]:
            continue
        interval = f"{_number(figure['low'])} to {_number(figure['high'])}"
        table.add_row(figure["name"], figure["stage"], _number(figure["value"]), interval, str(figure["n"]))
    console.print(table)
    for row in results["comparisons"]:
        if row["verdict"] != "no evidence":
            change = f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            told = f"{row['verdict']}: {row['name']}, {row['before']} to {row['after']}: {change}"
            console.print(told, markup=False, highlight=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
