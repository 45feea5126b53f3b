"""Work outside a run is gone on with; what nobody goes on with is forgotten."""

import os
import time
from contextlib import suppress

import pytest

from pipeline.kept_work import KEPT_DAYS, kept_work
from pipeline.run_directory import locked


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fledge" / "work"


def begin(what, read):
    """Some work that is interrupted; returns its folder."""
    with suppress(KeyboardInterrupt), kept_work({"what": what}, [read]) as folder:
        (folder / "answers.jsonl").write_text("{}\n")
        raise KeyboardInterrupt
    return folder


def make_old(folder, days):
    then = time.time() - days * 24 * 3600
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def test_the_same_work_goes_on_and_is_removed_when_it_is_done(cache, tmp_path):
    read = tmp_path / "read.txt"
    read.write_text("as it is")
    begun = begin(1, read)
    with kept_work({"what": 1}, [read]) as folder:
        assert folder == begun
        assert (folder / "answers.jsonl").read_text() == "{}\n"
    assert not begun.exists()
    # Other settings, or another state of what is read, are other work.
    again = begin(1, read)
    assert begin(2, read) != again
    read.write_text("another text")
    assert begin(1, read) != again


def test_what_was_begun_long_ago_is_forgotten_unless_a_process_is_at_it(cache, tmp_path):
    old, used, recent = (begin(what, tmp_path / "none") for what in (1, 2, 3))
    make_old(old, KEPT_DAYS + 1)
    make_old(recent, KEPT_DAYS - 1)
    with locked(used):
        make_old(used, KEPT_DAYS + 1)
        begin(4, tmp_path / "none")
        assert [folder.exists() for folder in (old, used, recent)] == [False, True, True]
