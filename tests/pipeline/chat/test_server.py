"""The server over real HTTP on the loopback address: answers, bounds, and who may ask."""

import json
import socket
import threading
import time
from contextlib import suppress

import pytest

from data.errors import InputError
from pipeline.chat.server import Access, listen
from pipeline.chat.session import Conversation, Sampling, speak

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
CHAT = "/v1/chat/completions"
WAIT = 20.0


@pytest.fixture
def service(make_service):
    return make_service()


@pytest.fixture
def client(service, serving):
    with httpx.Client(base_url=serving(service), timeout=WAIT) as made:
        yield made


def asked(text="Begin at v", **more):
    return {"model": "sft", "messages": [{"role": "user", "content": text}], **more}


def message(reply):
    return reply.json()["error"]["message"]


# --- answers -----------------------------------------------------------------------------------------------


def test_models_are_the_stages(client):
    found = client.get("/v1/models").json()
    assert [model["id"] for model in found["data"]] == ["base", "sft", "ppo"]
    assert client.get("/v1/models/ppo").json()["owned_by"] == "quickstart"
    assert client.get("/v1/models/other").status_code == 404


def test_a_completion_says_what_the_terminal_says(client, service):
    for name in service.voices.names:
        found = client.post(CHAT, json={**asked(), "model": name}).json()
        messages = Conversation().say("Begin at v").messages(name)
        expected = list(speak(service.voices.pick(name), messages, Sampling()))[-1]
        assert found["choices"][0]["message"]["content"] == expected.text
        assert found["usage"]["completion_tokens"] == len(expected.tokens)
        assert found["choices"][0]["finish_reason"] == "stop"
    assert client.post(CHAT, json=asked(max_tokens=2)).json()["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "wx", "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }


def test_a_stream_joins_to_the_same_text_and_ends_as_clients_expect(client):
    body = asked(stream=True, n=2, stream_options={"include_usage": True})
    with client.stream("POST", CHAT, json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    *chunks, usage = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2 * 5
    for index in range(2):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in parts) == "wxyz"
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]


def test_texts_are_continued_as_they_are_by_every_stage(client):
    body = {"model": "base", "prompt": ["go on at w", "at\nx"], "logprobs": 2}
    found = client.post("/v1/completions", json=body).json()
    assert [choice["text"] for choice in found["choices"]] == ["xyz", "yz"]
    told = found["choices"][1]["logprobs"]
    assert told["tokens"] == ["y", "z"]
    assert told["text_offset"] == [0, 1]
    many = {"model": "base", "prompt": ["x"] * 16, "n": 8}
    assert client.post("/v1/completions", json=many).status_code == 400  # never to be queued together
    assert all(len(likely) == 2 for likely in told["top_logprobs"])


def test_choices_of_one_prompt_are_different_draws_and_the_same_each_time(make_service, make_voice, serving):
    from tests.pipeline.chat.conftest import says

    service = make_service([make_voice("sft", says(*(f"answer {n}" for n in range(97))))])
    with httpx.Client(base_url=serving(service), timeout=WAIT) as client:
        texts = [
            [choice["message"]["content"] for choice in client.post(CHAT, json=asked(n=6)).json()["choices"]]
            for _ in range(2)
        ]
        other = client.post(CHAT, json=asked(n=6, seed=3)).json()["choices"]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 3
    assert [choice["message"]["content"] for choice in other] != texts[0]


def test_the_page_gets_the_answers_of_several_stages_and_can_look_into_one(client):
    conversation = {"system": "", "turns": [{"user": "Begin at v", "answers": {}}]}
    body = {"stages": ["sft", "ppo"], "conversation": conversation}
    lines = client.post("/api/reply", json=body).text.splitlines()
    events = [json.loads(line) for line in lines]
    for name in ("sft", "ppo"):
        mine = [event for event in events if event["stage"] == name]
        assert "".join(event["piece"] for event in mine[:-1]) == mine[-1]["answer"]["text"] == "wxyz"
    answer = mine[-1]["answer"]
    look = {"stage": "ppo", "reference": "sft", "conversation": conversation, "tokens": answer["tokens"]}
    found = client.post("/api/insight", json=look).json()
    assert found["kl"] == 0.0
    assert [view["text"] for view in found["views"]] == ["w", "x", "y", "z", "(end)"]
    assert found["logprob"] == pytest.approx(sum(view["logprob"] for view in found["views"]) / 5)
    assert found["gold"] is found["score"] is found["value"] is None


def test_the_run_tells_the_page_what_to_show(client):
    found = client.get("/api/run").json()
    assert found["shown"] == ["base", "sft", "ppo"]
    assert found["reference"] == "sft"
    assert found["sampling"] == {
        "temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": 128, "seed": 0,
    }  # fmt: skip
    assert (found["has_report"], found["votes"]) == (False, 0)


# --- what is refused ---------------------------------------------------------------------------------------

BAD = {
    "not JSON": (b"{", 400, "not JSON"),
    "a list": (b"[]", 400, "valid"),
    "half a character": (b'{"model": "\xc3"}', 400, "UTF-8"),
    "nested too deep": (b"[" * 100_000, 400, "JSON|deep"),
    "NaN": (b'{"model": "sft", "messages": [], "temperature": NaN}', 400, "NaN is no number"),
    "an infinity in disguise": (
        b'{"model":"sft","temperature":1e999,"messages":[{"role":"user","content":"x"}]}', 400, "temperature"
    ),
    "a number of many digits": (b'{"seed": ' + b"9" * 10_000 + b"}", 400, "JSON|digits"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bodies_that_are_no_requests_are_refused_in_words(client, name):
    body, status, words = BAD[name]
    reply = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    import re

    assert re.search(words, message(reply)), message(reply)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"n": 1000}, "n:"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"temprature": 1}, "temprature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 100_000}, "1,000,000 bytes|1000 items"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "assistant"),
        (
            {"messages": [{"role": "user", "content": "a\ud800b"}]},
            "unable to parse raw data as a unicode string",
        ),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "too long"),
        ({"messages": [{"role": "user", "content": 7}]}, "content"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_name(client, changes, words):
    import re

    body = json.dumps({**asked(), **changes})
    reply = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 413)
    assert re.search(words, message(reply)), message(reply)
    assert len(reply.content) < 2000


def test_a_body_of_fifty_megabytes_is_dropped_and_refused_with_the_reason(client):
    headers = {"Content-Type": "application/json"}
    for content in (b"x" * 50_000_000, (b"x" * 1_000_000 for _ in range(50))):
        reply = client.post(CHAT, content=content, headers=headers)
        assert reply.status_code == 413
        assert "1,000,000 bytes" in message(reply)


def test_the_rest_of_a_body_without_end_is_not_read(service, serving, monkeypatch):
    from pipeline.chat import requests

    monkeypatch.setattr(requests, "MAX_DROPPED_BYTES", 3_000_000)
    sent = []

    def parts():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 100_000

    with httpx.Client(base_url=serving(service), timeout=WAIT) as client:
        try:
            reply = client.post(CHAT, content=parts(), headers={"Content-Type": "application/json"})
            assert reply.status_code == 413
        except (httpx.WriteError, httpx.ReadError):  # it closed while we were still sending
            pass
    assert len(sent) < 500


def connected(service, serving):
    host, port = serving(service).removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)))
    made.settimeout(WAIT)
    return made


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nA: ", b"GET /"])
def test_a_head_without_end_is_given_up(service, serving, head):
    with connected(service, serving) as sock:
        sent = sock.send(head)
        with suppress(ConnectionError):
            while sent < 50_000_000:
                sent += sock.send(b"x" * 50_000)
        assert sent < 20_000_000  # what the kernel's buffers take
        with suppress(ConnectionError):
            assert sock.recv(1000).startswith((b"HTTP/1.1 431 ", b""))


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_client_that_never_says_what_it_wants_is_given_up(service, serving, monkeypatch, said):
    from pipeline.chat import protocol

    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with connected(service, serving) as sock:
        sock.sendall(said)
        assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert sock.recv(1000) == b""


def test_requests_behind_each_other_on_one_connection_are_not_taken_for_one_head(
    service, serving, monkeypatch
):
    from pipeline.chat import protocol

    monkeypatch.setattr(protocol, "MAX_HEAD_BYTES", 300)
    request = b"GET /api/run HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 200 + b"\r\n\r\n"
    with connected(service, serving) as sock:
        sock.sendall(request * 5 + request[:100])
        sock.sendall(request[100:])
        got = b""
        while got.count(b"HTTP/1.1 200 ") < 6:
            more = sock.recv(65_536)
            assert more, got
            got += more


def test_a_body_that_never_ends_is_given_up(service, serving, monkeypatch):
    from pipeline.chat import requests

    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    address = serving(service).removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as slow:
        slow.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"mod'
        )
        slow.settimeout(WAIT)
        assert b" 408 " in slow.recv(1000)


def test_other_methods_types_and_places_are_refused(client):
    assert client.get(CHAT).status_code == 405
    assert client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    for path in ("/nowhere", "/static/../server.py", "/static/%2e%2e%2fserver.py", "/report", "/api"):
        reply = client.get(path)
        assert reply.status_code == 404, path
        assert reply.json()["error"]["type"] == "not_found_error"


def test_an_unknown_stage_is_not_found_and_the_message_says_what_there_is(client):
    reply = client.post(CHAT, json={**asked(), "model": "pppo"})
    assert reply.status_code == 404
    assert 'did you mean "ppo"' in message(reply)
    body = {"stages": ["pppo"], "conversation": {"turns": [{"user": "x"}]}}
    assert client.post("/api/reply", json=body).status_code == 400


def test_tokens_that_the_model_does_not_have_are_refused_and_not_looked_up(service, serving, make_service):
    from dataclasses import replace

    voice = replace(service.voices.pick("sft"), vocab_size=259)
    with httpx.Client(base_url=serving(make_service([voice])), timeout=WAIT) as client:
        body = {"stage": "sft", "conversation": {"turns": [{"user": "x"}]}, "tokens": [259]}
        reply = client.post("/api/insight", json=body)
    assert reply.status_code == 400
    assert "token 259" in message(reply)


# --- who may ask -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_sites_cannot_ask_through_a_browser(client, headers, status):
    assert client.get("/api/run", headers=headers).status_code == status


def test_the_page_itself_may_ask(client):
    origin = str(client.base_url).rstrip("/")
    assert client.post(CHAT, json=asked(), headers={"Origin": origin}).status_code == 200


def test_every_answer_forbids_other_content(client):
    for path in ("/", "/static/page.css", "/api/run", "/nowhere"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_beyond_this_machine_nothing_is_told_without_the_token(make_service, serving, tmp_path):
    (tmp_path / "report.html").write_text("<p>report</p>")
    address = serving(make_service(), access=Access(loopback=False, token="secret"))
    with httpx.Client(base_url=address, timeout=WAIT) as client:
        for path in ("/api/run", "/v1/models", "/report", "/openapi.json"):
            assert client.get(path).status_code == 401, path
            wrong = {"Authorization": "Bearer secre"}
            assert client.get(path, headers=wrong).status_code == 401
            right = {"Authorization": "Bearer secret", "Host": "machine.example:8365"}
            assert client.get(path, headers=right).status_code == 200
        assert client.post(CHAT, json=asked()).status_code == 401
        assert client.get("/").status_code == client.get("/static/page.css").status_code == 200
        assert client.get("/report?token=secret").status_code == 200
        assert client.get("/api/run?token=secret").status_code == 401
        assert client.get("/api/run", headers={"Host": "x/static/?"}).status_code in (400, 401)


def test_the_report_has_no_part_in_the_page(client, tmp_path):
    (tmp_path / "report.html").write_text("<p>report</p>")
    reply = client.get("/report")
    assert reply.text == "<p>report</p>"
    assert reply.headers["content-security-policy"].startswith("sandbox ")
    assert "allow-same-origin" not in reply.headers["content-security-policy"]


def test_an_address_that_is_taken_is_refused_in_words():
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with pytest.raises(InputError, match="give another by --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    taken.close()


# --- many, slow and gone -----------------------------------------------------------------------------------


class Endless:
    """A batch whose completions end at their limit alone, at two milliseconds a token."""

    def __init__(self, log):
        self.room, self.log = {}, log

    def __len__(self):
        return len(self.room)

    def join(self, wanted):
        self.room[wanted.name] = wanted.max_new_tokens

    def leave(self, names):
        self.room = {name: room for name, room in self.room.items() if name not in names}

    def step(self):
        from pipeline.live_batch import Drawn

        time.sleep(0.002)
        self.log.append(len(self.room))
        self.room = {name: room - 1 for name, room in self.room.items()}
        drawn = [Drawn(name, ord("a"), -0.5, room == 0) for name, room in self.room.items()]
        self.leave([one.name for one in drawn if one.last])
        return drawn


@pytest.fixture
def endless_service(make_voice, make_service):
    from dataclasses import replace

    log = []
    voice = replace(make_voice("sft"), new_batch=lambda: Endless(log), context=10**6)
    return make_service([voice], max_rows=3, max_waiting=4), log


def wait_until(check):
    end = time.monotonic() + WAIT
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_who_goes_away_stops_the_model_streaming_or_not(endless_service, serving):
    service, log = endless_service
    address = serving(service)
    with httpx.Client(base_url=address, timeout=WAIT) as client:
        with client.stream("POST", CHAT, json=asked(stream=True, max_tokens=100_000)) as reply:
            lines = reply.iter_lines()  # whoever drops it closes the connection
            next(lines)
            wait_until(lambda: log and log[-1] == 1)
        wait_until(lambda: not service.engine._live)
    with httpx.Client(base_url=address, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=asked(max_tokens=100_000))
    wait_until(lambda: not service.engine._live)
    with httpx.Client(base_url=address, timeout=WAIT) as client:
        turns = [{"user": "x"}]
        body = {"stages": ["sft"], "conversation": {"turns": turns}, "sampling": {"max_new_tokens": 100_000}}
        with client.stream("POST", "/api/reply", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
        wait_until(lambda: not service.engine._live)


def test_a_hundred_clients_are_served_or_told_to_come_again(endless_service, serving):
    service, log = endless_service
    address, statuses, lock = serving(service), [], threading.Lock()

    def ask():
        body = asked(max_tokens=50)
        with httpx.Client(base_url=address, timeout=60) as client:
            reply = client.post(CHAT, json=body)
        with lock:
            statuses.append((reply.status_code, reply.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(statuses) == 100
    assert {status for status, _ in statuses} == {200, 429}
    assert all(after == "1" for status, after in statuses if status == 429)
    assert sum(status == 200 for status, _ in statuses) >= 3 + 4
    assert max(log) == 3  # never more rows than were allowed
    assert not service.engine._waiting


def test_all_answers_of_one_request_are_queued_or_none(endless_service, serving):
    service, _ = endless_service
    with httpx.Client(base_url=serving(service), timeout=WAIT) as client:
        reply = client.post(CHAT, json=asked(n=8, max_tokens=5))
        assert reply.status_code in (200, 429)
        wait_until(lambda: not service.engine._live and not service.engine._waiting)


def test_a_fault_of_the_model_is_told_as_a_fault_of_the_server(make_voice, make_service, serving):
    def broken(prompt, key):
        raise RuntimeError("the model is broken")

    with httpx.Client(base_url=serving(make_service([make_voice("sft", broken)])), timeout=WAIT) as client:
        reply = client.post(CHAT, json=asked())
        assert reply.status_code == 500
        assert reply.json()["error"]["type"] == "server_error"
        with client.stream("POST", CHAT, json=asked(stream=True)) as streamed:
            assert "the model is broken" in streamed.read().decode()
