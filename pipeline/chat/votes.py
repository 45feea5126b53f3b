"""Votes on answers, kept as preference rows that a reward model can be trained on.

`votes.jsonl` in the run's folder holds a row for every vote for one side, in the format of preference rows; a tie
and "both bad" prefer nothing and go to `votes_undecided.jsonl`. A vote is on the disk when it is acknowledged: it
is appended under a lock and synced. A torn line at the end of a file was never acknowledged, and is cut.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.errors import InputError
from data.rows import Message, PreferenceRow, content_hash, from_dict, to_dict
from pipeline.chat.session import Conversation, Sampling
from pipeline.checkpoint import fsync_path

VOTES, UNDECIDED = "votes.jsonl", "votes_undecided.jsonl"
Verdict = Literal["left", "right", "tie", "both_bad"]
VERDICTS: tuple[Verdict, ...] = ("left", "right", "tie", "both_bad")


@dataclass(frozen=True)
class Vote:
    """Two answers to one prompt with what somebody thought of them; `provenance` tells how they were made."""

    prompt: tuple[Message, ...]
    left: str
    right: str
    left_text: str
    right_text: str
    verdict: Verdict
    provenance: dict[str, Any]

    @property
    def differ(self) -> bool:
        """Whether there is something to compare: two answers that are not empty and not equal."""
        texts = (self.left_text.strip(), self.right_text.strip())
        return all(texts) and texts[0] != texts[1]


def vote_on(
    conversation: Conversation,
    sides: tuple[str, str],
    verdict: Verdict,
    *,
    run: str,
    sampling: Sampling,
    attempt: int = 0,
    blind: bool = False,
) -> Vote:
    """A vote on the answers of two stages, left and right, to the last turn of a conversation.

    Where earlier answers of the two differ, the prompt is what the preferred side was given.

    Raises:
        InputError: there is no answer of a side.
    """
    answers = conversation.turns[-1].answers if conversation.turns else {}
    missing = [name for name in sides if name not in answers]
    if missing:
        raise InputError(f"the last turn has no answer of {missing[0]}; ask it first")
    left, right = sides
    return Vote(
        prompt=tuple(conversation.messages(right if verdict == "right" else left)),
        left=left,
        right=right,
        left_text=answers[left],
        right_text=answers[right],
        verdict=verdict,
        provenance={
            "run": run,
            "left": left,
            "right": right,
            "blind": blind,
            "sampling": sampling.model_dump(mode="json"),
            "attempt": attempt,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


class Counted(NamedTuple):
    """How many votes a run holds; `duplicates` repeat an earlier one, `contradictions` turn one around."""

    votes: int
    undecided: int
    duplicates: int
    contradictions: int


class Cast(NamedTuple):
    """What became of a vote, and the counts after it."""

    duplicate: bool
    contradiction: bool
    counted: Counted


class Ballot:
    """The votes of one run."""

    def __init__(self, folder: Path) -> None:
        """Read what was voted before; a torn last line is cut from the file.

        Raises:
            InputError: a row of the file is malformed.
        """
        self.folder = folder
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._counted = Counted(0, 0, 0, 0)
        if (folder / VOTES).exists():
            for row in self._rows():
                self._count(row)
        if (folder / UNDECIDED).exists():
            with _locked(folder / UNDECIDED) as (_, contents):
                num = contents.count(b"\n")
            self._counted = self._counted._replace(undecided=num)

    @property
    def counted(self) -> Counted:
        """The counts so far."""
        return self._counted

    def cast(self, vote: Vote) -> Cast:
        """Keep a vote; it is on the disk when this returns.

        Raises:
            InputError: the two answers are equal or one is empty, so that they cannot be compared.
            OSError: it cannot be written; nothing was kept.
        """
        if not vote.differ:
            raise InputError(
                "the answers are equal or one is empty, so there is nothing to prefer; ask again"
            )
        with self._lock:
            return self._cast(vote)

    def _cast(self, vote: Vote) -> Cast:
        if vote.verdict not in ("left", "right"):
            _append(self.folder / UNDECIDED, _undecided(vote))
            self._counted = self._counted._replace(undecided=self._counted.undecided + 1)
            return Cast(False, False, self._counted)
        row = _row(vote)
        _append(self.folder / VOTES, to_dict(row))
        before = self._counted
        self._count(row)
        after = self._counted
        return Cast(after.duplicates > before.duplicates, after.contradictions > before.contradictions, after)

    def _rows(self) -> Iterator[PreferenceRow]:
        path = self.folder / VOTES
        with _locked(path) as (_, contents):
            for number, line in enumerate(contents.splitlines(), start=1):
                try:
                    yield from_dict(PreferenceRow, json.loads(line), default_id=f"{path.name}:{number}")
                except ValueError as error:
                    raise InputError(f"{path}:{number}: {error}; mend or remove the line") from None

    def _count(self, row: PreferenceRow) -> None:
        turned = PreferenceRow(row.id, row.prompt, row.rejected, row.chosen)
        votes, undecided, duplicates, contradictions = self._counted
        self._counted = Counted(
            votes + 1,
            undecided,
            duplicates + (content_hash(row) in self._seen),
            contradictions + (content_hash(turned) in self._seen),
        )
        self._seen.add(content_hash(row))


def _row(vote: Vote) -> PreferenceRow:
    sides = [(vote.left, vote.left_text), (vote.right, vote.right_text)]
    (better, chosen), (worse, rejected) = sides if vote.verdict == "left" else sides[::-1]
    return PreferenceRow(
        id=f"vote/{uuid.uuid4().hex}",
        prompt=vote.prompt,
        chosen=chosen,
        rejected=rejected,
        kind=f"vote/{better}_over_{worse}",
        provenance=vote.provenance,
    )


def _undecided(vote: Vote) -> dict[str, Any]:
    return {
        "prompt": [dict(message) for message in vote.prompt],
        "answers": {vote.left: vote.left_text, vote.right: vote.right_text},
        "verdict": vote.verdict,
        "provenance": vote.provenance,
    }


def _append(path: Path, record: dict[str, Any]) -> None:
    """Append a line and sync it; where that fails the file is as before."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with _locked(path) as (descriptor, contents):
        try:
            while line:
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, len(contents))
            raise
    if not contents:
        fsync_path(path.parent)  # the file is new


@contextmanager
def _locked(path: Path) -> Iterator[tuple[int, bytes]]:
    """Open a file alone, to append to: its descriptor and contents; a torn line at the end is cut."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        contents = path.read_bytes()
        whole = contents.rfind(b"\n") + 1
        if whole < len(contents):
            os.ftruncate(descriptor, whole)
        yield descriptor, contents[:whole]
    finally:
        os.close(descriptor)
