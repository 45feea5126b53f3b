"""Tables of figures that some evaluations leave: win rates, benchmarks, confidence, dose and response."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.measured import IMPROVED, REGRESSED
from pipeline.records import Comparison, Figure
from pipeline.report.read import PartlyScored, RunData
from pipeline.statistics import FEW_CLUSTERS, above_chance

WIN_RATE, JUDGE, DOSE = "win_rate", "judge", "dose_response"
COUNTERFACTUAL, REPRESENTATION = "counterfactual", "representation"
GAP, WORDING_PARTS = "wording_gap", 3  # of a figure by wording: how often it has the divider of its parts
CONTROLLED, STRENGTH = "length_controlled", "strength"  # below the name of gold's figures or of a judge's
# Nulls that say what answering at random gives; those of a guess are of accuracies alone.
GUESSES = ("guess_a_value", "guess")
CHANCE = ("chance", "uniform", *GUESSES)
AT_CHANCE = "not told apart from chance"  # in place of a verdict
NULL_WORDS = {"answer_to_another_question": "another's answer", "guess_a_value": "a guess"}
MOST_ROWS = 12  # a table with more shows its slices on demand


# --- any figures ------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A model's figure, its change from the model that it started from, and its place above chance.

    `above` is 0 at chance and 1 where all is right, None for what is no accuracy; `at_chance` is whether the
    interval holds what chance gives.
    """

    figure: Figure | None
    change: Comparison | None
    above: float | None
    at_chance: bool


@dataclass(frozen=True)
class Row:
    """One figure of every model, with the items and clusters behind it and the nulls in words."""

    name: str
    label: str
    unit: str
    cells: list[Cell]
    n: str
    nulls: str


def chance_of(figure: Figure) -> float | None:
    """What answering at random gives; None where that is not known."""
    return next((figure.nulls[name] for name in CHANCE if name in figure.nulls), None)


def above(figure: Figure) -> float | None:
    """An accuracy's place above chance, 0 for guessing and 1 for all right; None of what is no accuracy."""
    chance = chance_of(figure)
    if chance is None or chance >= 1 or not _is_accuracy(figure):
        return None
    return above_chance(figure.value, chance)


def _is_accuracy(figure: Figure) -> bool:
    name, *parts = figure.name.split("/")
    if "_minus_" in figure.name:
        return False
    known = BENCHMARKS[name].accuracies if name in BENCHMARKS else ()
    guessed = any(guess in figure.nulls for guess in GUESSES)
    return guessed or figure.name.startswith("reward/accuracy") or bool(set(parts) & set(known))


def at_chance(figure: Figure | None) -> bool:
    """Whether a figure is not told apart from chance: its interval holds what chance gives."""
    chance = chance_of(figure) if figure else None
    if figure is None or chance is None:
        return False
    return not (figure.low > chance or figure.high < chance)  # also where there is no interval


def no_conclusion(run: RunData, change: Comparison) -> bool:
    """Whether both sides of a change are at chance, so that it says nothing of either."""
    return all(at_chance(run.figure(change.name, stage)) for stage in (change.before, change.after))


def comparisons(run: RunData) -> list[Comparison]:
    """All comparisons; where both sides are at chance, the verdict says that alone."""
    return [
        replace(row, verdict=AT_CHANCE) if no_conclusion(run, row) else row
        for row in run.evaluation.comparisons
    ]


def changes(run: RunData) -> dict[tuple[str, str], Comparison]:
    """(figure, model) to the change from the model that it started from."""
    steps = {(model["parent"], model["name"]) for model in run.evaluation.models}
    return {(row.name, row.after): row for row in comparisons(run) if (row.before, row.after) in steps}


def rows_of(run: RunData, names: Iterable[str], label: Callable[[str], str]) -> list[Row]:
    """A row for each figure that a model has."""
    found, changed = [], changes(run)
    for name in names:
        figures = [run.figure(name, stage) for stage in run.model_names]
        known = [figure for figure in figures if figure]
        if not known:
            continue
        cells = [
            _cell(figure, changed.get((name, stage)))
            for stage, figure in zip(run.model_names, figures, strict=True)
        ]
        counts, nulls = items_in_words(known), nulls_in_words(known)
        found.append(Row(name, label(name), known[0].unit, cells, counts, nulls))
    return found


def _cell(figure: Figure | None, change: Comparison | None) -> Cell:
    told = change if change and change.verdict in (IMPROVED, REGRESSED) else None
    return Cell(figure, told, above(figure) if figure else None, at_chance(figure))


def items_in_words(rows: Sequence[Figure | Comparison | None]) -> str:
    """Items and clusters behind figures, `n / clusters`; a range where they differ from model to model.

    Followed by `few` where there are so few clusters that an interval is rough, and by the number of items
    that could not be scored, where there are such.
    """
    known = [row for row in rows if row]
    counts = ([row.n for row in known], [row.clusters for row in known])
    ranges = (dict.fromkeys((min(found), max(found))) for found in counts if found)
    told = " / ".join(" to ".join(map(str, ends)) for ends in ranges)
    told += " few" if any(0 < row.clusters < FEW_CLUSTERS for row in known) else ""
    missing = [row.unscored if isinstance(row, PartlyScored) else 0 for row in known]
    if not any(missing):
        return told
    return f"{told}, {' to '.join(map(str, dict.fromkeys((min(missing), max(missing)))))} unscored"


def nulls_in_words(figures: Sequence[Figure | None]) -> str:
    """What trivial answers give; a range where it differs from model to model."""
    known = [figure.nulls for figure in figures if figure]
    told = []
    for name in dict.fromkeys(name for nulls in known for name in nulls):
        values = [nulls[name] for nulls in known if name in nulls]
        texts = list(dict.fromkeys(f"{value:.3f}".replace("-", "−") for value in (min(values), max(values))))
        told.append(f"{NULL_WORDS.get(name, name.replace('_', ' '))} {' to '.join(texts)}")
    return ", ".join(told)


def _names(run: RunData, prefix: str) -> list[str]:
    """The names of the figures below a prefix, in order, without differences of stages."""
    return list(
        dict.fromkeys(
            figure.name
            for figure in run.evaluation.figures
            if figure.name.startswith(f"{prefix}/") and "_minus_" not in figure.name
        )
    )


# --- benchmarks -------------------------------------------------------------------------------------------


class Benchmark(NamedTuple):
    """How a benchmark is called, and the parts of a figure's name that make it an accuracy."""

    title: str
    accuracies: tuple[str, ...]


BENCHMARKS = {
    "truthfulqa": Benchmark("TruthfulQA", ("mc1", "mc2", "binary", "letter")),
    "simpleqa": Benchmark("SimpleQA", ()),
    "halueval": Benchmark("HaluEval", ("likelier", "per_token", "letter", "verdict")),
    "bbq": Benchmark("BBQ", ("accuracy_amb", "accuracy_dis")),
    "crows_pairs": Benchmark("CrowS-Pairs", ()),
    "winobias": Benchmark("WinoBias", ("pro", "anti")),
    "winogender": Benchmark("Winogender", ("accuracy",)),
}


class BenchmarkTable(NamedTuple):
    """A benchmark's figures; `slices` are those of a part of its items, `unclear` what chance may explain."""

    title: str
    rows: list[Row]
    slices: list[Row]
    unclear: dict[tuple[str, ...], list[str]]


def benchmarks(run: RunData) -> list[BenchmarkTable]:
    """The table of every benchmark that was evaluated."""
    found = []
    for name, benchmark in BENCHMARKS.items():
        names = _names(run, name)
        whole = [figure for figure in names if len(names) <= MOST_ROWS or figure.count("/") == 1]
        slices = [figure for figure in names if figure not in whole]
        rows, parts = (_benchmark_rows(run, name, some) for some in (whole, slices))
        if rows:
            found.append(BenchmarkTable(benchmark.title, rows, parts, _unclear(run, rows)))
    return found


def _benchmark_rows(run: RunData, name: str, figures: list[str]) -> list[Row]:
    return rows_of(
        run, figures, lambda figure: figure.removeprefix(f"{name}/").replace("_", " ").replace("/", ", ")
    )


def _unclear(run: RunData, rows: list[Row]) -> dict[tuple[str, ...], list[str]]:
    """Models to the figures in which just these are not told apart from chance."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        stages = tuple(
            stage for stage, part in zip(run.model_names, row.cells, strict=True) if part.at_chance
        )
        if stages:
            found.setdefault(stages, []).append(row.label)
    return found


# --- win rates --------------------------------------------------------------------------------------------


class Won(NamedTuple):
    """The share that the row's model won over the column's, ties half, and the same at equal length."""

    value: float
    low: float
    high: float
    controlled: float | None


class Matrix(NamedTuple):
    """Every model over every other, by one judge: a row is (model, cells by column, strength).

    `figures` are the win rates that were measured, without the other sides of the same pairs.
    """

    judge: str
    rows: list[tuple[str, list[Won | None], Figure | None]]
    health: list[Row]
    figures: list[Figure]


def win_matrices(run: RunData) -> list[Matrix]:
    """A matrix for each judge that compared models, of which one may have no verdict; gold first."""
    named = dict.fromkeys("/".join(name.split("/")[:2]) for name in _names(run, JUDGE))
    judges = {WIN_RATE: "gold"} | {
        prefix: f"the {prefix.removeprefix(f'{JUDGE}/')}".replace("_", " ") for prefix in named
    }
    found = []
    for prefix, judge in judges.items():
        rows = [
            (
                ours,
                [_won(run, prefix, ours, theirs) for theirs in run.model_names],
                run.figure(f"{prefix}/{STRENGTH}", ours),
            )
            for ours in run.model_names
        ]
        pairs = [(ours, theirs) for ours in run.model_names for theirs in run.model_names]
        shares = [run.figure(f"{prefix}/{ours}_over_{theirs}", ours) for ours, theirs in pairs]
        matrix = Matrix(judge, rows, _health(run, prefix), [share for share in shares if share])
        found += [matrix] if matrix.figures or matrix.health else []
    return found


def _won(run: RunData, prefix: str, ours: str, theirs: str) -> Won | None:
    """A share as it was measured, or seen from the other side."""
    figure = run.figure(f"{prefix}/{ours}_over_{theirs}", ours)
    controlled = run.figure(f"{prefix}/{CONTROLLED}/{ours}_over_{theirs}", ours)
    if figure:
        return Won(figure.value, figure.low, figure.high, controlled.value if controlled else None)
    figure = run.figure(f"{prefix}/{theirs}_over_{ours}", theirs)
    if figure is None:
        return None
    controlled = run.figure(f"{prefix}/{CONTROLLED}/{theirs}_over_{ours}", theirs)
    return Won(
        1 - figure.value, 1 - figure.high, 1 - figure.low, 1 - controlled.value if controlled else None
    )


def _health(run: RunData, prefix: str) -> list[Row]:
    """How a judge decided, pair by pair: verdicts that flip with the sides, wins of the longer answer, ...

    Of gold, win rates among the pairs that do not tie; of all, the win rates at equal length.
    """

    def label(name: str) -> str:
        first, second = name.removeprefix(f"{prefix}/").split("/")
        told = f"{second}, at equal length" if first == CONTROLLED else f"{first}, {second}"
        return told.replace("_", " ")

    names = [name for name in _names(run, prefix) if name.count("/") == prefix.count("/") + 2]
    return rows_of(run, names, label)


# --- wordings ---------------------------------------------------------------------------------------------


class Wordings(NamedTuple):
    """Shares of answers to unseen wordings less those to seen ones, and both alone."""

    gaps: list[Row]
    shares: list[Row]


def wordings(run: RunData) -> Wordings:
    """What a wording that no training text has makes of the answers to questions on facts."""
    names = [name for name in _names(run, "facts") if name.count("/") == WORDING_PARTS]
    gaps = [name for name in names if name.endswith(f"/{GAP}")]
    return Wordings(
        rows_of(run, gaps, lambda name: _label(name.removesuffix(f"/{GAP}"), {})),
        rows_of(run, [name for name in names if name not in gaps], lambda name: _label(name, {})),
    )


# --- confidence and abstaining ----------------------------------------------------------------------------


def confidence_rows(run: RunData) -> list[Row]:
    """Calibration error, Brier score and the like of every model, by probability and by samples."""
    labels = {"ece": "calibration error", "brier": "Brier score", "aurc": "AURC", "auroc": "AUROC"}

    def label(name: str) -> str:
        _, short, *which = name.split("/")
        if short == "risk":
            return f"wrong among the most confident {which[0]}"
        return ", ".join((labels.get(short, short.replace("_", " ")), *(w.replace("_", " ") for w in which)))

    return rows_of(run, _names(run, "calibration") + _names(run, "agreement"), label)


def confidence_words(run: RunData) -> str:
    """AURC and AUROC of every model, for the caption of the curve."""
    told = []
    for stage in run.model_names:
        aurc, auroc = (run.figure(f"calibration/{name}", stage) for name in ("aurc", "auroc"))
        if aurc:
            told.append(f"{stage}: AURC {aurc.value:.3f}" + (f", AUROC {auroc.value:.3f}" if auroc else ""))
    return "; ".join(told)


def abstention_rows(run: RunData) -> list[Row]:
    """How much is attempted, how much of that is wrong, and when a model abstains; without the scores."""
    labels = {
        "attempted": "attempted",
        "hallucinated": "hallucinated, of all",
        "hallucinated_of_attempted": "hallucinated, of attempted",
        "recall": "abstains where never seen",
        "over_abstention": "abstains where seen often",
        "f": "F of right answers",
    }
    names = [name for name in _names(run, "abstention") if not name.startswith("abstention/score/")]
    return rows_of(run, names, lambda name: _label(name, labels))


def grounding_rows(run: RunData) -> list[Row]:
    """Whether answers from a given text stay with it."""
    labels = {
        "faithful": "says what the text says",
        "intrinsic": "contradicts the text",
        "extrinsic": "adds what is not in it",
    }
    return rows_of(run, _names(run, "grounding"), lambda name: _label(name, labels))


def tax_rows(run: RunData) -> list[Row]:
    """What aligning may cost: the held-out text, the variety of answers, the tasks of the base model.

    Empty where there is one model, as nothing was aligned.
    """
    if len(run.model_names) < 2:
        return []
    labels = {
        "bits_per_byte": "held-out bits per byte",
        "distinct_1": "distinct words of stories",
        "distinct_2": "distinct pairs of words of stories",
        "identical": "stories identical to another",
    }
    names = [name for name in _names(run, "loss") if name == "loss/bits_per_byte"]
    names += [name for prefix in ("diversity", "task", "verified") for name in _names(run, prefix)]
    return rows_of(run, names, lambda name: _label(name, labels))


def _label(name: str, labels: Mapping[str, str]) -> str:
    """A figure's name without its first part, in words."""
    _, *parts = name.split("/")
    return ", ".join(labels.get(part, part.replace("_", " ")) for part in parts)


def target_rows(run: RunData, *, by_tier: bool = False) -> list[Row]:
    """Scores by confidence target over all questions, or by target and tier."""
    names = [name for name in _names(run, "abstention/score") if (name.count("/") > 2) == by_tier]
    return rows_of(run, names, lambda name: f"t = {', '.join(name.split('/')[2:])}")


# --- dose and response ------------------------------------------------------------------------------------


class Dose(NamedTuple):
    """The skew that was injected into a base model's text, and what was measured of it."""

    injected: float
    figure: Figure


class Response(NamedTuple):
    """All doses in order, the line through them, and how often the meter calls bias what is none."""

    doses: list[Dose]
    slope: Figure | None
    intercept: Figure | None
    false_positives: list[Figure]


def dose_response(run: RunData) -> Response | None:
    """What the bias meter read at every dose; None where it was not measured."""
    figures = [figure for figure in run.evaluation.figures if figure.name.startswith(f"{DOSE}/")]
    doses = [
        Dose(float(figure.name.rpartition("/")[2]), figure)
        for figure in figures
        if figure.name.startswith(f"{DOSE}/measured/") and "_minus_" not in figure.name
    ]
    if not doses:
        return None
    line = {figure.name.removeprefix(f"{DOSE}/"): figure for figure in figures}
    return Response(
        sorted(doses, key=lambda dose: (dose.injected, dose.figure.stage)),
        line.get("slope"),
        line.get("intercept"),
        [figure for figure in figures if figure.name == f"{DOSE}/false_positives"],
    )


# --- pairs and representation -----------------------------------------------------------------------------


def counterfactual_rows(run: RunData) -> list[Row]:
    """Which of two versions of a text is the more probable, that with the stereotyped pronoun or the other."""
    labels = {
        "signed": "stereotyped version likelier by",
        "absolute": "versions apart by, either way",
        "prefers_stereotyped": "stereotyped version the likelier",
        "signed_p": "p-value of their difference",
        "flip_rate": "choices that another pronoun turns",
    }
    return rows_of(run, _names(run, COUNTERFACTUAL), lambda name: _label(name, labels))


def representation_rows(run: RunData) -> list[Row]:
    """How far the pronouns of the stories are from half and half."""
    labels = {"distance": "she- and he-words, distance from even"}
    return rows_of(run, _names(run, REPRESENTATION), lambda name: _label(name, labels))
