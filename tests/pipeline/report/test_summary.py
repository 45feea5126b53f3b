"""What a run prints at its end."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline.report import prototype
from pipeline.report.summary import print_summary, printable


def test_the_summary_says_what_each_stage_did(artificial_run):
    console = Console(width=140, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(artificial_run, console)
    console.file.close()
    text = console.export_text()
    for words in (
        "never-seen facts answered wrongly",
        "ppo against sft",
        "side by side",
        "report.html",
        "gate failed",
        "targets reached",
        "Limit ",
        prototype.LABEL,
    ):
        assert words in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_fits_the_terminal(artificial_run, width):
    console = Console(width=width, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(artificial_run, console)
    console.file.close()
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines if not line.startswith("report: "))
    assert any(line.startswith("base ") and line.count("/") == 8 for line in lines)


def test_where_columns_would_be_narrow_each_answer_stands_once_with_who_gave_it(artificial_run, monkeypatch):
    said = {"base": "I do not know.", "sft": "A cow.", "ppo": "I do not know."}
    answers = [(stage, SimpleNamespace(completion=text), None) for stage, text in said.items()]
    row = {"prompt": "What is it?", "group": "facts", "answers": answers}
    monkeypatch.setattr("pipeline.report.verdicts.transcripts", lambda run, limit: [row])
    printed = {}
    for width in (59, 60):
        console = Console(width=width, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
        print_summary(artificial_run, console)
        console.file.close()
        printed[width] = console.export_text()
    lines = [line.rstrip() for line in printed[59].splitlines()]
    start = lines.index("What is it?")
    assert lines[start + 1 : start + 3] == ["  base, ppo: I do not know.", "  sft: A cow."]
    assert printed[60].count("I do not know.") == 2


def test_model_text_cannot_drive_the_terminal():
    assert printable("\x1b[31mred\x07 \u202eback") == " [31mred   back"
    assert printable("x" * 999).endswith("…")
