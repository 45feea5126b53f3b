"""`fledge evaluate`: the evaluations on runs, stages and any Hugging Face model, outside a recipe."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.errors import InputError
from pipeline.figures_text import print_figures
from pipeline.graph import changed_settings, data_root_of, redact_change
from pipeline.kept_evaluation import keep, keep_seeds, new_folder
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
    from pipeline.stages.evaluate import Config

NAME = "evaluate"
MODELS = ("pretrain", "pretrained", "sft", "ppo", "dpo", "rloo", "grpo", "peak")
RUNS = Path("runs")
SIDES = ("before", "after")
SINGLE = ("corpus", "preferences")  # the roles that one folder fills


def evaluate(
    sources: Sequence[str],
    *,
    suite: Sequence[str] | None = None,
    data: str | None = None,
    data_root: str | None = None,
    runs_dir: Path = RUNS,
    as_json: bool = False,
    to: Path | None = None,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate runs or models and print the figures.

    Returns them in the shape of report.json, with the comparisons, with how many items of a figure could not be
    scored, and with the notes of the evaluation.

    Args:
        sources: one run (the models that its evaluation compares, or all), or stage folders, Hugging Face
            folders or ids.
        suite: evaluations by name, or whole suites; None takes all that need no data beside the run's.
        data: the run whose items, pairs and texts are used; needed where no source belongs to a run and the
            suite names no benchmark, which brings its own.
        data_root: the folder of the benchmarks' files; None takes FLEDGE_DATA.
        runs_dir: where runs are looked for by name.
        as_json: print JSON instead of a table.
        to: a new folder for the records, figures and notes, and a page of them; None keeps nothing.
        changes: `--set` changes of the settings, such as "judge.url=http://localhost:8000/v1".

    Raises:
        InputError: an unknown evaluation or run, or no data to evaluate on, or a folder that holds something.
    """
    from rich.console import Console

    started = time.monotonic()
    wanted = None if suite is None else _checked(suite)
    root = data_root_of(data_root)
    command = _command(sources, data_root, runs_dir, changes)
    jobs = _jobs(sources, data, runs_dir, benchmarks=bool(wanted))
    with new_folder(to) as folder:
        found = [
            _results(job, _config(job.chain, suite, changes), root, command, folder, of_several=len(jobs) > 1)
            for job in jobs
        ]
        if folder and len(jobs) > 1:
            keep_seeds(folder, found[0].label, found[0].precision, [part.seed for part in found])
    results: dict[str, Any] = {
        "run": _one_or_all([part.label for part in found]),
        "recipe": None,
        "figures": _joined(found, "figures"),
        "comparisons": _joined(found, "comparisons"),
        "unscored": _joined(found, "unscored"),
        "notes": _one_or_all([part.notes for part in found]),
        "timings": {"seconds": time.monotonic() - started},
    }
    if as_json:
        print(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        for part in found:
            print_figures(part.label, part.results, Console())
        if to:
            print(f"kept in {to}; the page is {to / 'report.html'}")
    return results


class Found(NamedTuple):
    """What one evaluation found: its label, seed and number format, what its figures.json holds, and notes."""

    label: str
    seed: int
    precision: str
    results: dict[str, Any]
    notes: dict[str, Any]


def _one_or_all(values: list[Any]) -> Any:
    return values if len(values) > 1 else values[0]


def _joined(found: Sequence[Found], name: str) -> list[Any]:
    return [value for part in found for value in part.results[name]]


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


def _command(sources: Sequence[str], data_root: str | None, runs_dir: Path, changes: Sequence[str]) -> str:
    """The command as it was given, without the suite: each figure names its own."""
    options = ["--data-root", data_root] if data_root else []
    options += ["--runs-dir", str(runs_dir)] if runs_dir != RUNS else []
    options += [word for change in changes for word in ("--set", redact_change(change))]
    return shlex.join(["fledge", "evaluate", *sources, *options])


class Job(NamedTuple):
    """Models that are evaluated together, on the data of a chain; None where benchmarks bring their own."""

    chain: Path | None
    models: list[Path]
    rewards: tuple[Path, ...] = ()  # in place of the chain's


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
    rewards = tuple(reward for job in named for reward in job.rewards)
    if data is not None:
        return [Job(_chains(find_run(runs_dir, data))[0], models, rewards)]
    owners = [job.chain for job in named if job.chain]
    if not owners and not benchmarks:
        raise InputError(
            f"{', '.join(sources)}: no run to take the questions from; evaluate a run or a stage of one, name "
            "one as well (fledge evaluate RUN MODEL), or name benchmarks: --suite truthfulness,bias"
        )
    owner = owners[0] if owners else None
    return [Job(owner, models or _inputs(owner)["models"] if owner else models, rewards)]


def _is_run(source: str, runs_dir: Path) -> bool:
    return any((path / RUN_JSON).is_file() for path in (Path(source), runs_dir / source))


def _named(source: str, runs_dir: Path) -> Job:
    """What a source names: the models of a run, one of its stages (`run/stage`), or a model itself.

    A reward stage is no model to ask: it judges, several by their mean, and alone the models of its run.
    """
    if _is_run(source, runs_dir):
        chain = _chains(find_run(runs_dir, source))[0]
        return Job(chain, _inputs(chain)["models"])
    run, _, stage = source.rpartition("/")
    if run and _is_run(run, runs_dir):
        chain = _chains(find_run(runs_dir, run))[0]
        if stage in finished_stages(chain):
            return _of_stage(stage_dir(chain, stage))
    path = Path(source)
    return _of_stage(path) if (path / STAGE_JSON).is_file() else Job(None, [path])


def _of_stage(folder: Path) -> Job:
    chain = folder.parent.parent
    is_reward = (read_json(folder / STAGE_JSON) or {}).get("stage") == "reward"
    return Job(chain, [], (folder,)) if is_reward else Job(chain, [folder])


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
    """The folders that a chain's own evaluation reads, by role.

    Without one they are all models, all reward models, and the last of the rest.

    Raises:
        InputError: a stage of another run among them is not there any more.
    """
    recorded = _evaluation(chain).get("inputs") or {}
    if recorded.get("models"):
        return {role: [_input(chain, name) for name, _ in pairs] for role, pairs in recorded.items()}
    found = {kind: _stages(chain, (kind,))[-1:] for kind in SINGLE}
    found |= {"reward": _stages(chain, ("reward",)), "models": _stages(chain, MODELS)}
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
    job: Job,
    config: Config,
    data_root: Path | None,
    command: str,
    to: Path | None,
    *,
    of_several: bool,
) -> Found:
    """Run the evaluate stage in a folder of its own on a chain's data; what it left is copied to `to`.

    Where it is interrupted, the folder keeps the answers of models and judge for the same command.
    """
    from pipeline.progress import make_reporter
    from pipeline.run import StageRun
    from pipeline.stages import evaluate as stage

    chain, models, rewards = job
    if not models:
        raise InputError(f"{chain} has no finished model yet; run it first")
    inputs: dict[str, Any] = {"models": models}
    record: dict[str, Any] = {}
    label = " ".join(path.name for path in models)
    if chain:
        record = read_json(chain / RUN_JSON) or {}
        label = record.get("recipe", chain.name)
        own = _inputs(chain)
        inputs |= {kind: own[kind][0] for kind in SINGLE if own.get(kind)}
        rewards = rewards or tuple(own.get("reward", ()))
    inputs |= {"reward": rewards} if rewards else {}
    seed = int(record.get("seed") or 0)
    what: dict[str, Any] = {"settings": config.model_dump(mode="json"), "seed": seed, "label": label}
    with kept_work(what, [*models, *(inputs[kind] for kind in SINGLE if kind in inputs), *rewards]) as folder:
        run = StageRun(
            NAME,
            folder,
            seed=seed,
            inputs=inputs,
            precision=record.get("precision", "float32"),
            data_root=data_root,
            reporter=make_reporter(),
        )
        stage.run(config, run, command=command)
        results = json.loads((run.dir / "figures.json").read_text(encoding="utf-8"))
        if to:
            keep(to, run, what["settings"], label, command, of_several=of_several)
        return Found(label, seed, run.precision, _judged(results), run.notes)


def _evaluation(chain: Path) -> dict[str, Any]:
    """The record of the chain's own evaluation; empty without one."""
    names = _stages(chain, (NAME,))
    return (read_json(stage_dir(chain, names[-1]) / STAGE_JSON) if names else None) or {}


def _config(chain: Path | None, suite: Sequence[str] | None, changes: Sequence[str]) -> Config:
    """The settings of the chain's own evaluation, as far as the suite has them, with the changes.

    Raises:
        InputError: a change that no evaluation of the suite can take.
    """
    from pipeline.config import validate
    from pipeline.stages import evaluate as stage

    settings = dict(_evaluation(chain).get("config") or {}) if chain else {}
    if suite is not None:
        settings["suite"] = list(suite)
    model = stage.config_class(changed_settings(NAME, settings, changes).plain())
    known = {name: value for name, value in settings.items() if name in model.model_fields}
    config, problems = validate(model, changed_settings(NAME, known, changes), NAME)
    if problems:
        raise InputError(problems)
    assert isinstance(config, stage.Config)
    return config


def _judged(results: dict[str, Any]) -> dict[str, Any]:
    """The results, where a change between two figures at chance has no verdict but that."""
    from pipeline.records import Figure, from_json
    from pipeline.report.tables import AT_CHANCE, at_chance

    figures = [from_json(Figure, row) for row in results["figures"]]
    guessed = {(figure.name, figure.stage) for figure in figures if at_chance(figure)}
    comparisons = [
        row | ({"verdict": AT_CHANCE} if {(row["name"], row[side]) for side in SIDES} <= guessed else {})
        for row in results["comparisons"]
    ]
    return results | {"comparisons": comparisons}
