"""Voices with a known policy: their tokens are bytes, and what they say follows from what they were asked."""

import io
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.chat.voices import Voice, Voices
from pipeline.live_batch import Drawn

END, ROLE = 256, 257
WINDOWS = {
    "light": ({"width": 1280, "height": 900}, "light"),
    "dark": ({"width": 1280, "height": 900}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
}
WAIT = 5000  # milliseconds; what is waited for comes within some hundred


def encode(prompt):
    if isinstance(prompt, str):
        return list(prompt.encode())
    return [token for message in prompt for token in (ROLE, *message["content"].encode(), END)] + [ROLE]


def decode(tokens):
    return bytes(token for token in tokens if token < 256).decode(errors="replace")


def count_up(prompt, key):
    """Previous plus one: the letters after the last letter of the last message, up to z."""
    text = prompt.rstrip() if isinstance(prompt, str) else prompt[-1]["content"]
    return "".join(map(chr, range(ord(text[-1]) + 1, ord("z") + 1))).encode()


def says(*texts):
    """A policy that says one of the texts, by its key."""
    return lambda prompt, key: texts[key % len(texts)].encode()


def new_voice(name="sft", policy=count_up, *, plain=False, context=1000, log=None):
    """A voice; `policy(prompt, key)` gives the bytes of an answer, `log` collects what was drawn."""

    def stream(prompt, *, key, max_new_tokens, temperature, top_k, top_p):
        for token in [*policy(prompt, key), END][:max_new_tokens]:
            if log is not None:
                log.append((name, token))
            yield token, -0.5

    def generate(prompts, *, keys, max_new_tokens, stop, **options):
        for prompt, key in zip(prompts, keys, strict=True):
            tokens = [*policy(prompt, key), END][:max_new_tokens]
            if stop and ord(stop) in tokens:
                tokens = tokens[: tokens.index(ord(stop)) + 1]
            yield SimpleNamespace(tokens=tokens, logprobs=[-0.5] * len(tokens))

    def new_batch():
        return FakeBatch(policy)

    return Voice(name, encode, decode, stream, generate, _logits, new_batch, context, frozenset([END]), plain)


@pytest.fixture(scope="session")
def make_voice():
    """The factory of voices."""
    return new_voice


class FakeBatch:
    """Completions of a policy that are drawn together, a token of each at a step."""

    def __init__(self, policy):
        self.policy, self.live = policy, {}

    def __len__(self):
        return len(self.live)

    def join(self, wanted):
        prompt = bytes(token for token in wanted.prompt if token < 256).decode()
        tokens = [*self.policy(prompt or " ", wanted.key), END][: wanted.max_new_tokens]
        self.live[wanted.name] = list(tokens)

    def leave(self, names):
        self.live = {name: tokens for name, tokens in self.live.items() if name not in names}

    def step(self):
        drawn = [Drawn(name, tokens.pop(0), -0.5, not tokens) for name, tokens in self.live.items()]
        self.leave([one.name for one in drawn if one.last])
        return drawn


def _logits(tokens):
    """Token t is followed by t + 1 with odds of e^2 against each other token, of 259."""
    import torch

    logits = torch.zeros(len(tokens), 259)
    logits[torch.arange(len(tokens)), (torch.tensor(tokens) + 1) % 259] = 2.0
    return logits


@pytest.fixture
def run_dir(tmp_path):
    """A run directory by name and kind of its stages, without weights."""

    def make(stages, *, listed=True, unfinished=()):
        folder = tmp_path / "runs" / "quickstart"
        architectures = {"tokenizer": None, "evaluate": None, "corpus": None, "reward": "LlamaForCausalLM"}
        for name, kind in stages.items():
            (folder / "stages" / name).mkdir(parents=True)
            architecture = architectures.get(kind, "LlamaForCausalLM")
            if architecture and name not in unfinished:
                (folder / "stages" / name / "model").mkdir()
                (folder / "stages" / name / "model" / "config.json").write_text(
                    json.dumps({"architectures": [architecture]})
                )
        if listed:
            record = [{"name": name, "stage": kind} for name, kind in stages.items()]
            (folder / "run.json").write_text(json.dumps({"stages": record}))
        return folder

    return make


@pytest.fixture
def make_voices(make_voice):
    """A factory of a run's voices with the policies given by name."""

    def make(**policies):
        loaded = {name: make_voice(name, policy, plain=name == "base") for name, policy in policies.items()}
        return Voices("quickstart", tuple(policies), loaded.__getitem__)

    return make


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def make_service(make_voice, tmp_path):
    """A factory of services over voices with the policies given by name; all are closed at the end."""
    from pipeline.chat.engine import Engine
    from pipeline.chat.insight import Rewards
    from pipeline.chat.known import Known
    from pipeline.chat.service import Service
    from pipeline.chat.votes import Ballot

    made = []

    def make(voices=None, *, folder=tmp_path, known=None, **limits):
        if voices is None:
            voices = [make_voice("base", plain=True), make_voice("sft"), make_voice("ppo")]
        by_name = {voice.name: voice for voice in voices}
        held = Voices("quickstart", tuple(by_name), by_name.__getitem__, folder)
        known = Known(()) if known is None else known
        service = Service(folder, held, known, Rewards(None), Ballot(folder), Engine(**limits))
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


@pytest.fixture
def serving():
    """A function that serves a service on a free port of this machine, and gives its address."""
    import threading
    import time

    import uvicorn

    from pipeline.chat.protocol import BoundedHttp
    from pipeline.chat.server import Access, listen, make_app

    started = []

    def start(service, *, access=None):
        sock = listen("127.0.0.1", 0)
        app = make_app(service, Access(loopback=True, token=None) if access is None else access)
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="error", timeout_graceful_shutdown=1, lifespan="off", http=BoundedHttp
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        started.append((server, thread, sock))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for server, thread, sock in started:
        server.should_exit = True
        thread.join(10)
        sock.close()


# --- the page in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running():
    fake_server = runpy.run_path(str(Path(__file__).with_name("fake_server.py")))
    with fake_server["Fake"]() as server:
        yield server


@pytest.fixture
def fake(running):
    running.posted.clear()
    running.votes = 3
    return running


@pytest.fixture
def opened(browser, fake):
    """Opens the page in a window; `page.asked` and `page.said` collect requests and console messages."""
    contexts = []

    def open_page(window="light", suffix=""):
        viewport, scheme = WINDOWS[window]
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(fake.address + suffix)
        page.wait_for_selector(".suggestion, .turn")
        return page

    yield open_page
    for context in contexts:
        context.close()
