"""A tiny run whose models are drawn, for evaluations that need models."""

from pipeline.checkpoint import write_json

TEXTS = [
    f"The {animal} sat on the {thing}.\nIt was {n} years old."
    for n, (animal, thing) in enumerate(
        [(a, t) for a in ("cat", "dog", "hen") for t in ("mat", "log", "fen", "hill")]
    )
]


def finished(chain):
    """Record the evaluation's settings, which the command takes over."""
    (chain / "stages" / "evaluate").mkdir(exist_ok=True)
    settings = {"max_new_tokens": 9, "suite": None}
    write_json(chain / "stages" / "evaluate" / "stage.json", {"stage": "evaluate", "config": settings})
