"""What the pictures show and leave out."""

from pipeline.records import Comparison, Figure
from pipeline.report import plots
from pipeline.report.read import Evaluation, RunData

MODELS = ["sft", "dpo", "ppo", "wild"]


def figure(name, stage, value):
    return Figure(name, stage, value, value - 0.01, value + 0.01, 100, 50, "", {})


def aligned():
    """Two healthy models, and one far away whose gold fell."""
    placed = {"dpo": (0.9, 0.57), "ppo": (1.1, 0.59), "wild": (19.6, -0.48)}
    figures = [figure("gold/mean", "sft", 0.42)]
    for stage, (kl, gold) in placed.items():
        figures += [figure("kl", stage, kl), figure("gold/mean", stage, gold)]
    models = [{"name": name, "parent": None if name == "sft" else "sft", "plain": False} for name in MODELS]
    return RunData("hand", {}, {}, [], Evaluation(models, figures, [fell("wild")], []))


def fell(stage):
    return Comparison(
        "gold/mean", "sft", stage, -0.9, -0.97, -0.83, 100, 50, 1, 0.0, None, 0, 0, None, 0.1, ""
    )


def test_the_frontier_writes_collapsed_models_out_instead_of_drawing_them():
    picture = plots.pictures(aligned(), "p")["frontier"]
    assert "outside: wild, KL 19.6, -0.48" in picture.replace("\N{MINUS SIGN}", "-")
    assert picture.count(">wild<") == 0
    assert picture.count(">ppo<") == 1
