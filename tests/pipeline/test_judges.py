"""The judge's client against an endpoint on this machine that replies well, badly, slowly or not at all."""

import json
import math
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

from pipeline import judges
from pipeline.judges import Endpoint, Question, both_orders, combined, parse_verdict, rule

KEY = "secret-key-1"


def completion(text):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def longer_wins(body, _):
    """A judge who prefers the longer answer."""
    shown = body["messages"][-1]["content"]
    first, second = (shown.split(f"<answer_{x}>\n")[1].split("\n</answer_")[0] for x in "ab")
    word = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return completion(f"One is longer.\nVerdict: {word}")


QUESTION = Question("Hi", "long answer", "short")


def ask(url, questions=(QUESTION,), **settings):
    quick = {"num_retries": 2, "retry_seconds": 0.0, "timeout_seconds": 5.0} | settings
    return list(rule(Endpoint(url, "m", **quick), list(questions), nothing_kept()))


def nothing_kept():
    """A memory in which nothing is found."""
    return SimpleNamespace(get=lambda request: None, add=lambda request, reply: None)


# --- what a reply says


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("A is true.\nVerdict: A", 1.0),
        ("Reasons.\n\n**Verdict:** B.\n", 0.0),
        ("verdict: tie", 0.5),
        ("B", 0.0),
        (" **Tie** ", 0.5),
    ],
)
def test_a_verdict_is_read(reply, score):
    assert parse_verdict(reply) == score


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot say.",
        "Verdict: A or B",
        "Verdict: C",
        "Verdict: A\nVerdict: B",
        "Verdict: A\nBut then again, no.",
        "A good answer",
        "The line `Verdict: A` is what you want, and I will not give it.",
        "Both are fine, but A",
    ],
)
def test_a_reply_without_a_clear_verdict_has_none(reply):
    assert math.isnan(parse_verdict(reply))


def test_orders_are_combined_so_that_a_win_needs_both():
    # (ours shown first, theirs shown first): the second score is that of theirs.
    assert combined(1.0, 0.0) == (1.0, 0.0)
    assert combined(0.0, 1.0) == (0.0, 0.0)
    assert combined(1.0, 1.0) == (0.5, 1.0)  # always the first
    assert combined(0.0, 0.0) == (0.5, 1.0)  # always the second
    assert combined(0.5, 0.5) == (0.5, 0.0)
    assert combined(1.0, 0.5) == (0.5, 1.0)
    assert all(math.isnan(value) for pair in ((1.0, math.nan), (math.nan, 0.0)) for value in combined(*pair))


# --- calls


def test_answers_keep_their_order_whatever_the_order_of_the_replies(serve):
    def slow_at_first(body, number):
        time.sleep(0.2 / number)
        return longer_wins(body, number)

    url, calls = serve(slow_at_first)
    pairs = [("Hi", "x" * ours, "x" * 7) for ours in (3, 7, 11, 13, 2, 5)]
    found = [ruling.score for ruling in ask(url, both_orders(pairs), num_parallel=5)]
    assert found == [0, 1, 0.5, 0.5, 1, 0, 1, 0, 0, 1, 0, 1]
    assert len(calls) == 12


def test_the_request_is_that_of_the_chat_api(serve):
    url, calls = serve(longer_wins)
    ask(url, key=KEY, max_tokens=7)
    path, headers, body = calls[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 7)
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    ask(f"{url}/chat/completions", temperature=None, max_tokens=None)
    path, headers, body = calls[1]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert not {"temperature", "max_tokens"} & set(body)


def test_no_more_calls_run_at_a_time_than_allowed(serve):
    running, most, lock = [0], [0], threading.Lock()

    def count(body, number):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return longer_wins(body, number)

    url, _ = serve(count)
    ask(url, [Question("Hi", "a", "bb")] * 20, num_parallel=3)
    assert 2 <= most[0] <= 3


def test_a_passing_failure_is_tried_again(serve):
    url, calls = serve(lambda body, n: (500, b"busy") if n < 3 else longer_wins(body, n))
    assert ask(url)[0].score == 1
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("reply", "num_calls", "message"),
    [
        ((500, b"busy"), 3, "HTTP 500: busy"),
        ((429, b"", ("Retry-After", "0.01")), 3, "HTTP 429"),
        ((401, b"bad key"), 1, "HTTP 401: bad key"),
        ((404, b"no such model"), 1, "HTTP 404"),
        ((200, b"<html>"), 3, "no choices"),
        ((200, b'{"choices": []}'), 3, "no choices"),
        ((200, b'{"choices": [{"message": {"content": null}}]}'), 3, "no choices"),
    ],
)
def test_a_failed_call_is_no_verdict_of_any_kind(serve, reply, num_calls, message):
    url, calls = serve(lambda body, n: reply)
    ruling = ask(url)[0]
    assert math.isnan(ruling.score)
    assert ruling.text.startswith("failed: ")
    assert message in ruling.text
    assert len(calls) == num_calls


def test_a_reply_without_a_verdict_is_kept_and_not_asked_again(serve):
    url, calls = serve(lambda body, n: completion("Hard to say."))
    ruling = ask(url)[0]
    assert math.isnan(ruling.score)
    assert ruling.text == "Hard to say."
    assert len(calls) == 1


def test_a_silent_server_times_out(serve):
    release = threading.Event()

    def silent(body, number):
        release.wait(5)
        return longer_wins(body, number)

    url, _ = serve(silent)
    began = time.monotonic()
    ruling = ask(url, timeout_seconds=0.1, num_retries=1)[0]
    release.set()
    assert math.isnan(ruling.score)
    assert time.monotonic() - began < 2


def test_a_server_that_drips_times_out(serve):
    def drip(body, number):
        def pieces():
            for _ in range(100):
                time.sleep(0.03)
                yield b" "

        return 200, pieces()

    url, _ = serve(drip)
    began = time.monotonic()
    ruling = ask(url, timeout_seconds=0.15, num_retries=0)[0]
    assert "took too long" in ruling.text
    assert time.monotonic() - began < 1.5


def test_nobody_at_the_other_end_is_a_failed_call(serve):
    ruling = ask("http://127.0.0.1:9", num_retries=0)[0]
    assert math.isnan(ruling.score)
    assert "refused" in ruling.text


def test_the_server_says_how_long_to_wait(serve, monkeypatch):
    waits = []
    monkeypatch.setattr(judges.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    replies = {
        1: (429, b"", ("Retry-After", "7")),
        2: (503, b"", ("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")),
        3: (503, b"", ("Retry-After", "999")),
    }
    url, _ = serve(lambda body, n: replies.get(n) or longer_wins(body, n))
    endpoint = Endpoint(url, "m", retry_seconds=2.0, num_retries=3)
    assert judges._rule_one(endpoint, QUESTION, judges.Event()).score == 1
    # The server's wish, what doubles where it names a date, and never more than a minute.
    assert [seconds for seconds in waits if seconds is not None] == [7, 4, 60]


def test_the_key_goes_to_no_other_host_and_into_no_text(serve):
    other, stolen = serve(longer_wins)
    url, _ = serve(lambda body, n: (302, b"", ("Location", f"{other}/chat/completions")))
    ruling = ask(url, key=KEY)[0]
    assert math.isnan(ruling.score)
    assert stolen == []
    url, _ = serve(lambda body, n: (401, f"wrong key {KEY}".encode()))
    assert ask(url, key=KEY)[0].text == "failed: HTTP 401: wrong key [key]"
    url, _ = serve(lambda body, n: completion(f"Your key is {KEY}.\nVerdict: A"))
    assert ask(url, key=KEY)[0].text == "Your key is [key].\nVerdict: A"
    assert KEY not in repr(Endpoint(url, "m", KEY))


def test_after_an_early_stop_nobody_is_asked(serve):
    url, calls = serve(lambda body, n: (time.sleep(0.02), *longer_wins(body, n))[1:])
    with closing(
        rule(Endpoint(url, "m", num_parallel=1), [Question("Hi", "a", "bb")] * 50, nothing_kept())
    ) as given:
        next(given)
    assert len(calls) < 5
