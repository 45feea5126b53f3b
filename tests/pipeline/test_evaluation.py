"""The command `fledge evaluate` on models and runs that no recipe evaluates together."""

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import InputError
from pipeline.cli import app
from pipeline.evaluation import evaluate
from pipeline.measured import Measured, Scored
from pipeline.records import Comparison, Figure, read_records, to_json
from pipeline.report import rebuild
from pipeline.stages import evaluate as stage

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


# --- what is printed, and kept


@pytest.fixture
def others_results(monkeypatch):
    """The function that lets the evaluation find given figures, comparisons and numbers of unscored items."""

    def give(figures, comparisons=(), unscored=()):
        found = {"figures": figures, "comparisons": list(comparisons), "unscored": list(unscored)}
        monkeypatch.setattr("pipeline.stages.evaluate.summarise", lambda *_, **__: found)

    return give


def figure(stage, low, high, **nulls):
    return to_json(Figure("quiz", stage, (low + high) / 2, low, high, 23, 23, "share, version 7", nulls))


def change(verdict):
    row = Comparison("quiz", "one", "two", 0.1, 0.02, 0.18, 23, 23, 1, 0.01, None, 3, 1, 0.6, 0.2, verdict)
    return to_json(row)


def test_a_change_between_two_figures_at_chance_is_no_improvement(model, benchmarks, others_results, capsys):
    others_results(
        [figure("one", 0.1, 0.3, chance=0.2), figure("two", 0.19, 0.4, chance=0.2)], [change("improved")]
    )
    found = evaluate([model], suite=["truthfulqa"], data_root=benchmarks)
    assert [row["verdict"] for row in found["comparisons"]] == ["not told apart from chance"]
    assert found["comparisons"][0]["mcnemar_p"] == 0.6
    printed = capsys.readouterr().out
    assert "not told apart from chance: quiz, one to two" in printed
    assert "improved" not in printed


def test_a_change_from_chance_stays_what_it_is(model, benchmarks, others_results, capsys):
    others_results(
        [figure("one", 0.1, 0.3, chance=0.2), figure("two", 0.3, 0.4, chance=0.2)], [change("improved")]
    )
    evaluate([model], suite=["truthfulqa"], data_root=benchmarks)
    assert "improved: quiz, one to two" in capsys.readouterr().out


def test_unit_nulls_and_unscored_items_stand_beside_a_figure(model, benchmarks, others_results, capsys):
    others_results(
        [figure("one", 0.1, 0.3, longest=0.357)], unscored=[{"name": "quiz", "stage": "one", "num": 5}]
    )
    evaluate([model], suite=["truthfulqa"], data_root=benchmarks)
    words = " ".join(capsys.readouterr().out.split())
    assert "23 + 5 unscored" in words
    assert "version 7; longest 0.357" in words


def test_items_that_could_not_be_scored_are_counted_for_each_figure():
    rows = [Scored(str(n), str(n), score) for n, score in enumerate((1.0, math.nan, 0.0, math.nan))]
    measured = Measured("quiz", "share", "rate", {"one": rows, "two": rows[:1]})
    context = SimpleNamespace(models={}, seed=0)
    found = stage.summarise([("quiz", measured)], context, command="fledge evaluate x")
    assert found["unscored"] == [{"name": "quiz", "stage": "one", "num": 2}]
    assert [figure["n"] for figure in found["figures"]] == [2, 1]


def test_what_was_found_is_kept_and_reports_read_it(model, benchmarks, tmp_path, capsys):
    to = tmp_path / "new" / "kept"
    found = evaluate([model], suite=["truthfulness"], data_root=benchmarks, to=to)
    assert read_records(to / "stages" / "evaluate" / "records.jsonl")
    page = (to / "report.html").read_text()
    assert found["notes"]["truthfulqa"] in page
    assert "halueval" in page  # left out
    assert f"<pre>fledge evaluate {model} --data-root {benchmarks} --suite truthfulness</pre>" in page
    assert "recipe.yaml" not in page
    assert json.loads((to / "report.json").read_text())["figures"] == found["figures"]
    rebuild([to])
    assert (to / "report.html").read_text() == page
    assert str(to) in capsys.readouterr().out
    assert [path.name for path in to.parent.iterdir()] == ["kept"]


def test_a_folder_that_holds_something_is_not_written_into(model, benchmarks, tmp_path):
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        evaluate([model], suite=["truthfulqa"], data_root=benchmarks, to=tmp_path)


def test_nothing_is_kept_of_what_was_refused(model, benchmarks, tmp_path):
    with pytest.raises(InputError):
        evaluate(
            [model],
            suite=["truthfulqa", "counterfactual"],
            data_root=benchmarks,
            to=tmp_path / "new" / "kept",
        )
    assert not list((tmp_path / "new").iterdir())


# --- settings


def test_settings_are_changed_as_those_of_a_run(model, benchmarks, capsys):
    words = ["evaluate", model, "--suite", "truthfulqa", "--data-root", benchmarks, "--json"]
    app(
        [*words, "--set", "truthfulqa.num_questions=7", "--set", "evaluate.untrained=false"],
        standalone_mode=False,
    )
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert {figure["n"] for figure in figures} == {7}
    assert not any("untrained" in figure["nulls"] for figure in figures)
    assert "--set truthfulqa.num_questions=7 --set evaluate.untrained=false --suite" in figures[0]["command"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("truthfulqa.num_questions=0", "greater than 0"),
        ("judge.num_pairs=3", "judge"),  # not of the suite
        ("truthfulqa.question=3", "did you mean `num_questions`"),
        ("truthfulqa", "needs KEY=VALUE"),
    ],
)
def test_a_setting_that_cannot_be_changed_is_refused(model, benchmarks, change, why):
    with pytest.raises(InputError, match=f"--set .*{why}"):
        evaluate([model], suite=["truthfulqa"], data_root=benchmarks, changes=[change])


def test_a_judge_that_is_set_and_cannot_be_asked_is_refused(model, benchmarks):
    judge = ["judge.url=http://localhost:9/v1", "judge.model=j", "judge.api_key_variable=NO_SUCH_KEY"]
    with pytest.raises(InputError, match="the environment has no NO_SUCH_KEY"):
        evaluate([model], suite=["truthfulqa", "alignment"], data_root=benchmarks, changes=judge)
