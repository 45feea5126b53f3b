"""A run on the disk: names, the lock, what each stage's record says; everything inside is relative."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline.checkpoint import (
    DISCARDED,
    STAGING,
    Manifest,
    damage,
    files_under,
    fsync_tree,
    manifest_of,
    remove,
    write_json,
)
from pipeline.config import suggest

RUN_JSON, STAGE_JSON, BEGUN_JSON, NOTES_JSON = "run.json", "stage.json", "begun.json", "notes.json"
MODEL_CONFIGS = ("config.json", "adapter_config.json")
FAULT_JSON = "fault.json"  # why one of several seeds stopped here: its last step and the cause
CHECKPOINTS, LOCK = "checkpoints", "run.lock"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")


def check_name(name: str) -> str | None:
    """What is wrong with a run's name, or None."""
    if _NAME.match(name):
        return None
    return f"{name[:80]!r} is not accepted: letters, digits, `.`, `_` and `-`, at most 64, no leading dot"


def run_path(runs_dir: Path, name: str) -> Path:
    """The folder of a run; InputError for a name that is not allowed or leads out of the runs folder."""
    problem = check_name(name)
    if problem:
        raise InputError(f"run name {problem}")
    path = runs_dir / name
    if path.resolve().parent != runs_dir.resolve():
        raise InputError(f"run {name} leads out of {runs_dir} to {path.resolve()}; choose another name")
    return path


def find_run(runs_dir: Path, given: str) -> Path:
    """An existing run: a name under the runs folder, or a path to its folder."""
    for path in (Path(given), runs_dir / given):
        if (path / RUN_JSON).is_file():
            return path
    known = list_runs(runs_dir)
    there = f" (there are: {', '.join(known)})" if known else " (there is none yet)"
    raise InputError(f"no run {given!r} in {runs_dir}{suggest(given, known)}{there}")


def list_runs(runs_dir: Path) -> list[str]:
    """Names of the runs under a folder, the newest first."""
    found = [path.parent for path in runs_dir.glob(f"*/{RUN_JSON}")] if runs_dir.is_dir() else []
    return [path.name for path in sorted(found, key=lambda path: -(path / RUN_JSON).stat().st_mtime)]


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None where there is none that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def stage_dir(run_dir: Path, stage: str) -> Path:
    """Where a stage's results lie."""
    return run_dir / "stages" / stage


def seed_dir(run_dir: Path, seed: int) -> Path:
    """Where the chain of one of several seeds lies."""
    return run_dir / "seeds" / str(seed)


def is_base(record: Mapping[str, Any]) -> bool:
    """Whether a stage's record is of a model without chats: pretrained here, or given without a template."""
    if record.get("stage") == "pretrained":
        return bool((record.get("notes") or {}).get("base"))
    return record.get("stage") == "pretrain"


def find_stage(runs_dir: Path, run: str, stage: str, seed: int | None) -> tuple[Path, str | None]:
    """The folder of a finished stage of another run, and what is wrong with it if anything.

    Where that run holds several seeds, the chain of the same seed is taken.
    """
    problem = check_name(run)
    if problem:
        return runs_dir, f"names run {problem}"
    run_dir = runs_dir / run
    record = read_json(run_dir / RUN_JSON)
    if record is None:
        return run_dir, f"names run {run}, which is not in {runs_dir}{suggest(run, list_runs(runs_dir))}"
    if record.get("seeds"):
        if seed not in record["seeds"]:
            return run_dir, f"names run {run}, which has seeds {record['seeds']} and not {seed}"
        run_dir = seed_dir(run_dir, int(seed or 0))
    folder = stage_dir(run_dir, stage)
    if not _NAME.match(stage) or read_json(folder / STAGE_JSON) is None:
        known = finished_stages(run_dir)
        return folder, f"names {run}/{stage}, which is not finished{suggest(stage, known)}"
    return folder, None


def model_folder(source: str | Path) -> str:
    """The folder (or hub id) that holds the weights of `source`, which may be a stage directory."""
    folder = Path(source)
    if any((folder / "model" / name).is_file() for name in MODEL_CONFIGS):
        return str(folder / "model")
    return str(source)


def finished_stages(run_dir: Path) -> list[str]:
    """Names of the finished stages of a run, in the order of its recipe."""
    record = read_json(run_dir / RUN_JSON) or {}
    order = [stage["name"] for stage in record.get("stages", [])]
    return [name for name in order if (stage_dir(run_dir, name) / STAGE_JSON).is_file()]


def outputs(folder: Path) -> list[str]:
    """The files that make up a stage's result: all but its own record, checkpoints and unfinished ones."""
    own = (STAGE_JSON, BEGUN_JSON, NOTES_JSON, FAULT_JSON, CHECKPOINTS)
    return files_under(folder, skip=lambda name: name in own or name.startswith((STAGING, DISCARDED)))


def finish_stage(folder: Path, record: Mapping[str, Any]) -> None:
    """Flush a stage's files and write its record last; then drop what only an unfinished stage needs."""
    fsync_tree(folder)
    manifest = manifest_of(folder, outputs(folder))
    write_json(folder / STAGE_JSON, {**record, "manifest": manifest})
    tidy_stage(folder)


def tidy_stage(folder: Path) -> None:
    """Remove the leftovers of a finished stage: its beginning, notes and checkpoints."""
    for name in (BEGUN_JSON, NOTES_JSON, CHECKPOINTS):
        if (folder / name).exists():
            remove(folder / name)


def stage_damage(folder: Path, record: Mapping[str, Any], *, quick: bool = False) -> str | None:
    """What is wrong with a finished stage's files, or None; `quick` compares sizes only."""
    manifest: Manifest = record.get("manifest", {})
    if not quick:
        return damage(folder, manifest)
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            return f"{name} is missing or has another size"
    return None


def check_folder(run_dir: Path, recipe_name: str, *, force: bool) -> None:
    """Refuse a run folder that is a file, holds something else, or belongs to a recipe of another name."""
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is a file; choose another --name or remove it")
    above = next((parent for parent in run_dir.parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise InputError(f"{above} is a file and can hold no run; choose another --runs-dir")
    contents = set(os.listdir(run_dir)) - {LOCK} if run_dir.is_dir() else set()
    record = read_json(run_dir / RUN_JSON)
    if contents and record is None and not force:
        raise InputError(f"{run_dir} exists and is no run; choose another --name, or --force to use it")
    if record is not None and record.get("recipe") != recipe_name and not force:
        raise InputError(
            f"{run_dir} is a run of recipe {record.get('recipe')!r}, not {recipe_name!r}; choose another "
            f"--name, or --force to replace it"
        )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock, which dies with the process; InputError when another process holds it."""
    import fcntl

    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("a+")
    except OSError as error:
        raise InputError(
            f"{run_dir} cannot be written: {error.strerror}; choose another --runs-dir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(20).strip()
            raise InputError(
                f"{run_dir} is in use by process {holder or 'unknown'}; wait, stop it, or choose --name"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_locked(run_dir: Path) -> bool:
    """Whether a process works on the run now."""
    import fcntl

    try:
        with (run_dir / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True
