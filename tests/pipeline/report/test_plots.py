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


def learning():
    """Curves of two models: few-shot on one task, fine-tuning of all layers and of the last on another."""
    figures = [figure(f"few_shot/towns/{k}", stage, 0.1) for stage in ("base", "sft") for k in (0, 8)]
    figures += [figure("fine_tuning/facts/0", "sft", 0.2)]
    for layers, value in (("all", 0.8), ("last", 0.4)):
        figures += [figure(f"fine_tuning/facts/{layers}/{num}", "sft", value) for num in (256, 16)]
    figures += [figure("few_shot/towns/gain", "sft", 0.0), figure("few_shot/facts/0", "sft", 0.3)]
    models = [{"name": name, "parent": None, "plain": False} for name in ("base", "sft")]
    return RunData("hand", {}, {}, [], Evaluation(models, figures, [], []))


def test_curves_of_few_examples_go_up_in_number_and_start_where_nothing_was_learnt():
    found = plots.few_examples_curves(learning())
    assert {
        name: {line: [num for num, _ in points] for line, points in curves.items()}
        for name, curves in found.items()
    } == {
        ("few_shot", "towns"): {("base", ""): [0, 8], ("sft", ""): [0, 8]},
        ("fine_tuning", "facts"): {("sft", "all"): [0, 16, 256], ("sft", "last"): [0, 16, 256]},
    }
    start = found["fine_tuning", "facts"]["sft", "last"][0][1]
    assert start.value == 0.2
    picture = plots.pictures(learning(), "p")["few_examples"]
    assert "fine-tuning: facts" in picture
    assert picture.count(">base<") == picture.count(">sft<") == picture.count(">sft, last layer<") == 1
    assert "few_examples" not in plots.pictures(aligned(), "p")


def of_worlds(names):
    """Models that show what was injected into each one's own text."""
    shares = {name: 0.5 + number / (2 * len(names)) for number, name in enumerate(names)}
    figures = [
        Figure(f"bias/{kind}", name, value, value, value, 100, 50, "", {"injected": value} if value else {})
        for name, share in shares.items()
        for kind, value in (("stereotyped", share), ("counter", 1 - share), ("neutral", 0.0))
    ]
    models = [{"name": name, "parent": None, "plain": True} for name in names]
    return RunData("hand", {}, {}, [], Evaluation(models, figures, [], [])), shares


def test_what_was_injected_is_drawn_through_the_bar_of_each_model():
    run, shares = of_worlds(["base", "bias_50", "bias_90"])
    (axis,) = plots.bias_bars(run).axes
    dotted = [line for line in axis.lines if line.get_label() == "injected"]
    assert [line.get_ydata()[0] for line in dotted] == list(shares.values())
    bars = [bars[0] for bars in axis.containers if hasattr(bars, "patches")]
    for line, bar in zip(dotted, bars, strict=True):
        assert line.get_xdata()[0] < bar.get_x() < bar.get_x() + bar.get_width() < line.get_xdata()[1]


def test_no_legend_is_wider_than_its_picture():
    run, _ = of_worlds([f"a model with a long name {n}" for n in range(6)])
    canvas = plots.bias_bars(run)
    (legend,) = canvas.legends
    assert legend.get_window_extent().width <= canvas.bbox.width
    assert len(legend.get_texts()) == 7
