"""Votes on the disk: rows that a reward model trains on, whatever happens to the process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import InputError
from data.rows import PreferenceRow, read_jsonl, user
from pipeline.chat.votes import UNDECIDED, VOTES, Ballot, Vote


def vote(verdict="left", left="yes", right="no", prompt="Is it?"):
    return Vote(user(prompt), "base", "ppo", left, right, verdict, {"run": "quickstart", "blind": True})


def test_a_vote_becomes_a_preference_row_with_where_it_comes_from(tmp_path):
    ballot = Ballot(tmp_path)
    ballot.cast(vote("left"))
    ballot.cast(vote("right", prompt="And now?"))
    first, second = read_jsonl(tmp_path / VOTES, PreferenceRow)
    assert (first.prompt, first.chosen, first.rejected) == (user("Is it?"), "yes", "no")
    assert (second.chosen, second.rejected) == ("no", "yes")
    assert (first.kind, second.kind) == ("vote/base_over_ppo", "vote/ppo_over_base")
    assert first.provenance == {"run": "quickstart", "blind": True}
    assert first.id != second.id


def test_ties_prefer_nothing_and_stand_apart(tmp_path):
    ballot = Ballot(tmp_path)
    for verdict in ("tie", "both_bad"):
        ballot.cast(vote(verdict))
    assert not (tmp_path / VOTES).exists()
    rows = [json.loads(line) for line in (tmp_path / UNDECIDED).read_text().splitlines()]
    assert [row["verdict"] for row in rows] == ["tie", "both_bad"]
    assert rows[0]["answers"] == {"base": "yes", "ppo": "no"}
    assert ballot.counted == Ballot(tmp_path).counted == (0, 2, 0, 0)


def test_repeated_and_contradicting_votes_are_kept_and_counted(tmp_path):
    ballot = Ballot(tmp_path)
    told = [ballot.cast(one)[:2] for one in (vote(), vote(), vote("right"), vote("left", prompt="Other?"))]
    assert told == [(False, False), (True, False), (False, True), (False, False)]
    assert ballot.counted == Ballot(tmp_path).counted == (4, 0, 1, 1)


@pytest.mark.parametrize(("left", "right"), [("a", "a"), (" ", "a"), ("a\n", "a")])
def test_answers_that_cannot_be_compared_are_refused(tmp_path, left, right):
    with pytest.raises(InputError, match="equal or one is empty"):
        Ballot(tmp_path).cast(vote("left", left, right))
    assert not (tmp_path / VOTES).exists()


@pytest.mark.parametrize("torn", [b'{"id": "vote/1", "pro', b"\xff\xfe", b'{"id": "x"}'])
def test_a_torn_last_line_is_cut_and_nothing_else(tmp_path, torn):
    ballot = Ballot(tmp_path)
    ballot.cast(vote())
    before = (tmp_path / VOTES).read_bytes()
    (tmp_path / VOTES).write_bytes(before + torn)
    again = Ballot(tmp_path)
    assert again.counted.votes == 1
    assert (tmp_path / VOTES).read_bytes() == before
    again.cast(vote("right"))
    assert len(read_jsonl(tmp_path / VOTES, PreferenceRow)) == 2


def test_a_malformed_row_is_named_and_not_overwritten(tmp_path):
    (tmp_path / VOTES).write_text('{"prompt": "x"}\n')
    with pytest.raises(InputError, match=r"votes.jsonl:1: missing column `chosen`"):
        Ballot(tmp_path)
    assert (tmp_path / VOTES).read_text() == '{"prompt": "x"}\n'


def test_two_ballots_on_one_file_lose_nothing(tmp_path):
    first, second = Ballot(tmp_path), Ballot(tmp_path)
    for place in range(10):
        (first, second)[place % 2].cast(vote(prompt=f"Question {place}?"))
    assert Ballot(tmp_path).counted.votes == 10


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    ballot = Ballot(tmp_path)
    ballot.cast(vote())
    before = (tmp_path / VOTES).read_bytes()

    def full(descriptor, data, write=os.write):
        if len(data) > 20:
            return write(descriptor, data[:20])  # so much fits
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        ballot.cast(vote("right"))
    assert (tmp_path / VOTES).read_bytes() == before
    assert ballot.counted.votes == 1


SCRIPT = """
import sys
from pathlib import Path
from data.rows import user
from pipeline.chat.votes import Ballot, Vote
ballot = Ballot(Path(sys.argv[1]))
for place in range(100_000):
    ballot.cast(Vote(user(f"Question {place}?"), "base", "ppo", "yes " * 50, "no", "left", {}))
    print(place, flush=True)
"""


def test_acknowledged_votes_survive_sigkill(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    for _ in range(23):
        acknowledged = int(process.stdout.readline())
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    acknowledged = int((process.stdout.read().split() or [acknowledged])[-1])
    process.stdout.close()
    process.wait()
    rows = read_jsonl(tmp_path / VOTES, PreferenceRow) if Ballot(tmp_path) else []
    assert len(rows) - 1 in (acknowledged, acknowledged + 1)
    assert [row.prompt[0]["content"] for row in rows] == [f"Question {n}?" for n in range(len(rows))]
