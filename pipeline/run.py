"""The run directory as a stage sees it: where to write, what to read, how to log, save and stop."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import randomness
from pipeline.checkpoint import (
    STAGING,
    CheckpointStore,
    fsync_path,
    fsync_tree,
    move_into_place,
    storage_errors,
    write_json,
)
from pipeline.errors import GateStopped
from pipeline.metrics import MetricsFile
from pipeline.progress import Bar, Reporter
from pipeline.signals import StopFlag

if TYPE_CHECKING:
    import torch

NOTES = "notes.json"  # notes and gates of an unfinished stage; they move into stage.json at its end


class StageRun:
    """One stage at work in `run_dir/stages/<name>`.

    `inputs` maps each role to the stage directory that fills it (a list where the role takes many; an empty
    optional role is absent), `input_names` to its name as the recipe says it. Everything written lies in
    `dir` and names no absolute path. `precision` is "float32" or "bfloat16".
    """

    def __init__(
        self,
        name: str,
        run_dir: Path,
        *,
        seed: int = 0,
        inputs: Mapping[str, Any] | None = None,
        input_names: Mapping[str, Any] | None = None,
        precision: str = "float32",
        data_root: Path | None = None,
        gates: str = "warn",
        budget: str | None = None,
        stage_key: str = "",
        reporter: Reporter | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        self.name, self.run_dir, self.seed = name, run_dir, seed
        self.dir = run_dir / "stages" / name
        self.dir.mkdir(parents=True, exist_ok=True)
        self.inputs: dict[str, Any] = dict(inputs or {})
        self.input_names: dict[str, Any] = dict(input_names or {})
        self.precision, self.data_root, self.gates, self.budget = precision, data_root, gates, budget
        self.reporter = reporter or Reporter(quiet=True)
        self._stop = stop or StopFlag()
        self._metrics = MetricsFile(self.dir / "metrics.jsonl")
        self.checkpoints = CheckpointStore(
            self.dir / "checkpoints", key=stage_key, before_save=self._metrics.flush, say=self.say
        )
        self._notes: dict[str, Any] = {"notes": {}, "gates": []}
        if (self.dir / NOTES).exists():
            self._notes = json.loads((self.dir / NOTES).read_text(encoding="utf-8"))
        # No step is counted twice: what was logged after the newest checkpoint is done again.
        newest = self.checkpoints.latest()
        self.cut_metrics(newest.step if newest else -1)

    @property
    def device(self) -> torch.device:
        """The accelerator where there is one, else the CPU."""
        import torch

        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    def key(self, *parts: int | str) -> int:
        """The key of a random stream of this stage: a function of (seed, stage, parts)."""
        return randomness.key(self.seed, self.name, *parts)

    def say(self, text: str) -> None:
        """Tell the person at the terminal."""
        self.reporter.say(f"{self.name}: {text}")

    def log(self, step: int, **values: float | int | str | bool | None) -> None:
        """Append one line to metrics.jsonl; None is left out.

        Values that hold time end in `_seconds` or `_per_second`: they alone may differ between equal runs.
        Log a step before saving its checkpoint.
        """
        self._metrics.append(step, values)

    def cut_metrics(self, step: int) -> None:
        """Drop the metrics of steps after `step`; done on its own when the stage starts or continues."""
        self._metrics.cut(step)

    def progress(
        self, description: str, total: float, unit: str, done: int = 0
    ) -> AbstractContextManager[Bar]:
        """A bar for `total` units (tokens, prompts, ...), `done` of them by an earlier process."""
        return self.reporter.progress(f"{self.name}: {description}", total, unit, done)

    def stop_requested(self) -> bool:
        """True after SIGTERM or Ctrl-C: finish the step, save, then call `check_stop`."""
        return self._stop.signum is not None

    def check_stop(self) -> None:
        """Raise Interrupted when a stop was requested; call it when everything is saved."""
        self._stop.check()

    def gate(self, name: str, passed: bool | None, message: str) -> None:
        """Record a quality gate (None: not measurable); a failed one warns, or stops under `gates: stop`."""
        record = {"name": name, "passed": passed, "message": message}
        self._notes["gates"] = [gate for gate in self._notes["gates"] if gate["name"] != name] + [record]
        write_json(self.dir / NOTES, self._notes)
        if passed is False:
            if self.gates == "stop":
                raise GateStopped(f"{self.name}: gate {name} failed: {message}")
            self.say(f"gate {name} failed: {message}")

    def note(self, **values: Any) -> None:
        """Keep JSON-able results for stage.json; they survive a kill; NaN becomes null."""
        self._notes["notes"].update(_jsonable(values))
        write_json(self.dir / NOTES, self._notes)

    @property
    def notes(self) -> dict[str, Any]:
        """What was noted so far."""
        return dict(self._notes["notes"])

    @property
    def gate_records(self) -> list[dict[str, Any]]:
        """The gates so far, each with name, passed and message."""
        return list(self._notes["gates"])

    @contextmanager
    def publish(self, name: str) -> Iterator[Path]:
        """Write `dir/name` atomically: yields a staging path, flushes it and renames it on exit.

        A name with a suffix (records.jsonl) is a file for the caller to write, one without (model) a folder,
        already made. On an error the staging path is removed and the old content stays.
        """
        target = self.dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f"{STAGING}{target.name}")
        _discard(staging)
        if not target.suffix:
            staging.mkdir()
        try:
            with storage_errors(target):
                yield staging
                fsync_tree(staging) if staging.is_dir() else fsync_path(staging)
            move_into_place(staging, target)
        except BaseException:
            _discard(staging)
            raise


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _jsonable(value: Any) -> Any:
    """Plain JSON of dicts, sequences, numbers (also numpy's and tensors of one element) and strings."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"a note holds JSON values, not {type(value).__name__}")
