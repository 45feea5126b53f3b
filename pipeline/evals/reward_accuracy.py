"""Held-out accuracy of the reward model on preference pairs, overall and by contrast or source."""

from __future__ import annotations

from pathlib import Path

from data.rows import Item, PreferenceRow
from data.settings import Settings
from pipeline.answers import Context, Records, shown_prompt
from pipeline.measured import Measured, Scored, of_records, win_score
from pipeline.records import Record
from pipeline.run_directory import STAGE_JSON, read_json

KIND = "measure"
SUITE = "reward"
REWARD = "reward"
MIN_PAIRS = 20  # a contrast with fewer pairs gets no figure of its own


class Config(Settings):
    """No settings."""


def measure(context: Context) -> list[Record]:
    """Score each pair: 1 where the better completion scores higher, 1/2 for a tie.

    `true_order` follows gold where it is known, and nothing else; `label` follows the label, noise included;
    `label_by_gold` says whether the label agrees with gold; `longer` prefers the longer completion.
    """
    reward, preferences = context.folder(REWARD), context.folder("preferences")
    if reward is None or preferences is None or not (preferences / "test.jsonl").exists():
        return []
    from data.rows import read_jsonl
    from pipeline.reward_scores import score_with

    rows = read_jsonl(preferences / "test.jsonl", PreferenceRow)
    asked = [Item(row.id, row.prompt, row.cluster, "pair") for row in rows]
    chosen = score_with(reward, asked, [row.chosen for row in rows], context)
    rejected = score_with(reward, asked, [row.rejected for row in rows], context)
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
        shown = f"{row.chosen}\n--- over ---\n{row.rejected}"
        for name, score in scores.items():
            question, answer = (shown_prompt(item), shown) if name == "label" else ("", "")
            records.append(
                Record(
                    row.id,
                    row.cluster,
                    REWARD,
                    "reward_accuracy",
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
    """Accuracy in the true order (as labelled where gold is unknown), the ceiling, and contrasts by kind."""
    rows = {stage: found for stage, found in records.items() if stage == REWARD}
    if not rows:
        return []
    true_order = of_records(rows, measure="true_order")
    labelled = of_records(rows, measure="label")
    main, by_what = (true_order, "true_order") if true_order else (labelled, "label")
    nulls = {REWARD: {"chance": 0.5, **_length_only(rows[REWARD]), **_shuffled(context.folder(REWARD))}}
    found = [Measured("reward/accuracy", "share", "rate", main, better=1, nulls=nulls)]
    if true_order:
        ceiling = of_records(rows, measure="label_by_gold")
        found.append(Measured("reward/accuracy_on_labels", "share", "rate", labelled, better=1, nulls=nulls))
        found.append(Measured("reward/ceiling", "share", "rate", ceiling, better=1))
    kinds = dict.fromkeys(row.group for row in rows[REWARD] if row.group and row.measure == by_what)
    for kind in kinds:
        scores = of_records(rows, measure=by_what, group=kind)
        if len(scores.get(REWARD, ())) >= MIN_PAIRS:
            found.append(
                Measured(f"reward/accuracy/{kind}", "share", "rate", scores, 1, {REWARD: {"chance": 0.5}})
            )
    return found


def _length_only(rows: list[Record]) -> dict[str, float]:
    """Accuracy of always taking the longer completion, or the shorter where that is better."""
    longer: list[Scored] = of_records({REWARD: rows}, measure="longer")[REWARD]
    share = sum(row.score for row in longer) / len(longer)
    return {"longer": share} if share >= 0.5 else {"shorter": 1 - share}


def _shuffled(folder: Path | None) -> dict[str, float]:
    """Accuracy of a reward model trained on shuffled labels, where the reward stage measured it."""
    notes = (read_json(folder / STAGE_JSON) or {}).get("notes", {}) if folder else {}
    found = notes.get("shuffled_labels_accuracy")
    return {"shuffled_labels": float(found)} if isinstance(found, int | float) else {}
