"""Small files of the truthfulness benchmarks in their published form."""

import csv
import io
import json

from data.benchmarks import halueval as halueval_source
from data.benchmarks import simpleqa as simpleqa_source
from data.benchmarks import truthfulqa as truthfulqa_source

HALLUCINATED = (0, 1, 2, 3, 22)  # four of the shortest of 23 labelled answers, and the longest


def write_truthfulqa(root, num=23):
    """True answers "yes 0" and "yes indeed 1" in turn, false ones "never 0" and "never again 0"."""
    folder = root / truthfulqa_source.FOLDER
    folder.mkdir()
    records = []
    for n in range(num):
        best, false = {f"yes indeed {n}" if n % 2 else f"yes {n}": 1}, {f"never {n}": 0}
        records.append(
            {
                "question": f"Is it so, {n}?",
                "mc0_targets": best | false,
                "mc1_targets": best | false | {f"never again {n}": 0},
                "mc2_targets": best | {f"surely {n}": 1} | false | {f"never again {n}": 0},
            }
        )
    (folder / "mc_task.json").write_text(json.dumps(records))


def write_simpleqa(root, num=23):
    """Every third answer is Rome, others are numbers."""
    folder = root / simpleqa_source.FOLDER
    folder.mkdir()
    text = io.StringIO(newline="")
    rows = [["", f"What is {n}?", "Rome" if n % 3 == 0 else str(1000 + n)] for n in range(num)]
    csv.writer(text).writerows([["metadata", "problem", "answer"], *rows])
    (folder / simpleqa_source.FILE).write_text(text.getvalue(), newline="")


def write_halueval(root, num=23):
    """Two files of the same questions, and labelled answers, those of `HALLUCINATED` by length."""
    folder = root / halueval_source.FOLDER
    folder.mkdir()
    for name in ("qa_one-turn_data.jsonl", "qa_multi-turn_data.jsonl"):
        records = [
            {
                "knowledge": f"Brell has {n} clocks.",
                "question": f"How many clocks has Brell in {n}?",
                "right_answer": f"{n} of them",
                "hallucinated_answer": f"It has none, {name[3:6]}.",
            }
            for n in range(num)
        ]
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    records = [
        {
            "user_query": f"Sing {n}.",
            "chatgpt_response": "La " * (n + 1),
            "hallucination": "yes" if n in HALLUCINATED else "no",
        }
        for n in range(num)
    ]
    (folder / "general_data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write(folder):
    """Write the files of all three below a data root."""
    for write_one in (write_truthfulqa, write_simpleqa, write_halueval):
        write_one(folder)
