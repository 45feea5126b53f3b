"""Kill a run with SIGKILL again and again, in every stage and in saves; it must end with the same bytes.

    python tests/benchmarks/kills.py --recipe smoke --kills-per-stage 4 --seed 0

One run is left alone. A second one is killed at random moments of every stage (every second kill waits for a
checkpoint or a result that is being written) and started again by the same command. At the end the models,
records, metrics (but for their time fields), rows and report.json (but for `timings`) of both are compared.
Prints a Markdown table; exit code 1 when a byte differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIME_ENDINGS = ("_seconds", "_per_second")
STAGING_MARK = ".staging-"
POLL_SECONDS = 0.002
DONE = "was done before the kill"


def command(recipe: str, runs: Path, settings: list[str]) -> list[str]:
    extra = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "pipeline", "run", recipe, "--runs-dir", str(runs), "--name", "run", *extra]


def main() -> int:
    arguments = parse()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        subprocess.run(command(arguments.recipe, whole, arguments.set), check=True, stdout=subprocess.DEVNULL)
        seconds = stage_seconds(whole / "run")
        rows = []
        for stage in seconds:
            for number in range(arguments.kills_per_stage):
                wait = rng.uniform(0, seconds[stage])
                what = kill_once(
                    command(arguments.recipe, killed, arguments.set),
                    killed / "run" / "stages" / stage,
                    wait,
                    in_save=number % 2 == 1,
                )
                rows.append((stage, number, wait, what))
                print(f"| {len(rows)} | {stage} | {wait:.2f} | {what} |", flush=True)
        subprocess.run(
            command(arguments.recipe, killed, arguments.set), check=True, stdout=subprocess.DEVNULL
        )
        different = differences(whole / "run", killed / "run")
    kills = sum(what.startswith("killed") for *_, what in rows)
    print(f"\n{kills} kills over {len(seconds)} stages; files that differ: {len(different)}")
    for name in different:
        print(f"- {name}")
    return 1 if different or not kills else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="smoke")
    parser.add_argument("--kills-per-stage", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    return parser.parse_args()


def stage_seconds(run: Path) -> dict[str, float]:
    """Stages in order of execution with the time each took."""
    ends = sorted((path.stat().st_mtime, path.parent.name) for path in run.glob("stages/*/stage.json"))
    starts = [(run / "recipe.yaml").stat().st_mtime, *(end for end, _ in ends)]
    return {name: max(0.1, end - start) for (end, name), start in zip(ends, starts, strict=False)}


def kill_once(words: list[str], stage: Path, wait: float, *, in_save: bool) -> str:
    """Start the command, let it work on the stage for `wait` seconds (and into a save), and kill it.

    A stage that an earlier try let finish is left alone: the command would run on to the end of the recipe.
    """
    if finished(stage):
        return DONE
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        if not until(lambda: begun(stage) or finished(stage), process):
            return ended(process)
        until(lambda: False, process, wait)
        if in_save:
            until(lambda: saving(stage), process, wait)
        if process.poll() is not None:
            return ended(process)
        where = "killed in a save" if saving(stage) else "killed at work"
        os.killpg(process.pid, signal.SIGKILL)
        return where
    finally:
        process.wait()


def ended(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    if code:
        assert process.stderr is not None
        raise SystemExit(
            f"the resumed run failed with exit code {code}:\n{process.stderr.read().decode()[-4000:]}"
        )
    return DONE


def begun(stage: Path) -> bool:
    return stage.is_dir() and not finished(stage)


def finished(stage: Path) -> bool:
    return (stage / "stage.json").exists()


def saving(stage: Path) -> bool:
    return any(STAGING_MARK in path.name for path in [*stage.glob("*"), *stage.glob("*/*")])


def until(condition: Any, process: subprocess.Popen[bytes], seconds: float = 600.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(POLL_SECONDS)
    return False


def differences(first: Path, second: Path) -> list[str]:
    """The results of two runs that differ, by relative name."""
    names = sorted(results(first) | results(second))
    assert any(name.endswith("model.safetensors") for name in names)
    return [name for name in names if content(first / name) != content(second / name)]


def results(run: Path) -> set[str]:
    found = [path for path in run.glob("stages/*/**/*") if path.is_file()] + [run / "report.json"]
    names = {path.relative_to(run).as_posix() for path in found}
    ours = {
        name for name in names if "/checkpoints/" not in name and not name.endswith(("stage.json", ".html"))
    }
    return {name for name in ours if not name.endswith("notes.json")}


def content(path: Path) -> Any:
    if not path.exists():
        return None
    if path.name == "metrics.jsonl":
        return [without_time(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name == "report.json":
        return {
            name: value
            for name, value in json.loads(path.read_text(encoding="utf-8")).items()
            if name != "timings"
        }
    return path.read_bytes()


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.endswith(TIME_ENDINGS)}


if __name__ == "__main__":
    sys.exit(main())
