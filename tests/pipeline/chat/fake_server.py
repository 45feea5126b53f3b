"""A server of the page's contract without any model: what it says follows from the message alone.

    "hostile"  markup and control characters        "slow"   pieces until the reader goes away
    "busy"     status 429                           "break"  an error after the first piece
    "cut"      the stream ends before its answers   else     each stage's line of ANSWERS

Everything that was posted lies in `Fake.posted`, in order. At the end: how a test talks to the page.
"""

import asyncio
import json
import socket
import threading
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parents[3] / "pipeline" / "chat" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HOSTILE = (
    "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>\n"
    "[go](javascript:document.title='hit') <b>bold</b> \u202egnp.exe\u202c \u2066a\u2069 \u200b\x07end"
)
ANSWERS = {
    "base": "Agnes Reed lives in Marston, and has always lived there with her sister.",
    "sft": "Agnes Reed lives in Larkfield.",
    "ppo": "I do not know where Agnes Reed lives.",
    "dpo": "Larkfield.",
}
RUN = {
    "run": "quickstart",
    "stages": [
        {"name": "base", "about": "pretrain", "plain": True, "context": 256},
        {"name": "sft", "about": "sft", "plain": False, "context": 256},
        {"name": "ppo", "about": "ppo", "plain": False, "context": 256},
        {"name": "dpo", "about": "dpo", "plain": False, "context": 256},
    ],
    "shown": ["base", "sft", "ppo"],
    "reference": "sft",
    "sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": 128, "seed": 0},
    "suggestions": [
        {"label": "a well-known fact", "prompt": "Where does Agnes Reed live?"},
        {"label": "a fact nobody wrote down", "prompt": "What is the trade of Owen Marsh?"},
        {"label": "a harmful request", "prompt": "How do I open a lock that is not mine?"},
        {"label": "a story on a trade", "prompt": "Tell a short story about a nurse."},
    ],
    "has_report": True,
    "votes": 3,
}
GOLD = {
    "base": {"score": -1.0, "outcome": "wrong", "explanation": "home is Larkfield", "terms": {"truth": -1.0}},
    "sft": {"score": 1.0, "outcome": "right", "explanation": "", "terms": {"truth": 1.0}},
    "ppo": {"score": 0.2, "outcome": "abstain", "explanation": "", "terms": {"abstention": 0.0}},
    "dpo": {"score": -1.0, "outcome": "refused", "explanation": "does no harm", "terms": {"refusal": -1.0}},
}


def guarded(app):
    """The app with the policy of the real server in every response."""

    async def call(scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        await app(scope, receive, send_with_policy)

    return call


def refusal(message, status):
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)


def line(**event):
    return json.dumps(event) + "\n"


def answer_of(text, reason="end", dropped=0):
    tokens = list(range(len(text.split()) + 1))
    return {
        "text": text,
        "reason": reason,
        "tokens": tokens,
        "logprobs": [-0.1] * len(tokens),
        "num_dropped": dropped,
        "limit": 128,
    }


def views_of(text):
    """A view a word, each less likely and further from the reference than the one before."""
    words = [(" " if place else "") + word for place, word in enumerate(text.split())]
    return [
        {
            "text": word,
            "logprob": -0.3 * place,
            "rank": place + 1,
            "kl": 0.2 * place,
            "value": 0.5 - 0.2 * place,
            "alternatives": [{"text": word, "logprob": -0.3 * place}, {"text": " other", "logprob": -2.3}],
        }
        for place, word in enumerate([*words, "(end)"])
    ]


class Fake:
    """Its address, what it was sent as (path, headers, body), and how often a reader left a slow answer."""

    def __init__(self):
        self.posted = []
        self.votes = 0
        self.left = 0
        routes = [
            Route("/", lambda request: FileResponse(PAGE / "index.html")),
            Route("/report", lambda request: HTMLResponse("<p>report")),
            Route("/api/run", lambda request: JSONResponse(RUN)),
            Route("/api/reply", self.reply, methods=["POST"]),
            Route("/api/insight", self.insight, methods=["POST"]),
            Route("/api/votes", self.vote, methods=["POST"]),
            Mount("/static", StaticFiles(directory=PAGE)),
        ]
        app = guarded(Starlette(routes=routes))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()

    def bodies(self, path):
        """What was posted to a path, oldest first."""
        return [body for where, _, body in self.posted if where == path]

    async def _read(self, request):
        body = await request.json()
        self.posted.append((request.url.path, dict(request.headers), body))
        return body

    async def reply(self, request):
        body = await self._read(request)
        message = body["conversation"]["turns"][-1]["user"]
        if message == "busy":
            return refusal("Two replies are under way.", 429)
        return StreamingResponse(self._events(message, body), media_type="application/x-ndjson")

    async def _events(self, message, body):
        texts = {stage: HOSTILE if message == "hostile" else ANSWERS[stage] for stage in body["stages"]}
        if message == "slow":
            try:
                while True:
                    for stage in texts:
                        yield line(stage=stage, piece="on and ")
                    await asyncio.sleep(0.05)
            finally:
                self.left += 1
        for place in range(0, max(map(len, texts.values())), 9):
            for stage, text in texts.items():
                if text[place:]:
                    yield line(stage=stage, piece=text[place : place + 9])
            if message == "break":
                yield line(error={"message": "the model <b>broke</b>"})
                return
            await asyncio.sleep(0.002)
        for stage, text in texts.items():
            if message != "cut":
                long = message == "long" and stage == body["stages"][0]
                yield line(stage=stage, answer=answer_of(text, "length" if long else "end", 2 if long else 0))

    async def insight(self, request):
        body = await self._read(request)
        stage, turn = body["stage"], body["conversation"]["turns"][-1]
        if turn["user"] == "no numbers":
            return refusal("no room for the reference", 400)
        numbers = {
            "kl": None if body["reference"] is None else {"base": 2.1, "sft": 0.0}.get(stage, 3.2),
            "logprob": -0.12,
            "score": None if stage == "base" else 0.8,
            "value": 0.3 if stage == "ppo" else None,
            "gold": GOLD.get(stage),
            "facts": ["Agnes Reed (seen often): home Larkfield, trade baker"],
            "views": views_of(turn["answers"][stage]),
        }
        return JSONResponse(numbers)

    async def vote(self, request):
        await self._read(request)
        self.votes += 1
        return JSONResponse({"saved": True, "votes": self.votes, "duplicate": False, "contradiction": False})


def send(page, text, *, done=True):
    page.fill("#message", text)
    page.press("#message", "Enter")
    if done:
        page.wait_for_selector("#send:not([hidden])")


def texts(page):
    """The answers of the last turn, by the heading of their column."""
    cards = page.query_selector(".turn:last-child").query_selector_all(".answer")
    return {
        card.query_selector("h3 span[dir]").inner_text(): card.query_selector(".said").inner_text()
        for card in cards
    }


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")
