"""Accuracy of the reward model on held-out preference pairs, or those of any file, by contrast or source."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from data.errors import InputError
from data.row_files import FileSettings, read_rows, row_files
from data.rows import Item, PreferenceRow, read_jsonl
from pipeline.answers import Context, Records, shown_prompt
from pipeline.checkpoint import sha256
from pipeline.measured import Measured, of_records, win_score
from pipeline.ranked_pairs import OVER, RANKING, length_only
from pipeline.records import Record
from pipeline.run_directory import STAGE_JSON, read_json

KIND = "measure"
SUITE = "reward"
NAME = "reward_accuracy"
REWARD = "reward"
MIN_PAIRS = 20  # a contrast with fewer pairs gets no figure of its own


class Config(FileSettings):
    """Which pairs are judged; the others concern a file of one's own."""

    path: str = Field(
        "",
        description="File or folder of preference rows, also below data_root; empty: the run's test pairs.",
    )


def own_files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the pairs where they are not the run's."""
    return row_files([config.path], data_root) if config.path else []


def items(context: Context) -> list[Item]:
    """No questions: the completions are there.

    Raises:
        InputError: a file is named, and it is not there, or there is no reward model to judge it.
    """
    config: Config = context.options[NAME]
    if own_files(config, context.run.data_root) and context.folder(REWARD) is None:
        raise InputError(
            f"{NAME}: no reward model to judge the pairs of {config.path}; evaluate a run that has one, or name "
            "its stage, such as quickstart/reward"
        )
    return []


def measure(context: Context) -> list[Record]:
    """Score each pair: 1 where the better completion scores higher, 1/2 for a tie.

    `true_order` follows gold where it is known, and nothing else; `label` follows the label, noise included;
    `label_by_gold` says whether the label agrees with gold; `longer` prefers the longer completion.
    """
    from pipeline.reward_scores import score_with

    rows = _pairs(context)
    if not context.folders(REWARD) or not rows:
        return []
    asked = [Item(row.id, row.prompt, row.cluster, "pair") for row in rows]
    chosen = score_with(asked, [row.chosen for row in rows], context)
    rejected = score_with(asked, [row.rejected for row in rows], context)
    records = []
    for row, item, better, worse in zip(rows, asked, chosen, rejected, strict=True):
        label = win_score(better, worse)
        scores = {"label": label, "longer": win_score(len(row.chosen), len(row.rejected))}
        if row.chosen_gold is not None and row.rejected_gold is not None:
            agrees = win_score(row.chosen_gold, row.rejected_gold)
            scores["label_by_gold"] = agrees
            if agrees != 0.5:
                scores["true_order"] = label if agrees == 1 else 1 - label
        note = f"chosen {better:+.2f}, rejected {worse:+.2f}"
        shown = f"{row.chosen}{OVER}{row.rejected}"
        for name, score in scores.items():
            question, answer = (shown_prompt(item), shown) if name == "label" else ("", "")
            records.append(
                Record(
                    row.id,
                    row.cluster,
                    REWARD,
                    NAME,
                    name,
                    question,
                    answer,
                    score,
                    row.kind,
                    "",
                    note,
                )
            )
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Accuracy in the true order (as labelled where gold is unknown), the ceiling, and contrasts by kind.

    Nulls: chance and an untrained reward model, the length of the completions, a model of shuffled labels; of the
    ceiling labels by a coin, as no model has a part in it.
    """
    rows = {stage: found for stage, found in records.items() if stage == REWARD}
    if not rows:
        return []
    true_order = of_records(rows, measure="true_order")
    labelled = of_records(rows, measure="label")
    main, by_what = (true_order, "true_order") if true_order else (labelled, "label")
    own = not context.options[NAME].path
    shuffled = _shuffled(context.folder(REWARD)) if own else {}
    longer = _longer(rows[REWARD])
    by_label = {REWARD: {**RANKING, **length_only(longer.values()), **shuffled}}
    by_gold = {REWARD: {**RANKING, **length_only(_in_true_order(longer, rows[REWARD])), **shuffled}}
    nulls = by_gold if true_order else by_label
    found = [Measured("reward/accuracy", "share", "rate", main, better=1, nulls=nulls)]
    if true_order:
        ceiling = of_records(rows, measure="label_by_gold")
        found.append(
            Measured("reward/accuracy_on_labels", "share", "rate", labelled, better=1, nulls=by_label)
        )
        coin = {REWARD: {"labels_by_coin": 0.5}}
        found.append(Measured("reward/ceiling", "share", "rate", ceiling, better=1, nulls=coin))
    kinds = dict.fromkeys(row.group for row in rows[REWARD] if row.group and row.measure == by_what)
    for kind in kinds:
        scores = of_records(rows, measure=by_what, group=kind)
        if len(scores.get(REWARD, ())) >= MIN_PAIRS:
            found.append(Measured(f"reward/accuracy/{kind}", "share", "rate", scores, 1, {REWARD: RANKING}))
    return found


def _pairs(context: Context) -> list[PreferenceRow]:
    """The pairs of the file that is named, else the run's own for testing; their digest is noted of a file."""
    config: Config = context.options[NAME]
    if config.path:
        rows, notes = read_rows(config, config.path, PreferenceRow, context.run.data_root)
        digests = [sha256(path)[:16] for path in own_files(config, context.run.data_root)]
        context.run.note(reward_accuracy={"file": Path(config.path).name, "sha256": digests, **notes})
        return rows
    folder = context.folder("preferences")
    path = folder / "test.jsonl" if folder else None
    return read_jsonl(path, PreferenceRow) if path and path.exists() else []


def _longer(rows: list[Record]) -> dict[str, float]:
    """By pair, 1 where the completion of the label is the longer one, 1/2 where both are equally long."""
    return {row.id: row.score for row in of_records({REWARD: rows}, measure="longer")[REWARD]}


def _in_true_order(longer: dict[str, float], rows: list[Record]) -> list[float]:
    """The same of the completion that gold prefers, where it prefers one."""
    agrees = of_records({REWARD: rows}, measure="label_by_gold").get(REWARD, [])
    return [longer[row.id] if row.score == 1 else 1 - longer[row.id] for row in agrees if row.score != 0.5]


def _shuffled(folder: Path | None) -> dict[str, float]:
    """Accuracy of a reward model trained on shuffled labels, where the reward stage measured it."""
    notes = (read_json(folder / STAGE_JSON) or {}).get("notes", {}) if folder else {}
    found = notes.get("shuffled_labels_accuracy")
    return {"shuffled_labels": float(found)} if isinstance(found, int | float) else {}
