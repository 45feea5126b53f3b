"""The command `fledge evaluate` on models and runs that no recipe evaluates together."""

import json
import runpy
from pathlib import Path

import pytest

from data.errors import InputError
from pipeline.cli import app
from pipeline.evaluation import evaluate

FILES = runpy.run_path(str(Path(__file__).parent / "evals" / "truthfulness_files.py"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of work outside runs, of this test alone."""
    monkeypatch.setattr("pipeline.kept_work.root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path, save_foreign):
    """A model of a Hugging Face folder, which belongs to no run."""
    return str(save_foreign(tmp_path / "foreign", "llama"))


@pytest.fixture
def benchmarks(tmp_path):
    """A data root with TruthfulQA alone."""
    root = tmp_path / "data"
    root.mkdir()
    FILES["write_truthfulqa"](root)
    return str(root)


# --- what a whole suite names and cannot run here


def test_a_suite_leaves_out_what_needs_a_run(model, benchmarks, capsys):
    words = ["evaluate", model, "--suite", "truthfulness,bias", "--data-root", benchmarks, "--json"]
    app(words, standalone_mode=False)
    results = json.loads(capsys.readouterr().out)
    names = {figure["name"].split("/")[0] for figure in results["figures"]}
    assert names == {"truthfulqa"}


def test_what_is_named_and_cannot_run_is_refused(model, benchmarks):
    with pytest.raises(InputError, match=r"counterfactual: .*closed world"):
        evaluate([model], suite=["truthfulqa", "counterfactual"], data_root=benchmarks)


@pytest.mark.parametrize(("suite", "why"), [("language", "no prompts"), ("alignment", "there is no judge")])
def test_a_suite_of_which_only_part_can_run_says_what_it_left_out(model, benchmarks, suite, why, capsys):
    evaluate([model], suite=["truthfulqa", suite], data_root=benchmarks)
    assert why in capsys.readouterr().err
