"""Asks base, SFT and aligned models the same questions and measures what each stage changed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from data import open_folder
from data.errors import InputError
from data.settings import Settings
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from pipeline.answers import Context
    from pipeline.measured import Measured
    from pipeline.records import Comparison, Figure, Record
    from pipeline.run import StageRun

EVALS = "pipeline.evals"
INPUTS = {
    "corpus": Input("corpus", optional=True),
    "models": Input(("pretrain", "pretrained", "sft", "ppo", "dpo", "rloo", "grpo", "peak"), many=True),
    "reward": Input("reward", many=True, optional=True),
    "preferences": Input("preferences", optional=True),
}
# Of the closed world, for the plan: tokens of a test item with its answer, size of an answer and its records.
TOKENS_PER_ANSWER, BYTES_PER_ANSWER = 35, 1_500


class Config(Settings):
    """How the models are asked; each evaluation of the suite has its own settings under its name."""

    suite: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="evaluations by file name in pipeline/evals, or whole suites (truthfulness, bias, ...); null "
        "runs all that need no data beside the run's",
    )
    temperature: float = Field(0.7, ge=0, description="divides the logits when answering; 0 is greedy")
    max_new_tokens: int = Field(64, gt=0, description="longest answer, tokens")
    max_items_per_group: int | None = Field(
        None, gt=0, description="most items of each task and group; null asks all"
    )
    untrained: bool = Field(
        True, description="ask the first model's architecture with fresh weights, too: a null of every figure"
    )
    batch_size: int = Field(
        256, gt=0, description="items answered together; changes no answer but by rounding"
    )


def config_class(section: dict[str, Any]) -> type[Settings]:
    """The settings with those of each evaluation of the suite."""
    suite = section.get("suite")
    return _with_options(tuple(sorted(evaluations(suite if isinstance(suite, list | tuple) else None))))


def evaluations(suite: Sequence[Any] | None) -> list[str]:
    """The evaluations that a suite names, each by its own name or by that of a whole suite.

    Without one, all that need no data beside the run's.

    Raises:
        InputError: a name that is neither.
    """
    modules = {name: open_folder.load(EVALS, name) for name in open_folder.names(EVALS)}
    if suite is None:
        return [name for name, module in modules.items() if not is_named_only(module)]
    suites = {module.SUITE for module in modules.values()}
    unknown = [str(name) for name in suite if name not in suites and name not in modules]
    if unknown:
        known = f"{', '.join(modules)}; suites {', '.join(sorted(suites))}"
        raise InputError(f"no evaluation {', '.join(unknown)}; there are {known}")
    return [name for name, module in modules.items() if name in suite or module.SUITE in suite]


def is_benchmark(module: ModuleType) -> bool:
    """Whether an evaluation brings its own questions, from files or the hub."""
    return hasattr(module, "files")


def is_named_only(module: ModuleType) -> bool:
    """Whether an evaluation runs only where it is named: a benchmark, or what costs more than scoring answers."""
    return is_benchmark(module) or getattr(module, "ON_REQUEST", False)


def loaded(config: Config) -> list[str]:
    """The modules of the evaluations that run, and of those whose records they read."""
    modules = suite_modules(config) | _where_they_can(config)
    return [f"{EVALS}.{name}" for name in sorted(modules.keys() | recorders(modules).keys())]


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the benchmarks among the evaluations, where they are there, and those that settings name."""
    return [
        path
        for name, module in suite_modules(config).items()
        for found in (getattr(module, "files", None), getattr(module, "own_files", None))
        if found
        for path in found(_options(config, name, module), data_root)
    ]


@cache
def _with_options(names: tuple[str, ...]) -> type[Settings]:
    options: dict[str, Any] = {}
    for name in names:
        model = open_folder.load(EVALS, name).Config
        if model.model_fields:
            options[name] = (model, Field(model(), description=f"settings of {name}"))
    made: type[Settings] = create_model("Config", __base__=Config, __module__=__name__, **options)
    return made


def cost(config: Config, context: CostContext) -> Cost:
    """One step is one answer to a test item of the closed world; of other corpora they are not known before."""
    models = [model for model in context.costs.get("models", ()) if model is not None]
    rewards = [reward for reward in context.costs.get("reward", ()) if reward is not None]
    parameters = sum(model.parameters for model in models)
    items = _num_items(config, context.configs.get("corpus"))
    notes = [] if items else ["the number of test items is known when the corpus is there"]
    own = [name for name, module in suite_modules(config).items() if is_named_only(module)]
    notes += [f"not counted: what {' and '.join(own)} ask besides"] if own else []
    return Cost(
        steps=len(models) * items,
        tokens=len(models) * items * TOKENS_PER_ANSWER,
        # All models stay loaded, with the reward model and its reference.
        memory_bytes=4 * parameters + 8 * sum(reward.parameters for reward in rewards),
        disk_bytes=len(models) * items * BYTES_PER_ANSWER,
        # Decoding takes about three times its operations' worth of time; the prompts take less, which is about
        # what the passes that score take.
        flops=3 * 2.0 * parameters * items * TOKENS_PER_ANSWER,
        note="; ".join(notes),
    )


def _num_items(config: Config, corpus: Any) -> int:
    """Test items of the closed world that are asked; 0 for other corpora."""
    if not hasattr(corpus, "test_questions_per_tier"):
        return 0
    groups = [corpus.test_questions_per_tier] * 4 + [corpus.test_harmful] * 2 + [corpus.test_stories]
    groups += [corpus.test_others] * len(corpus.other_tasks)
    sizes = [corpus.scaled(group) for group in groups]
    return sum(min(size, config.max_items_per_group or size) for size in sizes)


def run(config: Config, run: StageRun, *, command: str | None = None) -> None:
    """Answer, score and compare; the results are `records.jsonl` and `figures.json`.

    `command` reproduces the figures; it is the run's own where it is not given.
    """
    from pipeline.answers import Context, chosen_items, find_models, items_for_all
    from pipeline.records import write_records
    from pipeline.untrained import UNTRAINED, in_each_place, looks_at_models, untrained, with_null

    # 1. The models and the items that the suite asks for.
    modules = suite_modules(config) | _where_they_can(config)
    asked_for = modules | recorders(modules)
    options = {name: _options(config, name, module) for name, module in asked_for.items()}
    modules = _with_data(modules, options, config, run)
    models = find_models(run.inputs["models"], run.input_names.get("models"))
    everything = Context(run, models, _test_items(run), config, options)
    unasked = {name for name, module in _where_they_can(config).items() if not module.by_default(everything)}
    modules = {name: module for name, module in modules.items() if name not in unasked}
    modules = _that_can_run(modules, everything)
    needed = {
        item.id
        for module in recorders(modules).values()
        if hasattr(module, "items")
        for item in module.items(everything)
    }
    asked = [item for item in everything.items if item.id in needed]
    chosen = chosen_items(asked, config.max_items_per_group)
    fitting = items_for_all(everything, chosen) if chosen else []
    context = Context(run, everything.models, fitting, config, options)
    run.note(
        models=list(context.models),
        items=len(fitting),
        items_left_out=len(asked) - len(chosen),
        items_too_long=len(chosen) - len(fitting),
    )

    # 2. Every model answers every item once; every evaluation scores the same answers, or measures the models.
    records = scored(modules, context)
    run.note(records=len(records), unscored=sum(record.score != record.score for record in records))

    # 3. The same of an untrained model, for the nulls: by itself, or in the place of one of several models.
    nulls: dict[str, float] = {}
    in_place: dict[tuple[str, str], float] = {}
    if config.untrained:
        with untrained(context) as fresh:
            if fresh is not None:
                looked = {name: module for name, module in modules.items() if looks_at_models(module)}
                rows = scored(looked, fresh)
                nulls = values(measured_by(looked, rows, fresh))
                for name, module in of_several(looked).items():
                    told = by_stage(records, read_by(name, module))
                    noise = by_stage(rows, read_by(name, module)).get(UNTRAINED, [])
                    in_place |= in_each_place(module, told, noise, context)
                with run.publish(f"records.{UNTRAINED}.jsonl") as path:
                    write_records(path, rows)

    # 4. Figures with intervals and nulls, paired comparisons with verdicts.
    measured = [
        (name, with_null(row, nulls, in_place)) for name, row in measured_by(modules, records, context)
    ]
    results = summarise(measured, context, command=command or reproducing_command(run))
    with run.publish("records.jsonl") as path:
        write_records(path, records)
    with run.publish("figures.json") as path:
        _write(path, results)


def scored(modules: Mapping[str, ModuleType], context: Context) -> list[Record]:
    """The records that the evaluations read, each once, of every model's answer to every item."""
    from pipeline.answers import answer_all

    for stage in context.models if context.items else ():
        context.answers[stage] = answer_all(context, stage)
    records: list[Record] = []
    for name, module in recorders(modules).items():
        records += (
            score_answers(name, module, context) if module.KIND == "answers" else module.measure(context)
        )
        context.run.check_stop()
    return records


def measured_by(
    modules: Mapping[str, ModuleType], records: list[Record], context: Context
) -> list[tuple[str, Measured]]:
    """(evaluation, figure before its intervals), from the records."""
    return [
        (name, row)
        for name, module in modules.items()
        for row in module.figures(by_stage(records, read_by(name, module)), context)
    ]


def of_several(modules: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """The evaluations of which a figure is one of several models together."""
    return {name: module for name, module in modules.items() if getattr(module, "OF_SEVERAL", False)}


def values(measured: list[tuple[str, Measured]]) -> dict[str, float]:
    """The value of every figure of one model, where it is a number."""
    from pipeline.measured import value_of

    found = {row.name: value_of(row, rows) for _, row in measured for rows in row.scores.values()}
    return {name: value for name, value in found.items() if value == value}


def suite_modules(config: Config) -> dict[str, ModuleType]:
    """The evaluations of the suite by name."""
    return {name: open_folder.load(EVALS, name) for name in evaluations(config.suite)}


def _where_they_can(config: Config) -> dict[str, ModuleType]:
    """The evaluations that say of a run whether they are of its suite, where the settings name none."""
    modules = {name: open_folder.load(EVALS, name) for name in open_folder.names(EVALS)}
    return {
        name: module for name, module in modules.items() if not config.suite and hasattr(module, "by_default")
    }


def read_by(name: str, module: ModuleType) -> str:
    """The evaluation whose records an evaluation reads: its own, or those of the one that it names."""
    return str(getattr(module, "RECORDS", name))


def recorders(modules: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """The evaluations that leave the records of these, by name; not all of them need be of the suite."""
    names = sorted({read_by(name, module) for name, module in modules.items()})
    return {name: open_folder.load(EVALS, name) for name in names}


def _options(config: Config, name: str, module: ModuleType) -> Any:
    """The settings of one evaluation."""
    return getattr(config, name, None) or module.Config()


def _with_data(
    modules: dict[str, ModuleType], options: dict[str, Any], config: Config, run: StageRun
) -> dict[str, ModuleType]:
    """Leave out the benchmarks that only a whole suite names and for which the data root has no file; noted.

    Raises:
        InputError: nothing is left.
    """
    absent = [
        name
        for name, module in modules.items()
        if is_benchmark(module)
        and name not in (config.suite or ())
        and not module.files(options[name], run.data_root)
    ]
    remedy = "set FLEDGE_DATA to a folder that has them, or name one itself to have it from the hub"
    if absent:
        run.note(benchmarks_without_files=absent)
        run.say(f"left out, as there are no files of them: {', '.join(absent)}; {remedy}")
    if modules and len(absent) == len(modules):
        raise InputError(f"nothing to evaluate: no files of {', '.join(absent)}; {remedy}")
    return {name: module for name, module in modules.items() if name not in absent}


def _that_can_run(modules: dict[str, ModuleType], context: Context) -> dict[str, ModuleType]:
    """Leave out what only a whole suite names and what these models cannot be asked here; noted, with why.

    Raises:
        InputError: one that is named, or that has settings of its own, cannot run; or nothing is left.
    """
    left_out: dict[str, str] = {}
    for name, module in modules.items():
        if is_benchmark(module) or not hasattr(module, "items"):
            continue
        try:
            module.items(context)
        except InputError as error:
            if name in (context.config.suite or ()) or context.options[name] != module.Config():
                raise
            left_out[name] = str(error)
    if left_out:
        context.run.note(evaluations_left_out=left_out)
        context.run.say(f"left out, as they cannot run here: {'; '.join(left_out.values())}")
    if modules and len(left_out) == len(modules):
        raise InputError(f"nothing to evaluate: {'; '.join(left_out.values())}")
    return {name: module for name, module in modules.items() if name not in left_out}


def score_answers(name: str, module: ModuleType, context: Context) -> list[Record]:
    """The records of an evaluation that scores answers."""
    from pipeline.answers import shown_prompt
    from pipeline.records import Record

    return [
        Record(
            item.id,
            item.cluster,
            stage,
            name,
            score.measure,
            shown_prompt(item),
            answers[item.id].text,
            score.score,
            score.group or item.group,
            score.outcome,
            score.explanation,
            score.weight,
        )
        for stage, answers in context.answers.items()
        for item in module.items(context)
        for score in module.score(item, answers[item.id], context)
    ]


def by_stage(records: list[Record], evaluation: str) -> dict[str, list[Record]]:
    """The records of one evaluation by stage, in order."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.evaluation == evaluation:
            found.setdefault(record.stage, []).append(record)
    return found


def compared_stages(context: Context) -> list[tuple[str, str]]:
    """Pairs (before, after): every model against the one that it started from, and against the first."""
    names = list(context.models)
    pairs = [(model.parent, name) for name, model in context.models.items() if model.parent]
    pairs += [(names[0], name) for name in names[1:] if (names[0], name) not in pairs]
    return pairs


def summarise(measured: list[tuple[str, Measured]], context: Context, *, command: str) -> dict[str, Any]:
    """Figures, differences as figures, comparisons with verdicts, and how many items each figure leaves out."""
    from pipeline.measured import comparison_of, difference_figure, figures_of, with_verdicts
    from pipeline.records import to_json

    figures: list[Figure] = []
    raw: list[Comparison] = []
    commands: dict[str, tuple[str, str]] = {}
    for name, row in measured:
        reproduce = f"{command} --suite {name}"
        commands[row.name] = (row.unit, reproduce)
        figures += figures_of(row, seed=context.seed, command=reproduce)
        pairs = compared_stages(context) if row.compared else []
        found = (comparison_of(row, before, after, seed=context.seed) for before, after in pairs)
        raw += [comparison for comparison in found if comparison is not None]
    comparisons = with_verdicts(raw)
    for comparison in comparisons:
        unit, reproduce = commands[comparison.name]
        figures.append(difference_figure(comparison, unit=unit, seed=context.seed, command=reproduce))
    return {
        "models": [
            {
                "name": model.name,
                "parent": model.parent,
                "plain": model.plain,
                "kind": model.kind,
                "reference": model.reference,
            }
            for model in context.models.values()
        ],
        "figures": [to_json(figure) for figure in figures],
        "comparisons": [to_json(comparison) for comparison in comparisons],
        "unscored": [
            {"name": row.name, "stage": stage, "num": num}
            for _, row in measured
            for stage, rows in row.scores.items()
            if (num := sum(item.score != item.score for item in rows))
        ],
    }


def reproducing_command(run: StageRun) -> str:
    """The command that measures a figure again, without any path."""
    from pipeline.run_directory import RUN_JSON, read_json

    record = read_json(run.run_dir / RUN_JSON) or {}
    return f"fledge evaluate {record.get('name') or record.get('recipe', 'RUN')}"


def _test_items(run: StageRun) -> list[Any]:
    from data.rows import Item, read_jsonl

    corpus = run.inputs.get("corpus")
    path = corpus / "items.test.jsonl" if isinstance(corpus, Path) else None
    return read_jsonl(path, Item) if path is not None and path.exists() else []


def _write(path: Path, value: Any) -> None:
    import json

    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
