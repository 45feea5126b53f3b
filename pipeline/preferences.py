"""The parts of the preference stage: pairs of the corpus, candidates, labelled pairs, what is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.randomness import key, python_random
from data.rows import Item, PreferenceRow, read_jsonl, require_rows, write_jsonl
from data.sampler import order
from data.world import annotator
from data.world.gold import judge, knows

if TYPE_CHECKING:
    from pipeline.run import StageRun
    from pipeline.stages.preferences import Config

CHUNK = 512  # prompts sampled between two checkpoints

Candidates = list[list[tuple[str, str]]]  # for each item (kind, completion) pairs


def of_corpus(config: Config, run: StageRun) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """Read the corpus' own pairs (training, test); training pairs are thinned as `keep` says."""
    corpus: Path = run.inputs["corpus"]
    train, test = (_read(corpus / f"preferences.{split}.jsonl") for split in ("train", "test"))
    kinds = {row.kind for row in train} | {row.kind.partition("/")[0] for row in train}
    unknown = sorted(set(config.keep) - kinds)
    if unknown:
        raise InputError(
            f"{run.name}: keep names the kind `{unknown[0]}`; the corpus has pairs of "
            f"{', '.join(sorted(kinds)) or 'no kind'}"
        )
    kept = [row for row in train if key(run.key("keep"), row.id) < _share(config, row.kind) * 2**63]
    return kept, test


def _read(path: Path) -> list[PreferenceRow]:
    return read_jsonl(path, PreferenceRow) if path.exists() else []


def _share(config: Config, kind: str) -> float:
    return config.keep.get(kind, config.keep.get(kind.partition("/")[0], 1.0))


def items(config: Config, run: StageRun) -> list[Item]:
    """The closed world's RL prompts, those whose truth gold can read; a keyed choice of `num_prompts`."""
    path = run.inputs["corpus"] / "items.rl.jsonl"
    found = [item for item in read_jsonl(path, Item) if knows(item)] if path.exists() else []
    return [found[place] for place in sorted(order(run.key("prompts"), 0, len(found))[: config.num_prompts])]


def candidates(config: Config, run: StageRun, items: Sequence[Item]) -> Candidates:
    """Sample from the policy and write variants; samples of finished chunks are read from the checkpoint.

    A sample without an end is no candidate: as text it could not be told from one that ended.
    """
    newest = run.checkpoints.latest()
    sampled: list[list[str]] = []
    if newest:
        sampled = json.loads((newest.path / "samples.json").read_text(encoding="utf-8"))
    total = len(items) * config.samples_per_prompt
    done = len(sampled) * config.samples_per_prompt
    with run.progress("sampling", total, "samples", done) as bar:
        policy = _policy(run) if len(sampled) < len(items) and config.samples_per_prompt else None
        while len(sampled) < len(items):
            chunk = items[len(sampled) : len(sampled) + CHUNK]
            sampled += _sample(config, run, policy, chunk) if policy else [[] for _ in chunk]
            run.checkpoints.save(len(sampled), partial(_write, sampled))
            bar.advance(len(chunk) * config.samples_per_prompt)
            run.check_stop()
    num = sum(map(len, sampled))
    run.note(
        prompts=len(items), samples=num, samples_without_end=len(items) * config.samples_per_prompt - num
    )
    found: Candidates = []
    for item, texts in zip(items, sampled, strict=True):
        variants = annotator.variants(item, python_random(run.key("variants", item.id)))
        found.append(
            [*((annotator.ON_POLICY, text) for text in texts), *(variants if config.variants else [])]
        )
    return found


def _policy(run: StageRun) -> Any:
    from pipeline.language_model import LanguageModel

    return LanguageModel.load(run.inputs["policy"], device=run.device)


def _sample(config: Config, run: StageRun, policy: Any, items: Sequence[Item]) -> list[list[str]]:
    """The completions of each prompt that ended."""
    num = config.samples_per_prompt
    drawn = policy.generate(
        [item.prompt for item in items for _ in range(num)],
        keys=[run.key("sample", item.id, sample) for item in items for sample in range(num)],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
    )
    rows = [drawn[start : start + num] for start in range(0, len(drawn), num)]
    return [[one.text for one in row if one.ended and one.text.strip()] for row in rows]


def _write(sampled: list[list[str]], folder: Path) -> None:
    (folder / "samples.json").write_text(json.dumps(sampled, ensure_ascii=False), encoding="utf-8")


def pairs(
    config: Config, run: StageRun, items: Sequence[Item], candidates: Candidates
) -> list[PreferenceRow]:
    """Draw labelled pairs from each prompt's candidates; writes candidates.jsonl with their gold."""
    rows: list[PreferenceRow] = []
    lines: list[dict[str, Any]] = []
    for item, found in zip(items, candidates, strict=True):
        rows += annotator.pairs(
            item,
            found,
            python_random(run.key("pairs", item.id)),
            noise=config.label_noise,
            pairs_per_prompt=config.pairs_per_prompt,
        )
        for kind, text in found:
            gold = judge(item, text)
            line = {"id": item.id, "kind": kind, "completion": text, "gold": gold.score}
            lines.append({**line, "outcome": gold.outcome})
    with run.publish("candidates.jsonl") as path:
        write_jsonl(path, lines)
    return rows


def held_out_clusters(config: Config, run: StageRun, rows: Sequence[PreferenceRow]) -> set[str]:
    """A keyed choice of whole clusters, by hash: new rows never move old ones, nor does another round."""
    clusters = {row.cluster for row in rows}
    stream = key(run.seed, "preferences", "held_out")  # whatever the stage is called
    return {name for name in clusters if key(stream, name) < config.test_share * 2**63}


def publish(run: StageRun, train: list[PreferenceRow], test: list[PreferenceRow]) -> None:
    """Write both files and note how many pairs there are of each kind, and how noisy the labels are."""
    require_rows(train, what=f"{run.name}: training pairs", removed={"held out for testing": len(test)})
    require_rows(test, what=f"{run.name}: held-out pairs", removed={"kept for training": len(train)})
    for name, rows in (("train", train), ("test", test)):
        with run.publish(f"{name}.jsonl") as path:
            write_jsonl(path, rows)
    known = [row for row in train if row.chosen_gold is not None and row.rejected_gold is not None]
    flipped = sum((row.chosen_gold or 0) < (row.rejected_gold or 0) for row in known)
    run.note(
        pairs_train=len(train),
        pairs_test=len(test),
        clusters_test=len({row.cluster for row in test}),
        kinds_train=dict(sorted(Counter(row.kind for row in train).items())),
        kinds_test=dict(sorted(Counter(row.kind for row in test).items())),
        labels_flipped=flipped / len(known) if known else None,
    )
