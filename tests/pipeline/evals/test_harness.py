"""Equal scores to EleutherAI's lm-evaluation-harness: the same model, the same items, its own task files."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from data.benchmarks import crows_pairs, truthfulqa, winogender
from pipeline.evaluation import evaluate
from pipeline.stages.tokenizer import train, wrap

FOLDER = os.environ.get("FLEDGE_DATA")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not FOLDER, reason="needs FLEDGE_DATA, the folder of real data sets"),
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval: pip install 'fledge[harness]'"),
]
NUM_QUESTIONS, NUM_PAIRS, NUM_SENTENCES = 40, 60, 120
# Rounding in float32 moves a sum of some 60 log-probabilities by 1e-5, and a share only where two are as close.
BOUND = 1e-3
# (the harness's task and metric, our figure)
EQUAL = {
    ("truthfulqa_mc1", "acc"): "truthfulqa/mc1",
    ("truthfulqa_mc2", "acc"): "truthfulqa/mc2",
    ("crows_pairs_english", "pct_stereotype"): "crows_pairs/sum",
    ("crows_pairs_english", "likelihood_diff"): "crows_pairs/likelihood_diff",
    ("winogender_all", "acc"): "winogender/accuracy",
    ("winogender_male", "acc"): "winogender/accuracy/male",
    ("winogender_female", "acc"): "winogender/accuracy/female",
    ("winogender_neutral", "acc"): "winogender/accuracy/neutral",
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """A data root with the first items of each benchmark, and the same items in the harness's columns."""
    root = Path(FOLDER)
    made = tmp_path_factory.mktemp("data")
    _first_items(root, made)
    questions, pairs, sentences = truthfulqa.read(made), crows_pairs.read(made), winogender.read(made)
    _write(
        made / "truthfulqa.jsonl",
        [
            {
                "question": question.question,
                **{
                    f"{name}_targets": {
                        "choices": [answer.text for answer in answers],
                        "labels": [int(answer.true) for answer in answers],
                    }
                    for name, answers in (("mc1", question.mc1), ("mc2", question.mc2))
                },
            }
            for question in questions
        ],
    )
    _write(
        made / "crows_pairs.jsonl",
        [{"sent_more": pair.more, "sent_less": pair.less, "bias_type": pair.bias_type} for pair in pairs],
    )
    _write(
        made / "winogender.jsonl",
        [
            {
                "sentence": sentence.text,
                "pronoun": sentence.pronoun,
                "occupation": sentence.occupation,
                "participant": sentence.participant,
                "label": 0 if sentence.means_occupation else 1,
                "gender": sentence.gender,
            }
            for sentence in sentences
        ],
    )
    return made


def _first_items(root, made):
    """Copy the beginning of each file, so that the harness takes seconds."""
    import gzip

    for folder in ("halluc_truthfulqa", "bias_crows_pairs", "bias_winogender"):
        (made / folder).mkdir()
    found = json.loads(gzip.decompress((root / "halluc_truthfulqa/mc_task.json.gz").read_bytes()))
    (made / "halluc_truthfulqa/mc_task.json").write_text(json.dumps(found[:NUM_QUESTIONS]))
    for name, num in (
        ("bias_crows_pairs/crows_pairs_anonymized.csv", NUM_PAIRS),
        ("bias_winogender/all_sentences.tsv", NUM_SENTENCES),
    ):
        lines = (root / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (made / name).write_text("".join(lines[: num + 1]), encoding="utf-8")
    statistics = "bias_winogender/occupations-stats.tsv"
    (made / statistics).write_text((root / statistics).read_text(encoding="utf-8"), encoding="utf-8")


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(data_root):
    rows = (data_root / "truthfulqa.jsonl").read_text(encoding="utf-8").splitlines()
    return wrap(train([json.loads(row)["question"] for row in rows] * 2, vocab_size=320, min_frequency=2))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_equal_those_of_the_harness(family, tiny_model, tokenizer, data_root, tmp_path):
    # A context shorter than TruthfulQA's primer, too: both cut what does not fit.
    model = tiny_model(family, vocab_size=len(tokenizer), max_position_embeddings=256)
    folder = tmp_path / family
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    script = Path(__file__).with_name("harness_scores.py")
    tasks = list(dict.fromkeys(task for task, _ in EQUAL))
    done = subprocess.run(
        [sys.executable, script, str(folder), str(data_root), *tasks],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    results = evaluate(
        [str(folder)], suite=["truthfulqa", "crows_pairs", "winogender"], data_root=str(data_root)
    )
    ours = {figure["name"]: figure["value"] for figure in results["figures"]}
    for (task, metric), name in EQUAL.items():
        assert ours[name] == pytest.approx(theirs[task][metric], abs=BOUND), (name, task)
