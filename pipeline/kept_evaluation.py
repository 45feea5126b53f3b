"""What `fledge evaluate --to` keeps: records, figures, notes and a page, in a folder that is read as a run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from pipeline.checkpoint import STAGING, fsync_tree, move_into_place, write_json
from pipeline.run_directory import CHECKPOINTS, RUN_JSON, finish_stage, seed_dir, stage_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.run import StageRun


@contextmanager
def new_folder(to: Path | None) -> Iterator[Path | None]:
    """Give a folder that becomes `to` when all is in it, with the page of the report; None without `to`.

    Raises:
        InputError: the folder is there and holds something.
    """
    from pipeline.report import rebuild

    if to is None:
        yield None
        return
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: it exists and is not empty; give a new folder")
    to.parent.mkdir(parents=True, exist_ok=True)
    staging = to.absolute().with_name(f"{STAGING}{to.absolute().name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        rebuild([staging])
        fsync_tree(staging)
        move_into_place(staging, to)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def keep(
    folder: Path, run: StageRun, config: dict[str, Any], label: str, command: str, *, of_several: bool
) -> None:
    """Copy the results of an evaluation into a folder as a run of one stage; `of_several` as one of its seeds.

    `command` is the one that evaluates the same again, without its suite.
    """
    chain = seed_dir(folder, run.seed) if of_several else folder
    target = stage_dir(chain, run.name)
    shutil.copytree(run.dir, target, ignore=shutil.ignore_patterns(CHECKPOINTS))
    record = {
        "name": run.name,
        "stage": run.name,
        "seed": run.seed,
        "precision": run.precision,
        "config": config,
        "notes": run.notes,
        "gates": run.gate_records,
    }
    finish_stage(target, record)
    whole = shlex.join(["--suite", ",".join(config["suite"])]) if config["suite"] else ""
    again = {"command": f"{command} {whole}".strip()}
    write_json(chain / RUN_JSON, _run(label, run.precision, run.seed) | again)


def keep_seeds(folder: Path, label: str, precision: str, seeds: Sequence[int]) -> None:
    """Say that a folder holds the evaluations of several seeds."""
    write_json(folder / RUN_JSON, _run(label, precision, None) | {"seeds": list(seeds)})


def _run(label: str, precision: str, seed: int | None) -> dict[str, Any]:
    from pipeline.execute import versions

    stages = [{"name": "evaluate", "stage": "evaluate"}]
    return {
        "recipe": label,
        "seed": seed,
        "precision": precision,
        "stages": stages,
        "versions": versions(),
    }
