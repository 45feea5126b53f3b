"""The report's pictures as inline SVG: deterministic bytes, page fonts, colours that follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.calibration import risk_at
from pipeline.overoptimisation import best_of_n_kl
from pipeline.report.collapse import reasons
from pipeline.report.read import LEARNS_FROM_REWARD, RunData, StageData, kl_curve
from pipeline.report.tables import dose_response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from pipeline.records import Figure

TIERS = ("often", "some", "rarely", "never")
# Okabe and Ito's palette, told apart by colour-blind readers.
OUTCOMES = {
    "right": "#009E73",
    "abstain": "#56B4E9",
    "wrong": "#D55E00",
    "fabricated": "#CC79A7",
    "malformed": "#999999",
}
STAGES = ("#8c8c8c", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
# Placeholders that the page replaces by its own colours; drawn in no other role.
INK, GRID = "#010101", "#020202"
PAGE_COLOURS = {INK: "var(--ink)", GRID: "var(--line)"}
MOST_LEVEL_LETTERS = 10  # of names under one panel; more would run into each other
FEW_MODELS = 4  # more bars need more room
GLANCE = 4.4  # inches: three pictures of this width stand beside each other
# Shares right after a number of examples: evaluation, task, layers that were trained (of fine-tuning), number.
EXAMPLES = re.compile(r"(few_shot|fine_tuning)/([^/]+)/(?:(all|last)/)?(\d+)")
LOSS_NAMES = ("loss", "valid_loss", "eval_loss", "held_out_loss")


def pictures(run: RunData, prefix: str) -> dict[str, str]:
    """All pictures that the run has data for, by name; `prefix` keeps their ids apart on one page."""
    makers: dict[str, Callable[[RunData], Canvas | None]] = {
        "stack": hallucination_stack,
        "exposure": exposure_curve,
        "bias": bias_bars,
        "reward_kl": reward_kl,
        "frontier": frontier,
        "losses": loss_curves,
        "risk_coverage": risk_coverage,
        "dose_response": dose_response_line,
        "few_examples": few_examples,
    }
    found = {}
    with _style():
        for name, make in makers.items():
            canvas = make(run)
            if canvas is not None:
                found[name] = _svg(canvas, f"{prefix}-{name}")
    return found


def hallucination_stack(run: RunData) -> Canvas | None:
    """Stacked shares of the outcomes of fact questions, by tier and model."""
    tiers = (
        [tier for tier in TIERS if run.figure(f"facts/{tier}/right", run.model_names[0])]
        if run.model_names
        else []
    )
    if not tiers:
        return None
    canvas, axes = _subplots(1, len(tiers), width=_glance(run), height=2.9, sharey=True)
    for place, (axis, tier) in enumerate(zip(axes, tiers, strict=True)):
        bottom = np.zeros(len(run.model_names))
        for outcome, colour in OUTCOMES.items():
            found = [run.figure(f"facts/{tier}/{outcome}", stage) for stage in run.model_names]
            values = np.array([figure.value if figure else 0.0 for figure in found])
            axis.bar(run.model_names, values, bottom=bottom, color=colour, width=0.72, label=outcome)
            bottom += values
        axis.set_title(f"seen {tier}" if tier != "never" else "never seen")
        axis.set_ylim(0, 1)
        axis.grid(axis="x", visible=False)
        if sum(map(len, run.model_names)) > MOST_LEVEL_LETTERS:
            axis.tick_params(axis="x", rotation=90)
        if place == 0:
            axis.set_ylabel("share of answers")
    _legend_below(canvas, [axes[0]], 3)
    return canvas


def exposure_curve(run: RunData) -> Canvas | None:
    """Right, hallucinated and abstaining answers against how often a fact stood in the training text."""
    corpus = next((stage.config for stage in run.stage_of("corpus")), {})
    counts = {tier: int(corpus.get(tier) or 0) for tier in TIERS}
    tiers = [tier for tier in reversed(TIERS) if counts[tier] or tier == "never"]
    if not run.model_names or run.figure("facts/never/right", run.model_names[0]) is None or len(tiers) < 2:
        return None
    panels = ("right", "hallucinated", "abstain")
    canvas, axes = _subplots(1, len(panels), width=_glance(run), height=2.9, sharey=True)
    for axis, outcome in zip(axes, panels, strict=True):
        for stage, colour in _colours(run.model_names).items():
            pairs = [(tier, run.figure(f"facts/{tier}/{outcome}", stage)) for tier in tiers]
            drawn = [(tier, figure) for tier, figure in pairs if figure]
            # log(1 + n), so that never has a place
            x = [float(np.log1p(counts[tier])) for tier, _ in drawn]
            y = [figure.value for _, figure in drawn]
            axis.plot(x, y, color=colour, marker="o", markersize=3.5, label=stage)
            axis.fill_between(
                x, [f.low for _, f in drawn], [f.high for _, f in drawn], color=colour, alpha=0.18, lw=0
            )
        axis.set_title(outcome)
        axis.set_ylim(-0.02, 1.02)
        axis.set_xticks(
            [float(np.log1p(counts[tier])) for tier in tiers], [str(counts[tier]) for tier in tiers]
        )
    axes[1].set_xlabel("times read per epoch")
    axes[0].set_ylabel("share of answers")
    _legend_below(canvas, [axes[0]], len(run.model_names))
    return canvas


def bias_bars(run: RunData) -> Canvas | None:
    """Stereotyped, counter-stereotyped and neutral stories by model, beside the injected share."""
    kinds = ("stereotyped", "counter", "neutral")
    stages = [stage for stage in run.model_names if run.figure("bias/stereotyped", stage)]
    if not stages:
        return None
    canvas, (axis,) = _subplots(1, 1, width=GLANCE, height=2.9)
    places, width = np.arange(len(kinds)), 0.8 / len(stages)
    for number, (stage, colour) in enumerate(_colours(stages).items()):
        at = places + (number - (len(stages) - 1) / 2) * width
        figures = [run.figure(f"bias/{kind}", stage) for kind in kinds]
        values = [figure.value if figure else 0.0 for figure in figures]
        errors = np.array([[f.value - f.low, f.high - f.value] if f else [0, 0] for f in figures]).T
        axis.bar(at, values, width * 0.92, color=colour, label=stage)
        axis.errorbar(at, values, np.maximum(errors, 0), fmt="none", ecolor=INK, lw=1)
        injected = figures[0].nulls.get("injected") if figures[0] else None
        if injected is not None:
            ends = [at[0] - width / 2, at[0] + width / 2]
            axis.plot(ends, [injected] * 2, color=INK, ls=":", lw=1.4, label="injected")
    axis.set_xticks(places, kinds)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("share of stories")
    axis.grid(axis="x", visible=False)
    _legend_below(canvas, [axis], len(stages) + 1)
    return canvas


def reward_kl(run: RunData) -> Canvas | None:
    """The reward that was optimised and gold against sqrt(KL), with Gao's form fitted, a panel a stage."""
    stages = [s for s in run.stage_of(*LEARNS_FROM_REWARD) if len(kl_curve(s, "score")) > 1]
    if not stages:
        return None
    columns = min(len(stages), 3)
    rows = -(-len(stages) // columns)
    canvas, axes = _subplots(rows, columns, width=4.6 * columns, height=2.8 * rows)
    for axis, stage in zip(axes, stages, strict=False):
        for name, colour, label in (("score", "#E69F00", "reward (proxy)"), ("gold", "#0072B2", "gold")):
            points = kl_curve(stage, name)
            if len(points) < 2:
                continue
            axis.scatter(points[:, 0], points[:, 1], s=7, color=colour, alpha=0.45, lw=0, label=label)
            fitted = run.fits.get((stage.name, name))
            if fitted:
                d = np.linspace(max(points[:, 0].min(), 1e-3), points[:, 0].max(), 60)
                axis.plot(d, fitted.at(d), color=colour, lw=1.8, label=f"{label}, fitted")
                if name == "gold" and fitted.peak_kl and fitted.peak_kl[0] ** 0.5 <= points[:, 0].max():
                    axis.axvline(fitted.peak_kl[0] ** 0.5, color=INK, ls=":", lw=1.2)
        axis.set_xlabel("sqrt(KL), KL in nats per completion")
        axis.set_ylabel("mean per batch")
        axis.set_title(stage.name)
    for axis in axes[len(stages) :]:
        axis.set_visible(False)
    _legend_below(canvas, [axes[0]], 2)
    return canvas


def frontier(run: RunData) -> Canvas | None:
    """Gold and the learned reward of every tuned model against its KL, beside best-of-n at its bound.

    Models that have collapsed would hide how the others differ; they are written out below.
    """
    outside = [stage for stage in run.model_names if run.figure("kl", stage) and reasons(run, stage)]
    tuned = [stage for stage in run.model_names if run.figure("kl", stage) and stage not in outside]
    if len(tuned) < 2:
        return None
    names = [name for name in ("gold/mean", "proxy/mean") if run.figure(name, tuned[0])]
    canvas, axes = _subplots(1, len(names), width=4.6 * len(names), height=3.0)
    for axis, name in zip(axes, names, strict=True):
        for stage, colour in _colours(run.model_names).items():
            value, kl = run.figure(name, stage), run.figure("kl", stage)
            if stage in tuned and value and kl:
                axis.errorbar(
                    [kl.value],
                    [value.value],
                    xerr=[[kl.value - kl.low], [kl.high - kl.value]],
                    yerr=[[value.value - value.low], [value.high - value.value]],
                    fmt="o",
                    color=colour,
                    lw=1,
                    label=stage,
                )
        points = best_of_n_points(run, "gold" if name == "gold/mean" else "reward")
        if points:
            axis.plot(
                *zip(*points, strict=True), color=INK, ls="--", marker=".", label="best of n, at most this KL"
            )
        axis.set_xlabel("KL from the SFT model, nats per completion")
        axis.set_ylabel("gold" if name == "gold/mean" else "learned reward")
        for line, (stage, *place) in enumerate(_values(run, outside, name)):
            axis.annotate(
                f"outside: {stage}, KL {place[0]:.1f}, {place[1]:.2f}",
                (0.98, 0.04 + 0.08 * line),
                xycoords="axes fraction",
                ha="right",
                fontsize=8,
            )
    _legend_below(canvas, [axes[0]], 4)
    return canvas


def _values(run: RunData, stages: Sequence[str], name: str) -> list[tuple[str, float, float]]:
    """(model, KL, value of a figure) of those that have both."""
    found = [(stage, run.figure("kl", stage), run.figure(name, stage)) for stage in stages]
    return [(stage, kl.value, figure.value) for stage, kl, figure in found if kl and figure]


def best_of_n_points(run: RunData, name: str) -> list[tuple[float, float]]:
    """(bound of the KL, mean) of best-of-n for every n that was measured."""
    prefix = f"best_of_n/{name}/"
    sizes = [
        (int(f.name.removeprefix(prefix)), f.value)
        for f in run.evaluation.figures
        if f.name.startswith(prefix)
    ]
    return [(best_of_n_kl(n), value) for n, value in sorted(sizes)]


def loss_curves(run: RunData) -> Canvas | None:
    """Losses of the supervised stages over their steps."""
    stages = [s for s in run.stage_of("pretrain", "sft", "reward", "dpo") if _losses(s)]
    if not stages:
        return None
    canvas, axes = _subplots(1, len(stages), width=2.7 * len(stages), height=2.4)
    for axis, stage in zip(axes, stages, strict=True):
        for (name, points), colour in zip(_losses(stage).items(), STAGES[2:], strict=False):
            axis.plot(*zip(*points, strict=True), color=colour, lw=1.3, label=name.replace("_", " "))
        axis.set_title(stage.name)
        axis.set_xlabel("step")
    axes[0].set_ylabel("loss")
    _legend_below(canvas, [axes[0]], 3)
    return canvas


def risk_coverage(run: RunData) -> Canvas | None:
    """Share wrong among the most confident answers, by how many of the attempted ones they are."""
    rows = {stage: confidences(run, stage) for stage in run.model_names}
    drawn = {stage: found for stage, found in rows.items() if len(found) > 1}
    if not drawn:
        return None
    canvas, (axis,) = _subplots(1, 1, width=GLANCE, height=2.9)
    for stage, colour in _colours(run.model_names).items():
        if stage in drawn:
            confidence, right = drawn[stage].T
            # Fewer than one in fifty are too few to speak of a share.
            coverages = np.linspace(0.02, 1, 50)
            risk = risk_at(confidence, right, coverages)
            axis.plot(coverages, risk, color=colour, lw=1.6, label=stage)
            axis.plot([0, 1], [1 - right.mean()] * 2, color=colour, lw=0.8, ls=":")
    axis.set_xlim(0, 1)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("share of attempted answers, the most confident first")
    axis.set_ylabel("share wrong among them")
    _legend_below(canvas, [axis], len(drawn))
    return canvas


def confidences(run: RunData, stage: str) -> np.ndarray:
    """(confidence, 1 for right) of every attempted answer that was scored."""
    found = run.records("calibration", "answer", stage)
    rows = [(row.weight, row.score) for row in found if row.score == row.score]
    return np.array(rows).reshape(-1, 2)


def dose_response_line(run: RunData) -> Canvas | None:
    """The bias meter's reading of every base model against what was injected, with the fitted line."""
    found = dose_response(run)
    if found is None:
        return None
    canvas, (axis,) = _subplots(1, 1, width=GLANCE, height=3.4)
    x, y = [dose.injected for dose in found.doses], [dose.figure.value for dose in found.doses]
    errors = [[d.figure.value - d.figure.low, d.figure.high - d.figure.value] for d in found.doses]
    axis.plot([0, 1], [0, 1], color=INK, ls=":", lw=1.2, label="as injected")
    if found.slope and found.intercept:
        ends = np.array([0.0, 1.0])
        line = found.intercept.value + found.slope.value * ends
        axis.plot(ends, line, color="#0072B2", lw=1.6, label="least squares")
    axis.errorbar(
        x,
        y,
        yerr=np.maximum(np.array(errors).T, 0),
        fmt="o",
        ms=4.5,
        lw=1.2,
        color="#D55E00",
        label="measured",
    )
    axis.set_xlim(-0.04, 1.04)
    axis.set_xlabel("injected excess of stereotyped pronouns")
    axis.set_ylabel("measured excess")
    _legend_below(canvas, [axis], 3)
    return canvas


def few_examples(run: RunData) -> Canvas | None:
    """Right answers after a few demonstrations in the prompt, and after fine-tuning on a few rows, by task."""
    panels = few_examples_curves(run)
    if not panels:
        return None
    rows, columns = -(-len(panels) // 3), min(len(panels), 3)
    canvas, axes = _subplots(rows, columns, width=3.1 * columns, height=2.6 * rows, sharey=True)
    for axis, ((evaluation, task), curves) in zip(axes, panels.items(), strict=False):
        for (stage, layers), points in curves.items():
            x = [float(np.log2(1 + num)) for num, _ in points]
            colour, line = _colours(run.model_names).get(stage, STAGES[0]), ":" if layers == "last" else "-"
            label = f"{stage}, last layer" if layers == "last" else stage
            axis.plot(x, [f.value for _, f in points], color=colour, ls=line, marker="o", ms=3.5, label=label)
            low, high = [f.low for _, f in points], [f.high for _, f in points]
            axis.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
        numbers = sorted({num for points in curves.values() for num, _ in points})
        axis.set_xticks([float(np.log2(1 + num)) for num in numbers], [str(num) for num in numbers])
        axis.set_title(f"{evaluation.replace('_', '-')}: {task}")
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("examples")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("share right")
    _legend_below(canvas, axes, 4)
    return canvas


def few_examples_curves(
    run: RunData,
) -> dict[tuple[str, str], dict[tuple[str, str], list[tuple[int, Figure]]]]:
    """By evaluation and task, by model and trained layers, (number of examples, share right) in order.

    Fine-tuning of any layers starts from the same answers, those after no row.
    """
    panels: dict[tuple[str, str], dict[tuple[str, str], list[tuple[int, Figure]]]] = {}
    for figure in run.evaluation.figures:
        found = EXAMPLES.fullmatch(figure.name)
        if found:
            evaluation, task, layers, num = found.groups(default="")
            curves = panels.setdefault((evaluation, task), {})
            curves.setdefault((figure.stage, layers), []).append((int(num), figure))
    for curves in panels.values():
        for stage in {stage for stage, layers in curves if layers}:
            start = curves.pop((stage, ""), [])
            for layers in [layers for name, layers in curves if name == stage]:
                curves[stage, layers] = start + curves[stage, layers]
    return {
        name: {line: sorted(points, key=lambda point: point[0]) for line, points in curves.items()}
        for name, curves in panels.items()
        if any(len(points) > 1 for points in curves.values())
    }


def _losses(stage: StageData) -> dict[str, list[tuple[float, float]]]:
    curves = {
        name: [(row["step"], row[name]) for row in stage.metrics if isinstance(row.get(name), int | float)]
        for name in LOSS_NAMES
    }
    return {name: points for name, points in curves.items() if len(points) > 1}


def _glance(run: RunData) -> float:
    """Inches that a picture with a bar or line for every model needs."""
    return GLANCE if len(run.model_names) <= FEW_MODELS else 2 * GLANCE


def _colours(stages: Sequence[str]) -> dict[str, str]:
    return {stage: STAGES[place % len(STAGES)] for place, stage in enumerate(stages)}


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "fledge",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with matplotlib.rc_context(settings):
        yield


def _subplots(
    rows: int, columns: int, *, width: float, height: float, **shared: Any
) -> tuple[Canvas, list[Axes]]:
    """A figure outside pyplot, so that no state is shared."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(canvas)
    axes = canvas.subplots(rows, columns, squeeze=False, **shared)
    return canvas, list(axes.flat)


def _legend_below(canvas: Canvas, axes: Sequence[Axes], columns: int) -> None:
    """One legend of all that the axes show, each label once, in as many columns as the picture is wide."""
    shown: dict[Any, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        shown.update(zip(labels, handles, strict=True))
    for num in range(min(columns, len(shown)), 0, -1):
        legend = canvas.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=num, handlelength=1.2
        )
        canvas.draw_without_rendering()
        if num == 1 or legend.get_window_extent().width <= canvas.bbox.width:
            return
        legend.remove()


def _svg(canvas: Canvas, prefix: str) -> str:
    """The picture as an SVG element: ids made unique, colours handed to the page, width up to the page."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    for placeholder, colour in PAGE_COLOURS.items():
        svg = svg.replace(placeholder, colour)
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None
    svg = re.sub(
        r'(<svg[^>]*?) width="[\d.]+pt"', rf'\1 style="width:{float(width[1]) * 1.25:.0f}px"', svg, count=1
    )
    return re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
