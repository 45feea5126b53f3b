"""Scores of EleutherAI's lm-evaluation-harness on local files as JSON: harness_scores.py MODEL DATA TASK...

A process of its own: the harness sets up logging and warns on import. Its own task files are used, with the data
set replaced by the rows in `DATA/<data set>.jsonl`.
"""

import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval import tasks as harness_tasks
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

# Task of the harness: its file, the rows, the split that it reads.
TASKS = {
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa", "validation"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa", "validation"),
    "crows_pairs_english": ("crows_pairs/crows_pairs_english.yaml", "crows_pairs", "test"),
    "winogender_all": ("winogender/winogender.yaml", "winogender", "test"),
    "winogender_male": ("winogender/winogender_male.yaml", "winogender", "test"),
    "winogender_female": ("winogender/winogender_female.yaml", "winogender", "test"),
    "winogender_neutral": ("winogender/winogender_neutral.yaml", "winogender", "test"),
}


def main(folder: str, data: str, *names: str) -> None:
    written = Path(data) / "tasks"
    written.mkdir(exist_ok=True)
    for name in names:
        file, rows, split = TASKS[name]
        lines = {
            "include": str(Path(harness_tasks.__file__).parent / file),
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(Path(data) / f"{rows}.jsonl")}},
        }
        (written / f"{name}.yaml").write_text(json.dumps(lines))  # JSON is YAML
    model = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        batch_size=32,
        device="cpu",
    )
    found = simple_evaluate(
        model=model,
        tasks=[f"local_{name}" for name in names],
        task_manager=TaskManager(include_path=str(written), include_defaults=False),
        bootstrap_iters=0,
        log_samples=False,
    )
    results = {name.removeprefix("local_"): scores for name, scores in found["results"].items()}
    print(
        json.dumps(
            {
                name: {
                    key.removesuffix(",none"): value for key, value in scores.items() if key.endswith(",none")
                }
                for name, scores in results.items()
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
