"""The chat page from the real server, in a real browser: votes are rows, and a killed server loses none."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.rows import PreferenceRow, read_jsonl
from pipeline.chat.known import known_of
from pipeline.chat.votes import VOTES

KIT = runpy.run_path(str(Path(__file__).with_name("fake_server.py")))
send, texts = KIT["send"], KIT["texts"]
ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, runpy, sys
from dataclasses import replace
from pathlib import Path
import pipeline.chat.service as service_module
from pipeline.chat.server import serve
from pipeline.chat.voices import Voices

parts = runpy.run_path(sys.argv[1])
make = parts["new_voice"]
voices = {name: make(name, parts["says"](*(f"{name} says {n}." for n in range(997))), plain=name == "base")
          for name in ("base", "sft", "ppo")}
service_module.open_run = lambda run: Voices("artificial", tuple(voices), voices.__getitem__, Path(run))
serve(sys.argv[2], port=0, announce=lambda line: print(line, flush=True))
"""


@pytest.fixture
def served(artificial_run, tmp_path):
    """A function that starts a server over a copy of a run; gives its address, the process, the folder."""
    import shutil

    folder = tmp_path / "artificial"
    shutil.copytree(artificial_run, folder)
    (folder / "report.html").write_text("<!doctype html><title>report</title><p>the report")
    started = []

    def start():
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).with_name("conftest.py")), str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        line = process.stdout.readline()
        return next(word for word in line.split() if word.startswith("http")), process, folder

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_visitor_talks_votes_and_finds_everything_again_after_the_server_was_killed(browser, served):
    address, process, folder = served()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.click(".suggestion >> nth=0")
    page.wait_for_selector("article:last-child .gold")
    assert all(text.startswith(f"{name} says") for name, text in texts(page).items())
    known = known_of(folder)
    assert page.inner_text(".question") == known.suggestions[0].prompt
    for place in range(10):  # two votes each: the best of three beats two
        send(page, f"Question {place}?")
        page.click(f".turn:last-child .votes button >> nth={place % 3}")
        page.locator(".turn:last-child", has_text=f"{2 * place + 2} votes so far").wait_for()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rows = read_jsonl(folder / VOTES, PreferenceRow)
    assert len(rows) == 20
    first = rows[0]
    assert first.prompt[-1]["content"] == "Question 0?"
    assert first.kind == "vote/base_over_sft"
    assert first.chosen.startswith("base says")
    assert first.provenance["blind"] is False
    send(page, "Is anybody there?", done=False)
    page.locator("#error", has_text="server").wait_for()

    assert not [url for url in asked if not url.startswith((address, "data:"))]
    errors = [text for text in said if "Failed to load resource" not in text]  # of the server that is gone
    assert errors == []
    context.close()

    again, _, _ = served()
    fresh = browser.new_context().new_page()
    fresh.goto(again)
    fresh.click(".suggestion >> nth=1")
    fresh.wait_for_selector(".turn .votes")
    fresh.click(".turn .votes button >> nth=0")
    fresh.locator(".turn", has_text="22 votes so far").wait_for()
    fresh.reload()
    fresh.wait_for_selector(".turn .answer, .turn .said")
    assert fresh.inner_text(".question") == known.suggestions[1].prompt
    with fresh.context.expect_page() as opened:
        fresh.click("text=Report")
    opened.value.wait_for_load_state()
    assert "the report" in opened.value.content()
    fresh.context.close()
    assert json.loads((folder / VOTES).read_text().splitlines()[-1])["provenance"]["run"] == "artificial"
