"""Every file of pipeline/evals keeps the contract of the open folder."""

import subprocess
import sys

import pytest

from data import open_folder
from data.settings import Settings
from pipeline.report.paired import plain_figures
from pipeline.stages.evaluate import EVALS

NAMES = open_folder.names(EVALS)


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_has_what_the_stage_calls(name):
    module = open_folder.load(EVALS, name)
    assert issubclass(module.Config, Settings)
    assert module.Config() is not None  # every setting has a default
    needed = {
        "answers": ("items", "score", "figures"),
        "measure": ("measure", "figures"),
        "records": ("figures",),
    }[module.KIND]
    assert all(callable(getattr(module, function)) for function in needed)
    assert (module.KIND == "records") == hasattr(module, "RECORDS")
    if module.KIND == "records":
        assert open_folder.load(EVALS, module.RECORDS).KIND in ("answers", "measure")
    assert module.SUITE not in NAMES  # `--suite` takes both
    first_line = module.__doc__.splitlines()[0]
    assert first_line.endswith((".", ":"))
    assert len(first_line) < 110


def test_what_is_paired_between_runs_has_one_evaluation_each():
    found = [row.name for name in NAMES for row in getattr(open_folder.load(EVALS, name), "PAIRED", ())]
    assert len(found) == len(set(found)) == len(plain_figures())
    assert {"gold/mean", "task/stories/right", "bbq/s_amb"} <= set(found)


def test_listing_the_evaluations_imports_nothing_heavy():
    modules = ", ".join(f"pipeline.evals.{name}" for name in NAMES)
    code = (
        f"import sys, {modules}, pipeline.stages.evaluate, pipeline.stages.report\n"
        "print(*{'torch', 'transformers', 'scipy', 'matplotlib', 'trl'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == []
