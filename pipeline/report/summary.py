"""The table that ends a run in the terminal: what each stage did, and some prompts answered side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.report import prototype, verdicts
from pipeline.report.build import HTML, number, stage_table
from pipeline.report.causes import cause
from pipeline.report.read import RunData, read_chains

if TYPE_CHECKING:
    from rich.console import Console

NUM_PROMPTS = 4
MAX_CHARACTERS = 300  # of an answer; the report has all of it
NARROWEST = 15  # characters of a column in which sentences can be read
# Rows of the short table, those that exist.
SHORT = (
    "gold/mean",
    "facts/often/right",
    "facts/never/hallucinated",
    "bias/stereotyped",
    "refusal/harmful",
    "refusal/harmless",
    "second_turn/gold",
    "proxy/mean",
    "length",
    "ends",
    "loss/held_out",
    "loss/bits_per_byte",
)


def print_summary(run_dir: Path, console: Console) -> None:
    """Print what each stage did, the verdict, the targets, some prompts answered side by side, the report's path.

    A run without an evaluation gets its stages and their times. Model text is printed as text, without control
    characters.
    """
    chains = read_chains(run_dir)
    for chain in chains:
        _print_stages(chain, console)
        if chain.fault:
            console.print(f"{chain.label}: {chain.fault.told}", markup=False, highlight=False, soft_wrap=True)
        if chain.model_names:
            _print_figures(chain, console)
            _print_orientation(chain, console)
            _print_targets(chain, console)
    evaluated = [chain for chain in chains if chain.model_names]
    if evaluated:
        _print_prompts(evaluated[0], console)
    failed = [(stage.name, gate) for chain in chains for stage in chain.stages for gate in stage.gates]
    for name, gate in failed:
        if gate["passed"] is False:
            console.print(
                f"gate failed, {name}, {gate['name']}: {gate['message']}", markup=False, highlight=False
            )
    if (run_dir / HTML).is_file():
        console.print(f"report: {run_dir / HTML}", markup=False, highlight=False, soft_wrap=True)


def _print_stages(chain: RunData, console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"{chain.label}: stages", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("last metrics")
    for stage in chain.stages:
        seconds = (stage.record.get("timings") or {}).get("seconds")
        table.add_row(stage.name, number(seconds, 1), _last_metrics(stage.metrics))
    console.print(table)


def _last_metrics(metrics: list[dict]) -> str:
    """The last value of the metrics that a person looks for first."""
    found = []
    for name in ("loss", "valid_loss", "eval_loss", "accuracy", "score", "gold", "kl"):
        values = [row[name] for row in metrics if isinstance(row.get(name), int | float)]
        if values:
            found.append(f"{name.replace('_', ' ')} {values[-1]:.3f}")
    return ", ".join(found)


def _print_figures(chain: RunData, console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"{chain.label}: what each stage did", title_justify="left", box=None, pad_edge=False)
    table.add_column("figure")
    for stage in chain.model_names:
        table.add_column(stage, justify="right")
    for row in stage_table(chain):
        if row["name"] in SHORT:
            cells = [f"{number(figure.value)}" if figure else "–" for figure, _ in row["cells"]]
            table.add_row(verdicts.words(row["name"]), *cells)
    console.print(table)
    for step in verdicts.stage_verdicts(chain):
        console.print(f"{step.after} against {step.before}: {step.word}", markup=False, highlight=False)
        for sentence in step.sentences():
            _print_hanging(sentence, console)


def _print_orientation(chain: RunData, console: Console) -> None:
    from rich.table import Table

    lines = prototype.orientation(chain)
    if not lines:
        return
    console.print(prototype.LABEL, markup=False, highlight=False)
    _print_hanging(prototype.MEANING, console)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in prototype.COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(line.label, *line.cells, style="bold" if line.ours else "dim")
    console.print(table)


def _print_targets(chain: RunData, console: Console) -> None:
    """Print how many targets of the closed world are reached, and a line with the limit for each other."""
    found = [(bar, cause(chain, bar)) for bar in verdicts.bars(chain)]
    if not found:
        return
    num_met = sum(why is None for _, why in found)
    console.print(f"{chain.label}: {num_met} of {len(found)} targets reached", markup=False, highlight=False)
    last = None
    for bar, why in found:
        if why:
            value = bar.value.partition(" (")[0]
            reason = "as above" if why == last else why.evidence[0]
            told = f"{bar.what}, {bar.stage}: {value}, target {bar.target}. Limit {why.limit}: {reason}"
            _print_hanging(told.replace("Limit not measured: ", ""), console)
            last = why


def _print_hanging(line: str, console: Console) -> None:
    """Print a line whose second and later rows are set in."""
    from rich.padding import Padding
    from rich.text import Text

    first, *others = Text(line).wrap(console, max(20, console.width - 4))
    console.print(Padding(first, (0, 0, 0, 2)))
    for row in others:
        console.print(Padding(row, (0, 0, 0, 4)))


def _print_prompts(chain: RunData, console: Console) -> None:
    """Print what each model answered: in columns, or where they would be narrow, each answer with who gave it."""
    from rich.table import Table
    from rich.text import Text

    title, prompts = "the same prompts, answered side by side", verdicts.transcripts(chain, NUM_PROMPTS)
    if console.width < NARROWEST * (1 + len(chain.model_names)):
        console.print(title, style="italic", highlight=False)
        for row in prompts:
            console.print(Text(printable(row["prompt"])), style="bold")
            for names, record, _ in verdicts.by_answer(row["answers"]):
                _print_hanging(f"{names}: {printable(record.completion)}", console)
        return
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("prompt", ratio=3)
    for stage in chain.model_names:
        table.add_column(stage, ratio=4)
    for row in prompts:
        said = {stage: record.completion for stage, record, _ in row["answers"]}
        texts = [row["prompt"], *(said.get(stage, "") for stage in chain.model_names)]
        table.add_row(*(Text(printable(text)) for text in texts))
    console.print(table)


def printable(text: str) -> str:
    """A text without terminal escapes, bidirectional controls and the like, shortened."""
    kept = "".join(
        character if character.isprintable() or character == "\n" else " " for character in text.strip()
    )
    return kept if len(kept) <= MAX_CHARACTERS else kept[: MAX_CHARACTERS - 1] + "…"
