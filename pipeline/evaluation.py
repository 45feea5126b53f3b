"""`fledge evaluate`: the evaluations on runs, stages and any Hugging Face model, outside a recipe."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.errors import InputError
from pipeline.graph import data_root_of
from pipeline.kept_work import kept_work
from pipeline.run_directory import (
    RUN_JSON,
    STAGE_JSON,
    find_run,
    find_stage,
    finished_stages,
    read_json,
    seed_dir,
    stage_dir,
)

if TYPE_CHECKING:
    from rich.console import Console

MODELS = ("pretrain", "pretrained", "sft", "ppo", "dpo", "rloo", "grpo", "peak")
RUNS = Path("runs")
SINGLE = ("corpus", "preferences", "reward")


def evaluate(
    sources: Sequence[str],
    *,
    suite: Sequence[str] | None = None,
    data: str | None = None,
    data_root: str | None = None,
    runs_dir: Path = RUNS,
    as_json: bool = False,
) -> dict[str, Any]:
    """Evaluate runs or models and print the figures; returns them in the shape of report.json.

    Args:
        sources: one run (the models that its evaluation compares, or all), or stage folders, Hugging Face
            folders or ids.
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
    command = _command(sources, data_root, runs_dir)
    jobs = _jobs(sources, data, runs_dir, benchmarks=bool(wanted))
    found = [_results(job, suite, root, command) for job in jobs]
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


def _command(sources: Sequence[str], data_root: str | None, runs_dir: Path) -> str:
    """The command as it was given, without the suite: each figure names its own."""
    options = ["--data-root", data_root] if data_root else []
    options += ["--runs-dir", str(runs_dir)] if runs_dir != RUNS else []
    return shlex.join(["fledge", "evaluate", *sources, *options])


class Job(NamedTuple):
    """Models that are evaluated together, on the data of a chain; None where benchmarks bring their own."""

    chain: Path | None
    models: list[Path]


def _jobs(sources: Sequence[str], data: str | None, runs_dir: Path, *, benchmarks: bool) -> list[Job]:
    """What is evaluated: the chains of one run, or all the sources together."""
    if (
        len(sources) == 1
        and not (Path(sources[0]) / "config.json").is_file()
        and _is_run(sources[0], runs_dir)
    ):
        chains = _chains(find_run(runs_dir, sources[0]))
        return [Job(chain, _inputs(chain)["models"]) for chain in chains]
    named = [_named(source, runs_dir) for source in sources]
    models = [model for job in named for model in job.models]
    if data is not None:
        return [Job(_chains(find_run(runs_dir, data))[0], models)]
    owners = [job.chain for job in named if job.chain]
    if not owners and not benchmarks:
        raise InputError(
            f"{', '.join(sources)}: no run to take the questions from; evaluate a run or a stage of one, name "
            "one as well (fledge evaluate RUN MODEL), or name benchmarks: --suite truthfulness,bias"
        )
    return [Job(owners[0] if owners else None, models)]


def _is_run(source: str, runs_dir: Path) -> bool:
    return any((path / RUN_JSON).is_file() for path in (Path(source), runs_dir / source))


def _named(source: str, runs_dir: Path) -> Job:
    """The models that a source names: those of a run, one of its stages (`run/stage`), or a model itself."""
    if _is_run(source, runs_dir):
        chain = _chains(find_run(runs_dir, source))[0]
        return Job(chain, _inputs(chain)["models"])
    run, _, stage = source.rpartition("/")
    if run and _is_run(run, runs_dir):
        chain = _chains(find_run(runs_dir, run))[0]
        if stage in finished_stages(chain):
            return Job(chain, [stage_dir(chain, stage)])
    path = Path(source)
    return Job(path.parent.parent if (path / STAGE_JSON).is_file() else None, [path])


def _chains(run_dir: Path) -> list[Path]:
    """The folders of a run's chains: the run itself, or one a seed."""
    seeds = (read_json(run_dir / RUN_JSON) or {}).get("seeds")
    return [seed_dir(run_dir, seed) for seed in seeds] if seeds else [run_dir]


def _stages(chain: Path, kinds: Sequence[str]) -> list[str]:
    names = finished_stages(chain)
    return [
        name for name in names if (read_json(stage_dir(chain, name) / STAGE_JSON) or {}).get("stage") in kinds
    ]


def _inputs(chain: Path) -> dict[str, list[Path]]:
    """The folders that a chain's own evaluation reads, by role; without one, all models and the last of the rest.

    Raises:
        InputError: a stage of another run among them is not there any more.
    """
    recorded = _evaluation(chain).get("inputs") or {}
    if recorded.get("models"):
        return {role: [_input(chain, name) for name, _ in pairs] for role, pairs in recorded.items()}
    found = {kind: _stages(chain, (kind,))[-1:] for kind in SINGLE} | {"models": _stages(chain, MODELS)}
    return {role: [stage_dir(chain, name) for name in names] for role, names in found.items()}


def _input(chain: Path, name: str) -> Path:
    """The folder of a stage of the chain, or of another run that lies beside the chain's."""
    run, _, stage = name.rpartition("/")
    if not run:
        return stage_dir(chain, stage)
    above = chain.absolute().parent.parent
    run_dir = above if (above / RUN_JSON).is_file() else chain.absolute()  # of several seeds, or of one
    seed = (read_json(chain / RUN_JSON) or {}).get("seed")
    folder, problem = find_stage(run_dir.parent, run, stage, seed)
    if problem:
        raise InputError(f"the evaluation of {chain} {problem}; run it again")
    return folder


def _results(
    job: Job, suite: Sequence[str] | None, data_root: Path | None, command: str
) -> tuple[str, dict[str, Any]]:
    """Run the evaluate stage in a folder of its own on a chain's data; the chain's label and the results.

    Where it is interrupted, the folder keeps the answers of models and judge for the same command.
    """
    from pipeline.progress import make_reporter
    from pipeline.run import StageRun
    from pipeline.stages import evaluate as stage

    chain, models = job
    if not models:
        raise InputError(f"{chain} has no finished model yet; run it first")
    settings = dict(_evaluation(chain).get("config") or {}) if chain else {}
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
        inputs |= {kind: folders[0] for kind, folders in _inputs(chain).items() if kind in SINGLE and folders}
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
        stage.run(config, run, command=command)
        return label, json.loads((run.dir / "figures.json").read_text(encoding="utf-8"))


def _evaluation(chain: Path) -> dict[str, Any]:
    """The record of the chain's own evaluation; empty without one."""
    names = _stages(chain, ("evaluate",))
    return (read_json(stage_dir(chain, names[-1]) / STAGE_JSON) if names else None) or {}


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
