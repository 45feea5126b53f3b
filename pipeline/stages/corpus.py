"""Collects the rows of one or more sources: checked, deduplicated, split, and free of exact leakage.

Writes `text.train.jsonl`, `text.valid.jsonl`, `chat.train.jsonl`, `chat.valid.jsonl`, `items.rl.jsonl`,
`items.test.jsonl`, `preferences.train.jsonl`, `preferences.test.jsonl` (those that have rows), what a source adds
(`world.json`), and `counts.json` with the number of rows, clusters and characters and all that was removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from data import open_folder
from data.errors import InputError
from data.rows import (
    Collected,
    Row,
    TextRow,
    content_hash,
    counted,
    deduplicate,
    drop_unusable,
    leaked,
    prompt_hash,
    to_dict,
    write_jsonl,
)
from data.settings import Settings
from pipeline.checkpoint import write_json
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS: dict[str, Input] = {}
IGNORES_PRECISION = True
SOURCES = "data.sources"
KINDS = ("text", "chat", "preferences", "items")

# Evaluation file, training files that must not hold the same, and what is compared.
_EVALUATION = (
    ("text.valid", ("text.train",), content_hash),
    ("chat.valid", ("chat.train",), content_hash),
    ("preferences.test", ("preferences.train",), content_hash),
    ("items.test", ("chat.train", "items.rl", "preferences.train"), prompt_hash),
)

# Of the closed world, for each token of its text: size of all files, and of all rows in memory (measured).
DISK_PER_TOKEN, MEMORY_PER_TOKEN = 12, 250

Rows = dict[str, list[Any]]


class Config(Settings):
    """Settings of the corpus stage, to which those of its source are added.

    `source` names one source, whose settings stand beside it; or several, as a list of names or, with their
    settings, as a mapping: `source: {dolly: {rl_share: 0.3}, hh_rlhf: {}}`.
    """

    source: Any = Field(
        "world", description="The source of the rows: a file name in data/sources, or several."
    )
    leakage: Literal["refuse", "drop", "allow"] = Field(
        "refuse", description="What to do with training rows that also stand in the evaluation."
    )
    max_unusable_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Refuse rows of which more than this share are empty or have equal completions.",
    )


def config_class(section: Mapping[str, Any]) -> type[Settings]:
    """The settings of a corpus section: those of the stage and of the source or sources that it names.

    Raises:
        InputError: `source` is not a name, a list of names or a mapping, or names no source.
    """
    source = section.get("source", "world")
    if isinstance(source, str):
        module = open_folder.load(SOURCES, source)
        clash = sorted(set(module.Config.model_fields) & set(Config.model_fields))
        assert not clash, f"{source} has settings of the corpus stage: {clash}"
        named: Any = (Literal[source], Field(source, description=Config.model_fields["source"].description))
        return create_model("Config", __base__=(Config, module.Config), source=named)
    models = {name: open_folder.load(SOURCES, name).Config for name in _several(source)}
    needing = [
        name
        for name, model in models.items()
        if not isinstance(source, Mapping)
        and any(field.is_required() for field in model.model_fields.values())
    ]
    if needing:
        raise InputError(f"{needing[0]} needs settings; write `source: {{{needing[0]}: {{path: ...}}, ...}}`")
    if isinstance(source, Mapping):
        # `dolly:` with nothing behind it is dolly with its defaults.
        nothing = BeforeValidator(lambda value: {} if value is None else value)
        fields: dict[str, Any] = {name: (Annotated[model, nothing], ...) for name, model in models.items()}
        sections: Any = create_model("Sources", __base__=Settings, **fields)
        return create_model("Config", __base__=Config, source=(sections, ...))
    names: Any = (tuple[Literal[tuple(models)], ...], ...)  # type: ignore[misc]
    return create_model("Config", __base__=Config, source=names)


def _several(source: object) -> list[str]:
    names = list(source) if isinstance(source, list | tuple | Mapping) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError(
            f"source is {source!r}; accepted are a name, a list of different names, or names with their settings "
            f"(there are: {', '.join(open_folder.names(SOURCES))})"
        )
    return names


def sources(config: Any) -> list[tuple[str, ModuleType, Any]]:
    """The sources of a resolved config, each with its module and its own settings."""
    if isinstance(config.source, str):
        module = open_folder.load(SOURCES, config.source)
        own = module.Config(**{name: getattr(config, name) for name in module.Config.model_fields})
        return [(config.source, module, own)]
    if isinstance(config.source, Settings):
        parts = [(name, getattr(config.source, name)) for name in type(config.source).model_fields]
        return [(name, open_folder.load(SOURCES, name), own) for name, own in parts]
    modules = [(name, open_folder.load(SOURCES, name)) for name in config.source]
    return [(name, module, module.Config()) for name, module in modules]


def files(config: Any, data_root: Path | None) -> list[Path]:
    """The files that the sources read."""
    return [path for _, module, own in sources(config) for path in module.files(own, data_root)]


def cost(config: Any, context: CostContext) -> Cost:
    """Tokens of the training text, where every source of text has a `num_tokens` to announce them."""
    writing = [(module, own) for _, module, own in sources(config) if "text" in module.KINDS]
    if not writing or not all(hasattr(module, "num_tokens") for module, _ in writing):
        return Cost(note="the amount of text is known when the corpus is there")
    tokens = sum(module.num_tokens(own) for module, own in writing)
    return Cost(tokens=tokens, memory_bytes=MEMORY_PER_TOKEN * tokens, disk_bytes=DISK_PER_TOKEN * tokens)


def run(config: Any, run: StageRun) -> None:
    """Read every source, check and deduplicate its rows, refuse leakage, write the files and the counts."""
    rows: Rows = {}
    notes: dict[str, Any] = {}
    removed: dict[str, dict[str, int]] = {}
    allowed: list[str] = []
    extra: dict[str, Any] = {}

    # 1. Each source by itself: what counts as a duplicate is the source's affair.
    chosen = sources(config)
    with run.progress("read the sources", len(chosen), "sources") as progress:
        for name, module, own in chosen:
            run.check_stop()
            collected: Collected = module.read(own, seed=run.seed, data_root=run.data_root)
            for file, of_file in _by_file(collected).items():
                kept, counts = _sound(of_file, f"{name}: {file}", config, keep=collected.keep_duplicates)
                rows.setdefault(file, []).extend(kept)
                _add(removed.setdefault(file, {}), counts)
            notes[name] = collected.notes
            extra.update(collected.extra)
            allowed += [collected.allowed_leakage] if collected.allowed_leakage else []
            progress.advance(1)

    # 2. All together: ids, leakage, and whether anything is left.
    _check_ids(rows)
    leaks = _leakage(rows, config.leakage, allowed, removed)
    _check_splits(rows, removed)

    # 3. The files; those of an earlier source are gone.
    for path in run.dir.glob("*.jsonl"):
        if path.name != "metrics.jsonl" and path.name.removesuffix(".jsonl") not in rows:
            path.unlink()
    for file, of_file in rows.items():
        with run.publish(f"{file}.jsonl") as path:
            write_jsonl(path, of_file)
    for file, content in extra.items():
        with run.publish(file) as path:
            write_json(path, content)
    totals: dict[str, Any] = {
        "rows": {file: len(of_file) for file, of_file in rows.items()},
        "clusters": {file: len({row.cluster for row in of_file}) for file, of_file in rows.items()},
        "characters": {file: sum(map(num_characters, of_file)) for file, of_file in rows.items()},
        "removed": {file: reasons for file, reasons in removed.items() if reasons},
        "leakage": leaks,
        "sources": notes,
    }
    with run.publish("counts.json") as path:
        write_json(path, totals)
    run.note(**{name: totals[name] for name in ("rows", "characters", "removed", "leakage")})


def _by_file(collected: Collected) -> Rows:
    return {
        f"{kind}.{split}": of_split
        for kind in KINDS
        for split, of_split in getattr(collected, kind).items()
        if of_split
    }


def _sound(rows: list[Any], what: str, config: Any, *, keep: bool) -> tuple[list[Any], dict[str, int]]:
    """Leave out rows that cannot be used and, unless they are to be kept, identical ones; count both."""
    usable, counts = drop_unusable(rows, what=what, max_share=config.max_unusable_share)
    unique, identical = deduplicate(usable)
    if keep:
        return usable, counts | {f"{reason} (kept)": count for reason, count in identical.items()}
    return unique, counts | identical


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        total[reason] = total.get(reason, 0) + count


def _check_ids(rows: Rows) -> None:
    for file, of_file in rows.items():
        seen: set[str] = set()
        for row in of_file:
            if row.id in seen:
                raise InputError(
                    f"{file}: the id {row.id!r} stands there twice; give every row an id of its own"
                )
            seen.add(row.id)


def _leakage(
    rows: Rows, action: str, allowed: list[str], removed: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Count training rows that stand in the evaluation; refuse, drop or allow them.

    Raises:
        InputError: there are some, and neither the setting nor a source allows it.
    """
    found: dict[str, Any] = {}
    for evaluation, training, by in _EVALUATION:
        for file in training:
            ids = leaked(rows.get(file, []), rows.get(evaluation, []), by=by)
            if not ids:
                continue
            found[f"{file} in {evaluation}"] = len(ids)
            if action == "drop":
                gone = set(ids)
                rows[file] = [row for row in rows[file] if row.id not in gone]
                _add(removed.setdefault(file, {}), {f"also in {evaluation}": len(ids)})
            elif action == "refuse" and not allowed:
                raise InputError(
                    f"{len(ids)} rows of {file} also stand in {evaluation} (the first: {ids[0]!r}); "
                    "separate them, or set leakage to drop (leaves them out of training) or allow"
                )
    return found | ({"allowed because": allowed} if found and allowed and action == "refuse" else {})


def _check_splits(rows: Rows, removed: dict[str, dict[str, int]]) -> None:
    """Refuse a corpus without rows, or one of whose files the filters left nothing."""
    empty = [file for file in removed if not rows.get(file)]
    if empty or not rows:
        raise InputError(
            [f"{file}: no row is left ({counted(removed[file])}); give other data" for file in empty]
            or "the sources gave no rows; give other data or loosen their filters"
        )


def num_characters(row: Row) -> int:
    """The length of everything that a row says, in characters."""
    if isinstance(row, TextRow):
        return len(row.text)
    record = to_dict(row)
    turns = [turn for name in ("messages", "prompt", "chosen", "rejected") for turn in record.get(name, ())]
    return sum(len(turn["content"]) for turn in turns)
