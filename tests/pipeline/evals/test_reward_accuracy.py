"""Accuracy of reward models on pairs of completions: the run's, or those of any file."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from data.errors import InputError
from pipeline.checkpoint import write_json
from pipeline.evals import reward_accuracy
from pipeline.evaluation import evaluate as evaluate_sources
from pipeline.records import Record
from pipeline.stages import evaluate
from tests.pipeline.evals.tiny_run import finished

PAIRS = [{"prompt": "Who?", "chosen": "a" * (3 + n % 2), "rejected": "b" * (2 + n % 3)} for n in range(30)]


@pytest.fixture
def pairs(chain, tmp_path, monkeypatch):
    """A file of pairs, and a reward stage that likes length, with its own accuracy on shuffled labels."""
    monkeypatch.setattr(
        "pipeline.reward_scores.score_with",
        lambda items, texts, *_, **__: [float(len(t)) for t in texts],
    )
    finished(chain)
    (chain / "stages" / "better").mkdir()
    record = {"stage": "reward", "notes": {"shuffled_labels_accuracy": 0.51}}
    write_json(chain / "stages" / "better" / "stage.json", record)
    run = json.loads((chain / "run.json").read_text())
    write_json(chain / "run.json", run | {"stages": [*run["stages"], {"name": "better"}]})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


def test_a_reward_model_is_measured_on_any_file_of_pairs(chain, pairs, capsys):
    options = {"suite": ["reward_accuracy"], "runs_dir": chain.parent}
    found = evaluate_sources(["tiny/better"], changes=[f"reward_accuracy.path={pairs}"], **options)
    (figure,) = found["figures"]
    wins = [
        (len(p["chosen"]) > len(p["rejected"])) + 0.5 * (len(p["chosen"]) == len(p["rejected"]))
        for p in PAIRS
    ]
    assert (figure["name"], figure["n"]) == ("reward/accuracy", 30)
    assert figure["value"] == pytest.approx(sum(wins) / 30)
    assert set(figure["nulls"]) == {
        "chance",
        "untrained",
        "longer",
    }  # nothing that was measured on other pairs
    digest = hashlib.sha256(pairs.read_bytes()).hexdigest()[:16]
    assert found["notes"]["reward_accuracy"] == {"file": "pairs.jsonl", "sha256": [digest], "read": 30}


def test_several_reward_models_judge_together(chain, pairs, monkeypatch):
    seen = []

    def load(name, *, stage, **_):
        seen.append([folder.name for folder in stage])
        return lambda items, texts, ended: torch.tensor([float(len(text)) for text in texts])

    monkeypatch.undo()  # the real `score_with`
    monkeypatch.setattr("reward.functions.load_function", load)
    stages = chain / "stages"
    shutil.copytree(stages / "better", stages / "another")
    run = json.loads((chain / "run.json").read_text())
    write_json(chain / "run.json", run | {"stages": [*run["stages"], {"name": "another"}]})
    options = {"suite": ["reward_accuracy"], "changes": [f"reward_accuracy.path={pairs}"]}
    evaluate_sources(["tiny"], runs_dir=chain.parent, **options)
    evaluate_sources(["tiny/another", "tiny/better"], runs_dir=chain.parent, **options)
    assert seen == [["better", "another"]] * 2 + [["another", "better"]] * 2


def test_pairs_of_a_file_that_nobody_can_judge_are_refused(chain, pairs):
    shutil.rmtree(chain / "stages" / "better")
    with pytest.raises(InputError, match=r"no reward model to judge the pairs of .*pairs\.jsonl"):
        evaluate_sources(
            ["tiny"], suite=["reward"], runs_dir=chain.parent, changes=[f"reward_accuracy.path={pairs}"]
        )


def test_the_file_of_pairs_is_among_those_that_the_stage_reads(pairs):
    config = evaluate.config_class({})(reward_accuracy={"path": str(pairs)})
    assert evaluate.files(config, None) == [pairs]
    assert evaluate.files(evaluate.config_class({})(), None) == []


def test_what_length_alone_gives_is_counted_in_the_order_of_the_figure():
    # The label prefers the longer completion in all three pairs, and is against gold in the second.
    rows = [
        Record(str(n), str(n), "reward", "reward_accuracy", measure, "", "", score)
        for n, agrees in enumerate([1.0, 0.0, 1.0])
        for measure, score in (
            ("label", 1.0),
            ("longer", 1.0),
            ("label_by_gold", agrees),
            ("true_order", agrees),
        )
    ]
    context = SimpleNamespace(
        options={"reward_accuracy": reward_accuracy.Config()},
        folder=lambda role: None,
        folders=lambda role: (),
    )
    nulls = {row.name: row.nulls["reward"] for row in reward_accuracy.figures({"reward": rows}, context)}
    assert nulls["reward/accuracy"]["longer"] == pytest.approx(2 / 3)
    assert nulls["reward/accuracy_on_labels"]["longer"] == 1
