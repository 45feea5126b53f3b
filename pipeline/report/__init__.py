"""Reports: read run directories, write one self-contained page and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def rebuild(run_dirs: Sequence[Path], to: Path | None = None) -> list[Path]:
    """Write the report of one run into its folder, or one that compares several; returns the files written.

    A comparison is `compare.html` and `compare.json` in the folder `to`, by default the working directory.

    Raises:
        InputError: a folder is no run, or nothing in it is finished.
    """
    from pipeline.checkpoint import write_atomic
    from pipeline.report.build import HTML, JSON, build_report

    report = build_report(run_dirs)
    folder = to or (run_dirs[0] if len(run_dirs) == 1 else Path())
    names = (HTML, JSON) if len(run_dirs) == 1 else ("compare.html", "compare.json")
    paths = [folder / name for name in names]
    for path, text in zip(paths, report, strict=True):
        write_atomic(path, text)
    return paths
