"""Writes keyed numbers, or the lines of a file."""

from pathlib import Path

from pydantic import Field

from data.settings import Settings

INPUTS = {}
IGNORES_PRECISION = True


class Config(Settings):
    """Settings of the toy source."""

    num: int = Field(5, ge=1, description="Numbers to write.")
    path: str | None = Field(None, description="File whose lines are written instead.")
    hf_token: str | None = Field(None, description="A secret.")


def files(config, data_root):
    return [(data_root or Path()) / config.path] if config.path else []


def run(config, run):
    lines = [str(run.key(index)) for index in range(config.num)]
    for path in files(config, run.data_root):
        lines = path.read_text().splitlines()
    with run.publish("numbers.txt") as path:
        path.write_text("\n".join(lines))
    run.note(count=len(lines))
