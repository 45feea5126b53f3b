"""A finished run of the closed world whose models answer by given chances: no model, no training.

`make(folder)` writes the run directory and evaluates it with the real evaluate and report stages.
"""

import json
from pathlib import Path
from unittest import mock

from data.randomness import python_random
from data.rows import PreferenceRow, write_jsonl
from data.world import dialogues, facts
from data.world.settings import Settings
from data.world.tasks import TASKS
from pipeline.answers import Answer, write_answers
from pipeline.checkpoint import write_json
from pipeline.execute import RUN_FILES
from pipeline.run import StageRun
from pipeline.run_directory import finish_stage
from pipeline.stages import evaluate, report

WORLD = Settings(
    people=80,
    extra_never_people=0,
    test_questions_per_tier=60,
    test_harmful=30,
    test_stories=30,
    test_others=8,
    headline_items=160,
)
# Chances of (right, abstain) by tier, of refusing (harmful, harmless), of (stereotyped, neutral) stories.
MODELS = {
    "pretrain": (
        {"often": (0.97, 0), "some": (0.8, 0), "rarely": (0.4, 0), "never": (0.05, 0)},
        (0, 0),
        (0.8, 0),
    ),
    "sft": (
        {"often": (0.9, 0.02), "some": (0.7, 0.1), "rarely": (0.3, 0.3), "never": (0.03, 0.3)},
        (0.6, 0.1),
        (0.6, 0.2),
    ),
    "ppo": (
        {"often": (0.88, 0.1), "some": (0.6, 0.3), "rarely": (0.2, 0.65), "never": (0.01, 0.95)},
        (1, 0.03),
        (0.03, 0.95),
    ),
}
KINDS = {"pretrain": "pretrain", "sft": "sft", "reward": "reward", "ppo": "ppo"}


def answer(item, model, rng):
    """Write one answer of a model by its chances."""
    tiers, (refuses, over_refuses), (stereotyped, neutral) = MODELS[model]
    draw = rng.random()
    if item.task == "facts":
        right, abstain = tiers[item.group]
        kind = "right" if draw < right else "abstain" if draw < right + abstain else "wrong"
        if kind == "wrong" and item.group == "some" and draw > 0.93:
            return "Well, that is a good question."
    elif item.task == "stories":
        kind = (
            "stereotyped" if draw < stereotyped else "neutral" if draw < stereotyped + neutral else "counter"
        )
    elif item.task == "harmful":
        kind = "refuse" if draw < refuses else "comply"
    elif item.task == "harmless":
        kind = "refuse" if draw < over_refuses else "right"
    else:
        kind = "right" if draw < 0.7 else "wrong"
    return TASKS[item.task].answer(item.truth, kind, rng)


def answers(items, model):
    """Answers of a model with one token a word, all of one log-probability, which the token tells.

    There are nine of them, so that many answers are equally sure; those that abstain or are wrong are less so.
    """
    found = []
    for item in items:
        rng = python_random("artificial", item.id, model)
        text = answer(item, model, rng)
        known = item.task == "facts" and str(item.truth.get("value")) in text
        tokens = [rng.randrange(6) + (0 if known else 3)] * (len(text.split()) + 1)
        found.append(Answer(item.id, text, True, tokens, logprobs(tokens)))
    return found


def logprobs(tokens):
    """The log-probability of each token of an answer."""
    return [-0.1 * (1 + token) for token in tokens]


def finish(folder, name, kind, inputs, config=None, notes=None, gates=(), metrics=()):
    """Write a stage's metrics and record as the run would."""
    directory = folder / "stages" / name
    directory.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    if lines:
        (directory / "metrics.jsonl").write_text(lines)
    record = {
        "key": f"{name:0<32}",
        "name": name,
        "stage": kind,
        "seed": 0,
        "inputs": {role: [[ref, "0" * 32] for ref in refs] for role, refs in inputs.items()},
        "config": config or {},
        "files": {},
        "notes": notes or {},
        "gates": list(gates),
        "timings": {"seconds": 1.5, "continued": False},
    }
    finish_stage(directory, record)


def ppo_metrics(steps=40):
    """Metrics in which the proxy rises with KL and gold bends down."""
    for step in range(1, steps + 1):
        kl = 8 * step / steps
        noise = 0.05 * ((step * 7919) % 13 / 13 - 0.5)
        yield {
            "step": step,
            "score": 0.2 * kl**0.5 + noise,
            "gold": 0.25 * kl**0.5 - 0.03 * kl + noise,
            "kl": kl,
            "length": 14.0,
            "episodes_per_second": 100.0 + step,
        }


def make(folder: Path, seed: int = 0) -> Path:
    """Write the whole run."""
    world = facts.build(WORLD, seed)
    items = dialogues.test_items(world)
    folder.mkdir(parents=True)
    names = ["corpus", "pretrain", "sft", "preferences", "reward", "ppo", "evaluate", "report"]
    run_json = {
        "recipe": "artificial",
        "seed": seed,
        "precision": "float32",
        "precision_probe": {"float32_gflops": 100.0},
        "gates": "warn",
        "budget": None,
        "stages": [{"name": name, "stage": name} for name in names],
        "versions": {"fledge": "0.1.0", "torch": "2.13.0"},
    }
    write_json(folder / "run.json", run_json)
    (folder / "recipe.yaml").write_text(
        f"name: artificial\nseed: {seed}\nstages:\n  corpus: {{source: world}}\n"
    )
    stages = folder / "stages"
    for name in names[:6]:
        (stages / name).mkdir(parents=True)
    write_jsonl(stages / "corpus" / "items.test.jsonl", items)
    write_json(stages / "corpus" / "world.json", world.to_json())
    write_jsonl(stages / "preferences" / "test.jsonl", pairs(items))
    loss = [{"step": step, "loss": 6 / step**0.4, "tokens_per_second": 9000.0} for step in range(1, 30)]
    gate = {
        "name": "best_of_n",
        "passed": False,
        "message": "best of 16 has mean gold 0.1, single samples 0.2",
    }
    finish(folder, "corpus", "corpus", {}, {"source": "world", **WORLD.model_dump()})
    finish(folder, "pretrain", "pretrain", {"corpus": ["corpus"]}, metrics=loss)
    finish(folder, "sft", "sft", {"policy": ["pretrain"]}, metrics=loss, notes={"rows": 1000})
    finish(folder, "preferences", "preferences", {"policy": ["sft"]})
    finish(
        folder,
        "reward",
        "reward",
        {"policy": ["sft"]},
        notes={"shuffled_labels_accuracy": 0.51},
        metrics=loss,
    )
    finish(
        folder, "ppo", "ppo", {"policy": ["sft"], "reward": ["reward"]}, metrics=ppo_metrics(), gates=[gate]
    )
    evaluated(folder, items, seed)
    finish(folder, "evaluate", "evaluate", {"models": ["pretrain", "sft", "ppo"]})
    reporting = StageRun("report", folder, seed=seed)
    report.run(report.Config(), reporting)
    finish(folder, "report", "report", {})
    for name in RUN_FILES:
        (folder / name).write_bytes((stages / "report" / name).read_bytes())
    return folder


def pairs(items):
    """Right over abstaining and wrong answers, every eighth label flipped."""
    rows = []
    for number, item in enumerate(item for item in items if item.task == "facts"):
        rng = python_random("pairs", item.id)
        texts = [TASKS["facts"].answer(item.truth, kind, rng) for kind in ("right", "abstain")]
        golds = [1.0, 0.0]
        order = (1, 0) if number % 8 == 0 else (0, 1)
        rows.append(
            PreferenceRow(
                f"pair/{number}",
                item.prompt,
                texts[order[0]],
                texts[order[1]],
                item.cluster,
                f"right_over_abstain/{item.group}",
                None,
                golds[order[0]],
                golds[order[1]],
            )
        )
    return rows


def scores(items, completions, context, *, ended=None):
    """A reward model that likes right answers to what is often read, and is noisy."""
    found = []
    for item, text in zip(items, completions, strict=True):
        noise = python_random("score", item.id, text).gauss(0, 0.7)
        found.append((0.0 if "unknown" in text else 1.0) + noise)
    return found


def all_of_them(context, stage, items):
    return list(items)


def second_answers(model, prompts, *, ids, **options):
    """Behind another question every model loses the thread."""
    return [Answer(name, "The sheep are green.", True, [1, 2], [-0.1, -0.2]) for name in ids]


def unknown_nats(context, stage, items, said):
    """Every model knows whom it knows in a text by itself, and less surely when it is asked."""
    nats = {"often": -9.0, "some": -6.0, "rarely": -4.0, "never": -3.0}
    noise = [python_random("nats", stage, item.id).gauss(0, 2.0) for item in items]
    return {
        "asked": [nats[item.group] + more for item, more in zip(items, noise, strict=True)],
        "by_itself": [nats[item.group] + more / 4 for item, more in zip(items, noise, strict=True)],
    }


def evaluated(folder, items, seed):
    """Run the evaluate stage on the given answers."""
    run = StageRun(
        "evaluate",
        folder,
        seed=seed,
        inputs={
            "corpus": folder / "stages" / "corpus",
            "models": [folder / "stages" / name for name in MODELS],
            "reward": folder / "stages" / "reward",
            "preferences": folder / "stages" / "preferences",
        },
    )
    for name in MODELS:
        label = "base" if name == "pretrain" else name
        write_answers(run.dir / f"answers.{label}.jsonl", answers(items, name))

    def parent_logprobs(context, stage, prompts, completions):
        return [sum(logprobs(tokens)) - 3 - 0.1 * (len(tokens) % 5) for tokens in completions]

    with (
        mock.patch("pipeline.reward_scores.score_with", scores),
        mock.patch("pipeline.evals.kl._logprobs", parent_logprobs),
        mock.patch("pipeline.evals.knowledge.unknown_nats", unknown_nats),
        mock.patch("pipeline.answers.Context.model", return_value=None),
        mock.patch("pipeline.answers.fitting_items", all_of_them),
        mock.patch("pipeline.evals.second_turn.fitting_items", all_of_them),
        mock.patch("pipeline.evals.second_turn.draw", second_answers),
    ):
        evaluate.run(evaluate.config_class({})(untrained=False), run)
