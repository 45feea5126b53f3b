"""Writes report.html and report.json from what the other stages left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.settings import Settings
from pipeline.recipe import Cost, CostContext, Input

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.run import StageRun

INPUTS = {
    "stages": Input(
        (
            "corpus",
            "tokenizer",
            "pretrain",
            "pretrained",
            "sft",
            "preferences",
            "reward",
            "ppo",
            "dpo",
            "rloo",
            "grpo",
            "implicit_reward",
            "peak",
            "baseline",
            "evaluate",
        ),
        many=True,
        optional=True,
    )
}


REPORT_BYTES = 600_000  # of both files, with the pictures of a whole recipe (measured)


class Config(Settings):
    """No settings: the report shows what there is."""


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of benchmarks of which published figures are computed again, as far as they are there."""
    from pipeline import published_figures

    return published_figures.files(data_root)


def cost(config: Config, context: CostContext) -> Cost:
    """Disk alone: the report and its copy in the run's folder."""
    return Cost(disk_bytes=2 * REPORT_BYTES)


def run(config: Config, run: StageRun) -> None:
    """Build the report; the run's folder gets a copy of both files."""
    from pipeline.report.build import HTML, JSON, build_report

    report = build_report([run.run_dir])
    for name, text in ((HTML, report.html), (JSON, report.json)):
        with run.publish(name) as path:
            path.write_text(text, encoding="utf-8")
