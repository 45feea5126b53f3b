"""RLOO and GRPO learn what a reward pays for, sample by our keyed rollouts, and resume to the same bytes."""

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from pipeline.errors import Interrupted, TrainingFault
from pipeline.metrics import read_metrics
from pipeline.run import StageRun
from pipeline.stages import grpo, rloo

STAGES = [pytest.param(rloo, id="rloo"), pytest.param(grpo, id="grpo")]


def settings(stage, **changes):
    given = {
        "rewards": {"length": 10.0},
        "unended_score": None,
        "num_episodes": 96,
        "batch_size": 16,
        "group_size": 4,
        "micro_batch_size": 8,
        "num_epochs": 2,
        "max_new_tokens": 8,
        "learning_rate": 3e-3,
        "checkpoint_every": 4,
    }
    return stage.Config(**(given | changes))


@pytest.fixture(scope="module")
def inputs(small_world):
    return {"corpus": small_world / "stages" / "corpus", "policy": small_world / "stages" / "sft"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_score_rises_and_every_step_is_logged(stage, inputs, tmp_path):
    run = StageRun("online", tmp_path / "run", seed=5, inputs=inputs)
    stage.run(settings(stage, num_episodes=640, learning_rate=1e-2), run)
    metrics = read_metrics(run.dir / "metrics.jsonl")
    assert len(metrics) == run.notes["num_steps"] == 80
    assert {"loss", "kl_per_token", "entropy", "learning_rate", "episodes"} <= metrics[0].keys()
    sampled = [line for line in metrics if "score" in line]
    assert len(sampled) == 40  # a batch is taken twice
    assert {"gold", "length", "ends", "reward/length", "kl"} <= sampled[0].keys()
    assert sampled[-1]["kl"] == pytest.approx(sampled[-1]["kl_per_token"] * sampled[-1]["length"])
    scores = [line["score"] for line in sampled]
    # The reward is length: 1.0 of it is ten characters. By a fifth is far beyond the noise of eight batches.
    assert sum(scores[-8:]) > 1.2 * sum(scores[:8])
    assert 10 * sampled[0]["reward/length"] == pytest.approx(scores[0])


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_and_resumed_equals_uninterrupted(stage, inputs, stopping_run, digests, tmp_path):
    whole = StageRun("online", tmp_path / "whole", seed=5, inputs=inputs)
    stage.run(settings(stage), whole)
    # The stop is asked for between two passes over one batch and waits for the second.
    run = stopping_run(3, "online", tmp_path / "again", seed=5, inputs=inputs)
    with pytest.raises(Interrupted):
        stage.run(settings(stage), run)
    resumed = StageRun("online", tmp_path / "again", seed=5, inputs=inputs)
    assert resumed.checkpoints.latest().step == 6
    stage.run(settings(stage), resumed)
    assert digests(resumed.dir / "model") == digests(whole.dir / "model")
    kept = [
        [{k: v for k, v in line.items() if not k.endswith("_per_second")} for line in read_metrics(path)]
        for path in (resumed.dir / "metrics.jsonl", whole.dir / "metrics.jsonl")
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("family", "dropout"),
    [("gpt2", {"resid_pdrop": 0.5, "embd_pdrop": 0.5}), ("bloom", {"hidden_dropout": 0.5})],
)
def test_nothing_is_dropped(stage, family, dropout, inputs, tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(inputs["policy"] / "model")
    policy = tiny_model(family, vocab_size=len(tokenizer), **dropout)
    policy.save_pretrained(tmp_path / "policy" / "model")
    tokenizer.save_pretrained(tmp_path / "policy" / "model")
    run = StageRun("online", tmp_path / "run", seed=5, inputs={**inputs, "policy": tmp_path / "policy"})
    stage.run(settings(stage, num_episodes=16, num_epochs=1, checkpoint_every=1), run)
    assert read_metrics(run.dir / "metrics.jsonl")[0]["kl_per_token"] == pytest.approx(0, abs=1e-6)


def test_scores_that_do_not_differ_stop_the_run(inputs, tmp_path):
    run = StageRun("rloo", tmp_path / "run", seed=5, inputs=inputs)
    with pytest.raises(TrainingFault, match="no learning signal"):
        rloo.run(settings(rloo, rewards={"length": 0.0}), run)


def test_sizes_that_do_not_fit_are_refused():
    for changes, told in [
        ({"group_size": 5}, "not a multiple of group_size 5"),
        ({"checkpoint_every": 3}, "not a multiple of num_epochs 2"),
        ({"num_episodes": 8}, "less than one batch"),
    ]:
        with pytest.raises(ValidationError, match=told):
            settings(rloo, **changes)
