"""Serving a run: time to the first token, many streams together, and the same answers everywhere.

    python tests/benchmarks/serving.py runs/quickstart [--prompts 200]

Starts `fledge serve` on the run and asks it over HTTP; rates are of one server. The last part counts for how many
prompts terminal, comparison, API alone and API beside fifteen others say the same, and for how many plain
transformers on the exported folder does so at temperature 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from data.rows import Item, read_jsonl
from pipeline.chat.compare import answers_of
from pipeline.chat.session import Conversation, sampling_of, speak
from pipeline.chat.voices import open_run
from pipeline.export import export

STREAMS = 16
STAGE = "ppo"


def start(run: Path) -> tuple[subprocess.Popen[str], str]:
    """A server of the run, and its address."""
    command = [sys.executable, "-m", "pipeline", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = next(word for word in line.split() if word.startswith("http://")).rstrip("/")
    for _ in range(200):
        try:
            httpx.get(f"{address}/v1/models")
            return process, address
        except httpx.ConnectError:
            time.sleep(0.05)
    raise SystemExit(f"{address} does not answer")


async def stream(client: httpx.AsyncClient, prompt: str, **settings: object) -> tuple[str, float, int]:
    """One streamed answer: text, seconds to its first piece, number of tokens."""
    body = {
        "model": STAGE,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **settings,
    }
    begun, first, text, num = time.perf_counter(), float("nan"), "", 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            record = json.loads(line.removeprefix("data: "))
            for choice in record["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece and not text:
                    first = time.perf_counter() - begun
                text += piece
            num = record.get("usage", {}).get("completion_tokens", num)
    return text, first, num


async def streams(
    address: str, prompts: list[str], at_once: int, **settings: object
) -> list[tuple[str, float, int]]:
    """Answers of all prompts, so many under way at once."""
    gate = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:

        async def one(prompt: str) -> tuple[str, float, int]:
            async with gate:
                return await stream(client, prompt, **settings)

        return list(await asyncio.gather(*map(one, prompts)))


def rate(address: str, prompts: list[str], at_once: int) -> float:
    """Tokens a second of all answers together."""
    begun = time.perf_counter()
    found = asyncio.run(streams(address, prompts, at_once))
    return sum(num for _, _, num in found) / (time.perf_counter() - begun)


def greedy_of_transformers(run: Path, prompts: list[str], limit: int) -> list[str]:
    """Answers of plain transformers on the exported folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        export(run, STAGE, Path(folder) / "model")
        model = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "model")
    answers = []
    for prompt in prompts:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        drawn = model.generate(**asked, do_sample=False, max_new_tokens=limit)
        answers.append(tokenizer.decode(drawn[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


def equal(first: list[str], second: list[str]) -> str:
    """How many of two lists of answers are the same."""
    return f"{sum(map(str.__eq__, first, second))} of {len(first)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    items = [
        item
        for item in read_jsonl(options.run / "stages" / "corpus" / "items.test.jsonl", Item)
        if len(item.prompt) == 1
    ]
    prompts = [item.prompt[0]["content"] for item in items[:: max(1, len(items) // options.prompts)]]
    prompts = prompts[: options.prompts]
    stories = [item.prompt[0]["content"] for item in items if item.task == "stories"][: 4 * STREAMS]

    process, address = start(options.run)
    try:
        asyncio.run(streams(address, prompts[:3], 1))  # warm
        firsts = sorted(first for _, first, _ in asyncio.run(streams(address, prompts[:50], 1)))
        print(
            f"first token: median {firsts[len(firsts) // 2]:.3f} s, slowest of {len(firsts)} {firsts[-1]:.3f} s"
        )
        alone, together = rate(address, stories, 1), rate(address, stories, STREAMS)
        print(
            f"{len(stories)} stories: {alone:.0f} tokens/s one after the other, {together:.0f} with {STREAMS} at "
            f"once, {together / alone:.2f} times as many"
        )
        crowd = sorted(first for _, first, _ in asyncio.run(streams(address, stories, STREAMS)))
        print(f"first token beside {STREAMS - 1} others: median {crowd[len(crowd) // 2]:.3f} s")
        single = [text for text, _, _ in asyncio.run(streams(address, prompts, 1))]
        beside = [text for text, _, _ in asyncio.run(streams(address, prompts, STREAMS))]
        greedy = [text for text, _, _ in asyncio.run(streams(address, prompts, STREAMS, temperature=0))]
    finally:
        process.terminate()
        process.wait()

    voice, sampling = open_run(options.run).pick(STAGE), sampling_of()
    terminal = []
    for prompt in prompts:
        *_, answer = speak(voice, Conversation().say(prompt).messages(STAGE), sampling)
        terminal.append(getattr(answer, "text", ""))
    compared = [row[0].text for row in answers_of([voice], prompts, sampling)]
    print(f"the API alone says what the terminal says: {equal(single, terminal)}")
    print(f"`fledge compare` says what the terminal says: {equal(compared, terminal)}")
    print(f"the API beside {STREAMS - 1} others says what the terminal says: {equal(beside, terminal)}")
    plain = greedy_of_transformers(options.run, prompts, sampling.max_new_tokens)
    print(f"at temperature 0 plain transformers says what the API says: {equal(greedy, plain)}")


if __name__ == "__main__":
    main()
