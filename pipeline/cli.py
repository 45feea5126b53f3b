"""The command `fledge`: thin commands over the modules that do the work.

Exit codes: 0 done, 1 our fault, 2 the user's input, 3 a gate stopped the run, 130 interrupted, 143 terminated.
Results go to standard output, progress and errors to standard error. Everything heavy is imported where it is
used, so that `fledge --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from data.errors import InputError
from pipeline.cli_text import answer, format_catalog, format_check, format_explanation, print_json, told
from pipeline.errors import GateStopped, Interrupted, TrainingFault

app = typer.Typer(
    name="fledge",
    help="Turn a small GPT into a chat model by the whole recipe, and measure what each stage did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="List data sources, check a file against a schema, fetch a data set from the hub.",
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a built-in recipe.")]
RunArgument = Annotated[
    str, typer.Argument(help="Name of a run in the runs folder, or the path of its folder.")
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the runs.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run; the recipe's name by default.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change seed, ... or STAGE.KEY; repeatable."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")]
Since = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Start at this stage.")]
Only = Annotated[str | None, typer.Option("--only", metavar="STAGE", help="This stage alone.")]
Force = Annotated[
    bool, typer.Option("--force", help="Run the selected stages anew; replace another recipe's run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Prompt = Annotated[list[str] | None, typer.Option("--prompt", help="A prompt; repeatable.")]
Stages = Annotated[str | None, typer.Option("--stages", help="Stages by name, separated by commas.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="Sampling temperature; 0 is greedy.")
]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="Longest answer in tokens.")]
RUNS = Path("runs")
# Of the system, about a path that somebody gave: too long, in a loop, not ours to read or write.
PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("fledge"))
        raise typer.Exit


@app.callback()
def fledge(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a small GPT into a chat model by the whole recipe, and measure what each stage did."""


@app.command()
def run(
    recipe: RecipeArgument,
    runs_dir: RunsDir = RUNS,
    name: Name = None,
    changes: Set = None,
    until: Until = None,
    since: Since = None,
    only: Only = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, or resume it: the same command continues after any interruption."""
    from pipeline.execute import execute
    from pipeline.graph import load_recipe
    from pipeline.progress import make_reporter
    from pipeline.schedule import Selection

    _quiet_libraries()
    loaded = load_recipe(recipe, changes or (), runs_dir=runs_dir)
    selection = Selection(until=until, since=since, only=only, force=force)
    result = execute(loaded, runs_dir=runs_dir, name=name, selection=selection, reporter=make_reporter())
    report = result.path / "report.html"
    if loaded.settings.seeds and any(spec.kind == "report" for spec in loaded.stages):
        from pipeline.report import rebuild

        rebuild([result.path])  # over all seeds
    if as_json:
        stages = [vars(stage) for stage in result.stages]
        print_json(
            {"run": str(result.path), "stages": stages, "report": str(report) if report.is_file() else None}
        )
    else:
        _print_summary(result.path)
    if result.faults:
        raise TrainingFault(
            "; ".join((*result.faults, "the other seeds went on, the same command tries it again"))
        )


@app.command()
def plan(
    recipe: RecipeArgument,
    runs_dir: RunsDir = RUNS,
    name: Name = None,
    changes: Set = None,
    until: Until = None,
    since: Since = None,
    only: Only = None,
    force: Force = False,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Time a few steps on this machine.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Show what would run and why, with its size and time; nothing is written."""
    from pipeline.graph import load_recipe
    from pipeline.plan import format_plan, make_plan
    from pipeline.schedule import Selection

    _quiet_libraries()
    loaded = load_recipe(recipe, changes or (), runs_dir=runs_dir)
    selection = Selection(until=until, since=since, only=only, force=force)
    found = make_plan(loaded, runs_dir=runs_dir, name=name, selection=selection, probe=probe)
    answer(found, as_json, format_plan)


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="Name or folder of a run; all runs by default.")] = None,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show where a run stands, also while it runs."""
    from pipeline.run_directory import find_run, list_runs
    from pipeline.status import format_status, run_status

    paths = [find_run(runs_dir, run)] if run else [runs_dir / name for name in list_runs(runs_dir)]
    found = [run_status(path) for path in paths]
    if as_json:
        print_json(found[0] if run else found)
        return
    print(
        "\n".join(map(format_status, found)) or f"no run in {runs_dir} yet; start one: fledge run quickstart"
    )


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the built-in recipes, stages, data sources, rewards and evaluations."""
    from pipeline.catalog import catalog

    answer(catalog(), as_json, format_catalog)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="A setting (sft.learning_rate) or a thing (ppo).")],
    as_json: AsJson = False,
) -> None:
    """Explain a setting: its meaning, default and range; or a stage, source, reward or evaluation."""
    from pipeline.catalog import explain as explain_key

    answer(explain_key(key), as_json, format_explanation)


@app.command()
def doctor(runs_dir: RunsDir = RUNS, as_json: AsJson = False) -> None:
    """Examine the machine and the installation; exit code 2 when something is missing."""
    from pipeline.doctor import examine, format_examination

    found = examine(runs_dir)
    answer(found, as_json, format_examination)
    if found["problems"]:
        raise typer.Exit(2)


@app.command()
def compare(
    run: RunArgument,
    prompt: Prompt = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="File of prompts, one a line or .jsonl.")
    ] = None,
    stages: Stages = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    max_new_tokens: MaxNewTokens = None,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Put the same prompts, with the same seed, through the stages of a run."""
    from pipeline.chat.compare import compare as compare_stages
    from pipeline.chat.compare import read_prompts

    _quiet_libraries()
    asked = [*(prompt or ()), *(read_prompts(prompts) if prompts else ())]
    options = _given(temperature=temperature, max_new_tokens=max_new_tokens)
    compare_stages(
        _model_or_run(runs_dir, run), asked, stages=_split(stages), seed=seed, as_json=as_json, **options
    )


@app.command()
def chat(
    run: RunArgument,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Stage to talk to; the last one by default.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", help="Stages side by side: base,sft,ppo.")
    ] = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    max_new_tokens: MaxNewTokens = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Talk to a stage of a run in the terminal, or to several side by side."""
    from pipeline.chat.terminal import chat as chat_in_terminal

    _quiet_libraries()
    options = _given(temperature=temperature, max_new_tokens=max_new_tokens)
    chat_in_terminal(_model_or_run(runs_dir, run), stage=stage, compare=_split(compare), seed=seed, **options)


@app.command()
def serve(
    run: RunArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8365,
    host: Annotated[
        str, typer.Option("--host", help="Address; on any but this machine's own a token is asked for.")
    ] = "127.0.0.1",
    stages: Annotated[
        str | None, typer.Option("--stages", help="Stages to serve, separated by commas; all by default.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="FLEDGE_TOKEN", help="Token that requests must carry.", show_default=False
        ),
    ] = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Serve a run: a page with its stages side by side, votes, and an OpenAI-compatible API."""
    try:
        from pipeline.chat.server import serve as serve_run
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; `pip install 'fledge[web]'` brings it") from error
    _quiet_libraries()
    serve_run(_model_or_run(runs_dir, run), host=host, port=port, token=token, stages=_split(stages))


@app.command()
def evaluate(
    model: Annotated[list[str], typer.Argument(help="Runs, stage folders, or Hugging Face folders or ids.")],
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="Evaluations, or suites (truthfulness, bias, ...), separated by commas."
        ),
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option("--data-root", help="Folder of the benchmarks' files; FLEDGE_DATA by default."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting, such as judge.url or temperature; repeatable.",
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="New folder for records, figures, notes and a page of them.")
    ] = None,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Evaluate any model or run; several models are compared on the same items."""
    from pipeline.evaluation import evaluate as evaluate_models

    _quiet_libraries()
    evaluate_models(
        model,
        suite=_split(suite),
        data_root=data_root,
        runs_dir=runs_dir,
        as_json=as_json,
        to=to,
        changes=changes or (),
    )


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="One run, or several to compare.")],
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Rebuild the report of a run; of several runs, compare them."""
    from pipeline.report import rebuild
    from pipeline.run_directory import find_run

    paths = rebuild([find_run(runs_dir, run) for run in runs])
    answer({"reports": [str(path) for path in paths]}, as_json, lambda found: "\n".join(found["reports"]))


@app.command()
def export(
    run: RunArgument,
    stage: Annotated[str, typer.Option("--stage", help="Stage whose model is exported.")],
    to: Annotated[Path, typer.Option("--to", help="New folder for the model.")],
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Export a stage's model as a Hugging Face folder with card and chat template."""
    from pipeline.export import export as export_model
    from pipeline.run_directory import find_run

    _quiet_libraries()
    path = export_model(find_run(runs_dir, run), stage, to)
    answer({"folder": str(path or to)}, as_json, lambda found: found["folder"])


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """List data sources, check a file against a schema, fetch a data set from the hub."""
    if context.invoked_subcommand is None:
        data_list()


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the data sources and the kinds of rows that they give."""
    from pipeline.data_command import list_sources

    answer(
        list_sources(),
        as_json,
        lambda found: "\n".join(
            f"{name:<24} {', '.join(it['kinds']):<22} {it['about']}" for name, it in found.items()
        ),
    )


@data_app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help="A .jsonl file, plain or gzip.")],
    schema: Annotated[str, typer.Option("--schema", help="text, chat, preferences or items.")],
    as_json: AsJson = False,
) -> None:
    """Check every row of a file against a schema; exit code 2 when a row is malformed."""
    from pipeline.data_command import check_file

    found = check_file(file, schema)
    answer(found, as_json, format_check)
    if found["malformed"] or not found["num_rows"]:
        raise typer.Exit(2)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Data set on the Hugging Face hub, such as owner/name.")],
    to: Annotated[Path, typer.Option("--to", help="New folder for the rows, one .jsonl a split.")],
    config: Annotated[str | None, typer.Option("--config", help="Configuration of the data set.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="One split; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a data set from the hub to plain files; needs the network."""
    from pipeline.data_command import fetch

    answer(fetch(name, to, config=config, split=split), as_json, lambda found: json.dumps(found["num_rows"]))


def main() -> NoReturn:
    """Run the command line and leave with the exit code of what happened."""
    from pipeline.progress import protect_output

    protect_output()
    sys.exit(run_safely(lambda: app(sys.argv[1:], prog_name="fledge", standalone_mode=False)))


def run_safely(work: Callable[[], Any]) -> int:
    """Do the work, print what went wrong in words, and return the exit code."""
    from pipeline.checkpoint import StorageFault

    try:
        code = work()
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _fail(error.problems, 2)
    except GateStopped as error:
        return _fail([str(error)], 3)
    except (TrainingFault, StorageFault) as error:
        return _fail([str(error)], 1)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if hasattr(error, "show") and hasattr(
            error, "exit_code"
        ):  # typer's: the command line cannot be parsed
            error.show()
            return int(error.exit_code)
        if isinstance(error, OSError) and error.errno in PATH_ERRORS:
            return _fail([f"{str(error.filename)[:80]}: {error.strerror}; give another path"], 2)
        print(told(traceback.format_exc()), file=sys.stderr)  # our fault: the whole story
        return 1


def _fail(problems: list[str], code: int) -> int:
    for problem in problems:
        print(f"error: {told(problem)}", file=sys.stderr)
    return code


def _quiet_libraries() -> None:
    """Keep other people's notices and bars off the screen, and their workers from surprising us."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)


def _model_or_run(runs_dir: Path, given: str) -> Path:
    """A run by name or folder; any other existing folder is taken as a model."""
    from pipeline.run_directory import find_run

    path = Path(given)
    return path if path.is_dir() else find_run(runs_dir, given)


def _print_summary(run_dir: Path) -> None:
    """What each stage did, some prompts answered side by side, and where the report is."""
    from rich.console import Console

    from pipeline.report.summary import print_summary

    print_summary(run_dir, Console())


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _split(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",") if name.strip()] if names is not None else None
