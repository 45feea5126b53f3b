"""The toy stages and recipes of them, finished runs, and a browser."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHATML_MARKS = ["<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECIPE = """\
name: toy
precision: float32
stages:
  source: {}
  train: {}
  tuned: {stage: train, learning_rate: 1e-5}
  summary: {}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A working directory with recipe.yaml of toy stages, which can be imported."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEDGE_DATA", raising=False)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def start_toy(toy):
    """Starts a toy run in a process of its own, which ends with the test."""
    started = []

    def start(*changes, **options):
        environment = {**os.environ, "PYTHONPATH": str(TOY)}
        command = [sys.executable, str(TOY / "toy_run.py"), "recipe.yaml", "runs", *changes]
        process = subprocess.Popen(
            command, cwd=toy, env=environment, text=True, **{"stdout": -1, "stderr": -2, **options}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture(scope="session")
def make_artificial_run():
    """The function that writes a finished run of the closed world, without any model."""
    return runpy.run_path(str(Path(__file__).with_name("artificial_run.py")))["make"]


@pytest.fixture(scope="session")
def artificial_run(make_artificial_run, tmp_path_factory):
    """A finished run of the closed world; read only."""
    return make_artificial_run(tmp_path_factory.mktemp("runs") / "artificial")


@pytest.fixture(scope="session")
def save_foreign():
    """The function that saves a tiny model of another family, with a tokenizer trained on two sentences."""
    size = 270
    texts = ["The cat sat on the mat.", "What is a cat? A cat is a small animal."] * 4

    def save(folder, kind, *, template=None, pad=None, chatml=False):
        """A tiny model of a family with a tokenizer that has an end token and nothing else.

        With `chatml` it has a chat template whose turns end with another token, as Qwen's base models have.
        """
        import tokenizers
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

        backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<|end|>", *([pad] if pad else []), *(CHATML_MARKS if chatml else [])],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token=pad)
        tokenizer.chat_template = CHATML if chatml else template
        plain = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        sizes = {
            "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128},
            "llama": plain,
            "qwen3": {**plain, "num_key_value_heads": 1, "head_dim": 8},
            "gpt_neox": {**plain, "max_position_embeddings": 128},
            "opt": {**plain, "ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
            "mixtral": {
                **plain,
                "num_key_value_heads": 1,
                "num_local_experts": 4,
                "output_router_logits": True,
            },
            "qwen2_moe": {
                **plain,
                "num_key_value_heads": 1,
                "num_experts": 4,
                "moe_intermediate_size": 8,
                "shared_expert_intermediate_size": 8,
            },
            "gemma2": {**plain, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.5},
            "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        }[kind]
        config = AutoConfig.for_model(
            kind, **sizes, vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def browser():
    """Chromium, headless; the tests of pages are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def serve(monkeypatch):
    """Start an endpoint that replies with reply(body, number of the call); gives its URL and what it got."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(reply):
        calls, lock = [], threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    calls.append((self.path, dict(self.headers), body))
                    number = len(calls)
                status, data, *headers = reply(body, number)
                try:
                    self.send_response(status)
                    for name, value in headers:
                        self.send_header(name, value)
                    self.end_headers()
                    pieces = [data] if isinstance(data, bytes) else data
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()
                except OSError:  # the caller has gone, as it should
                    pass

            def do_GET(self):  # where a redirected call would arrive
                calls.append((self.path, dict(self.headers), None))
                self.send_error(405)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1", calls

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def make_ppo(tmp_path, tiny_llama, monkeypatch):
    """A factory of toy learners: `make_ppo(folder, **settings)`; see `ppo_toy.py`."""
    from pipeline import ppo, ppo_gate

    toy = runpy.run_path(str(Path(__file__).with_name("ppo_toy.py")))
    for module in (ppo, ppo_gate):
        monkeypatch.setattr(module, "decode", lambda tokenizer, ids: " ".join(map(str, ids)))

    def make(folder="run", policy=None, **changed):
        policy = tiny_llama(vocabulary=toy["VOCABULARY"], seed=5) if policy is None else policy
        return toy["make"](tmp_path / folder, policy, **changed)

    return make
