"""What `fledge evaluate` prints: every figure with its interval and nulls, and the changes that it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = ("stage", "value", "95 % interval", "n")
INSET, GAP = 2, 2  # columns before a line of a figure, and between its cells
NARROWEST = 24  # columns; nulls that would have fewer beside the numbers stand below them
JOINED = "\u00a0"  # a space at which no line ends
Figures = Sequence[Mapping[str, Any]]  # of one name, as in figures.json


def print_figures(label: str, results: Mapping[str, Any], console: Console) -> None:
    """Print every figure with its interval, unit and nulls, and the comparisons that found something.

    A figure's name has a line of its own, and below it one for each stage. An item that could not be scored
    stands beside the number of those that were.
    """
    from rich.text import Text

    from pipeline.measured import NO_EVIDENCE

    found: dict[str, list[Mapping[str, Any]]] = {}
    for figure in results["figures"]:
        if "_minus_" not in figure["name"]:
            found.setdefault(figure["name"], []).append(figure)
    unscored = {(row["name"], row["stage"]): row["num"] for row in results["unscored"]}
    cells = {name: [_cells(figure, unscored) for figure in figures] for name, figures in found.items()}
    every = [HEADINGS, *(row for rows in cells.values() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = [label, *_row(HEADINGS, "what trivial answers give", widths, console.width)]
    for name, figures in found.items():
        lines += figure_lines(name, figures, cells[name], widths, console.width)
    for row in results["comparisons"]:
        if row["verdict"] != NO_EVIDENCE:
            change = f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            told = f"{row['verdict']}: {row['name']}, {row['before']} to {row['after']}: {change}"
            lines += _hanging(told, console.width)
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def figure_lines(
    name: str, figures: Figures, cells: Sequence[Sequence[str]], widths: Sequence[int], width: int
) -> list[str]:
    """A figure's name with its unit and the nulls that all stages share; a line for each stage with its own.

    No line is longer than `width` but where the numbers alone are.
    """
    nulls = [{null: _number(value) for null, value in figure["nulls"].items()} for figure in figures]
    shared = {null: value for null, value in nulls[0].items() if all(own.get(null) == value for own in nulls)}
    units = ", ".join(dict.fromkeys(figure["unit"] for figure in figures))
    lines = _hanging(f"{name}  {'; '.join(filter(None, (units, _told(shared))))}", width)
    for row, own in zip(cells, nulls, strict=True):
        lines += _row(row, _told({null: own[null] for null in own if null not in shared}), widths, width)
    return lines


def _cells(figure: Mapping[str, Any], unscored: Mapping[tuple[str, str], int]) -> tuple[str, ...]:
    missing = unscored.get((figure["name"], figure["stage"]))
    interval = f"{_number(figure['low'])} to {_number(figure['high'])}"
    n = f"{figure['n']}" + (f" + {missing} unscored" if missing else "")
    return figure["stage"], _number(figure["value"]), interval, n


def _row(cells: Sequence[str], nulls: str, widths: Sequence[int], width: int) -> list[str]:
    """The stage on the left and its numbers on the right of their columns, then the nulls."""
    gap = " " * GAP
    numbers = gap.join(cell.rjust(size) for cell, size in zip(cells[1:], widths[1:], strict=True))
    line = f"{'':{INSET}}{cells[0]:{widths[0]}}{gap}{numbers}"
    if not nulls:
        return [line]
    start = len(line) + GAP
    if width - start < NARROWEST:
        inset = " " * 2 * INSET
        return [line, *_wrapped(nulls, width, inset, inset)]
    return _wrapped(nulls, width, line + gap, " " * start)


def _hanging(line: str, width: int) -> list[str]:
    """A line whose second and later rows are set in."""
    return _wrapped(line, width, "", " " * 2 * INSET)


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    """The lines of a text behind what each begins with; none ends within a name or before its value."""
    lines = wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
    return [line.replace(JOINED, " ") for line in lines]


def _told(nulls: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}{JOINED}{value}" for name, value in nulls.items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
