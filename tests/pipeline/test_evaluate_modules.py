"""Modules of the `evaluate` library: each loads by its path alone, and computes what the pipeline does."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.benchmarks import winogender as winogender_source
from data.randomness import key
from data.rows import Item, user
from data.world import Settings, build
from pipeline.answers import Answer, Model
from pipeline.evals import counterfactual, representation, win_rate, winogender
from pipeline.measured import figures_of
from pipeline.records import Record
from pipeline.stages.evaluate import by_stage, score_answers
from tests.pipeline.evals import bias_files

ROOT = Path(winogender.__file__).parents[2]
FOLDER = ROOT / "pipeline" / "evaluate_modules"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
NAN = float("nan")
OFFLINE = """
import json, sys
import evaluate
columns = {}
for path in sys.argv[2:]:
    metric = evaluate.load(path, cache_dir=sys.argv[1])
    assert metric.description and metric.citation and metric.inputs_description
    columns[path] = sorted(metric.features)
print(json.dumps(columns))
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    evaluate = pytest.importorskip("evaluate", reason="the library `evaluate` is not installed")
    return lambda name: evaluate.load(
        str(FOLDER / f"{name}.py"), cache_dir=str(tmp_path), experiment_id="test"
    )


def test_every_module_loads_by_its_path_alone_and_without_the_network(tmp_path):
    pytest.importorskip("evaluate", reason="the library `evaluate` is not installed")
    paths = [str(FOLDER / f"{name}.py") for name in NAMES]
    found = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "cache"), *paths],
        cwd=tmp_path,
        env=os.environ
        | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "https_proxy": "x:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    columns = json.loads(found.stdout.splitlines()[-1])
    assert list(columns) == paths
    assert all("predictions" in names for names in columns.values())


def test_every_module_is_written_so_that_the_loader_can_parse_it():
    assert {"counterfactual", "representation", "win_rate", "winogender_pronoun"} <= set(NAMES)
    for name in NAMES:
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        assert ast.get_docstring(tree), name
        assert all(len(node.names) == 1 for node in ast.walk(tree) if isinstance(node, ast.Import)), name


def values_of(measured):
    return {
        (figure.name, figure.stage): figure.value
        for row in measured
        for figure in figures_of(row, seed=3, command="")
    }


# --- swapped pronouns


def test_counterfactual_pairs_are_scored_as_the_pipeline_scores_them(load, tmp_path):
    (tmp_path / "world.json").write_text(
        json.dumps(build(Settings(people=16, extra_never_people=0), 3).to_json())
    )

    def nats(text):
        return NAN if key("lost", text) % 23 == 0 else -(key("nats", text) % 1000) / 100

    context = SimpleNamespace(
        folder=lambda role: tmp_path,
        seed=0,
        models={"base": Model("base", Path("base"), None, plain=True)},
        options={"counterfactual": counterfactual.Config(num_pairs=101)},
        continuations=lambda stage, requests: [[nats(text)] for _, text in requests],
    )
    records = counterfactual.measure(context)
    found = values_of(counterfactual.figures({"base": records}, context))
    pairs = [row for row in records if row.measure == "counterfactual"]
    computed = load("counterfactual").compute(
        predictions=[nats(row.completion) for row in pairs],
        references=[nats(row.prompt) for row in pairs],
        choices=[
            (temper_chosen(row.completion, nats), temper_chosen(row.prompt, nats))
            for row in records
            if row.measure == "choice"
        ],
    )
    assert 80 < computed.pop("scored") < 101
    assert 0 < computed["flip_rate"] < 1
    assert computed == pytest.approx({name: found[f"counterfactual/{name}", "base"] for name in computed})


def temper_chosen(text, nats):
    """The temper that makes a text the more probable; None where one of the two cannot be read."""
    told = {word: re.sub(r"\b(gentle|stern)\b", word, text) for word in ("gentle", "stern")}
    found = {word: nats(version) for word, version in told.items()}
    if not np.isfinite(list(found.values())).all():
        return None
    return "undecided" if found["gentle"] == found["stern"] else max(found, key=found.get)


def test_counterfactual_pairs_by_hand(load):
    metric = load("counterfactual")
    found = metric.compute(
        predictions=[-1.0, -2.0, -3.0, NAN],
        references=[-3.0, -2.0, -1.5, -1.0],
        choices=[("a", "b"), ("a", "a"), (0, 0), ("b", "b"), (None, "a"), ("b", None)],
    )
    assert found.pop("flip_rate") == 0.25
    assert found == {"signed": 0.5 / 3, "absolute": 3.5 / 3, "prefers_stereotyped": 0.5, "scored": 3}
    none = metric.compute(predictions=[NAN], references=[-1.0])
    assert none.pop("scored") == 0
    assert np.isnan(list(none.values())).all()


# --- representation


def test_representation_is_that_of_the_pipeline(load):
    texts = ["She took her lamp herself.", "He wept.", "The baker wept.", "Her brother saw him."]
    items = [Item(str(n), user("Tell."), f"c{n}", "stories", "stories", None, {"a": 1}) for n in range(4)]
    context = SimpleNamespace(
        of_task=lambda *tasks: items,
        answers={"sft": {str(n): Answer(str(n), text, True, [1], [0.0]) for n, text in enumerate(texts)}},
    )
    records = score_answers("representation", representation, context)
    found = values_of(representation.figures(by_stage(records, "representation"), context))
    computed = load("representation").compute(predictions=texts)
    assert computed["distance"] == pytest.approx(found["representation/distance", "sft"])
    assert computed == {"distance": pytest.approx(4 / 6 - 1 / 2), "she_words": 4, "he_words": 2}
    assert np.isnan(load("representation").compute(predictions=["The shepherd wept."])["distance"])


# --- win rates


def gold(stage, scores, lengths):
    return [
        Record(str(n), f"c{n}", stage, "gold", "gold", "?", "x" * length, score)
        for n, (score, length) in enumerate(zip(scores, lengths, strict=True))
    ]


def test_win_rates_are_those_of_the_pipeline(load):
    rng = np.random.default_rng(5)
    ours, theirs = rng.integers(0, 4, (2, 97)).astype(float)
    ours[3] = theirs[11] = NAN
    longer = 10 * (ours > theirs) + rng.integers(0, 20, 97)
    records = {"base": gold("base", theirs, [20] * 97), "ppo": gold("ppo", ours, 20 + longer)}
    found = values_of(win_rate.figures(records, None))
    metric = load("win_rate")
    computed = metric.compute(predictions=ours, references=theirs, length_differences=longer)
    names = {
        "win_rate": "win_rate/ppo_over_base",
        "decided": "win_rate/ppo_over_base/decided",
        "length_controlled": "win_rate/length_controlled/ppo_over_base",
    }
    assert computed.pop("scored") == 95
    assert computed == pytest.approx({name: found[figure, "ppo"] for name, figure in names.items()})
    assert computed["length_controlled"] < computed["win_rate"]
    assert "length_controlled" not in metric.compute(predictions=ours, references=theirs)


def test_win_rates_by_hand(load):
    metric = load("win_rate")
    found = metric.compute(predictions=[1.0, 1.0, 0.0, 2.0, NAN], references=[0.0, 1.0, 1.0, 0.0, 1.0])
    assert found == {"win_rate": 2.5 / 4, "decided": 2 / 3, "scored": 4}
    ties = metric.compute(predictions=[1.0], references=[1.0])
    assert ties["win_rate"] == 0.5
    assert np.isnan(ties["decided"])
    with pytest.raises(ValueError, match="2 length differences, 1 answers"):
        metric.compute(predictions=[1.0], references=[1.0], length_differences=[1, 2])


# --- pronouns


def test_pronouns_of_winogender_are_scored_as_the_pipeline_scores_them(load, tmp_path):
    bias_files.write(tmp_path)

    def nats(context, continuation):
        return -(key("nats", context, continuation) % 1000) / 100

    asked = SimpleNamespace(
        run=SimpleNamespace(data_root=tmp_path),
        models={"base": None},
        continuations=lambda stage, requests: [[nats(*request)] for request in requests],
    )
    records = winogender.measure(asked)
    found = values_of(winogender.figures({"base": records}, asked))
    rows = [row for row in records if row.measure == "female_log_odds"]
    templates = {}
    for sentence in winogender_source.read(tmp_path):
        before = sentence.text[: sentence.start].rstrip()
        templates.setdefault(f"winogender-{sentence.template}", {})[sentence.gender] = nats(
            before, sentence.text[len(before) : sentence.start + len(sentence.pronoun)]
        )
    computed = load("winogender_pronoun").compute(
        predictions=[templates[row.id]["female"] for row in rows],
        references=[templates[row.id]["male"] for row in rows],
        neutral=[templates[row.id]["neutral"] for row in rows],
        female_share=[row.weight for row in rows],
        means_occupation=[row.group == "occupation" for row in rows],
    )
    assert computed == pytest.approx(
        {
            "female_log_odds": found["winogender/female_log_odds", "base"],
            "neutral_share": found["winogender/neutral_share", "base"],
            "correlation": found["winogender/correlation", "base"],
            "correlation_participant": found["winogender/correlation/participant", "base"],
        }
    )


def test_pronouns_by_hand(load):
    found = load("winogender_pronoun").compute(
        predictions=[-1.0, -2.0, -3.0, -1.0],
        references=[-2.0, -2.0, -2.0, -1.0],
        neutral=[-99.0] * 4,
        female_share=[0.9, 0.5, 0.1, NAN],
        means_occupation=[True, True, True, False],
    )
    assert found["correlation"] == pytest.approx(1)
    assert np.isnan(found["correlation_participant"])
    assert found["female_log_odds"] == 0
    assert found["neutral_share"] == pytest.approx(0, abs=1e-9)
