"""The OpenAI-compatible API: models, chat completions and text completions, streamed or not.

A model id is the name of a stage. What is left out has the defaults of the terminal and the page, so that one
prompt gives one text everywhere; `seed` is that of the answers, and choice n of `n` is attempt n. A
setting that would have no effect here is refused unless it asks for nothing.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from data.errors import InputError
from data.rows import Message
from pipeline.chat import session
from pipeline.chat.requests import MAX_MESSAGES, Fields, Refused, read_body
from pipeline.chat.service import Service
from pipeline.chat.session import Answer, Sampling
from pipeline.chat.streams import Stream, Streamed, collect, merged
from pipeline.chat.voices import Voice
from pipeline.chat.why import TokenView, explain

MAX_CHOICES, MAX_PROMPTS, MAX_ALTERNATIVES = 8, 16, 20
MAX_ANSWERS = 32  # prompts times choices: more could never be queued together
Text = Annotated[str, Field(max_length=1_000_000)]
Unused = Annotated[float, Field(ge=0, le=0)] | None
FINISH = {"end": "stop", "stop": "stop", "length": "length", "cancelled": "stop"}


class TextPart(Fields):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(Fields):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=100)]
    name: str | None = Field(None, max_length=200, description="Not shown to the model.")
    # What the official client sends along with an answer that it gives back.
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def message(self) -> Message:
        """The turn as the session takes it."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return Message(role=self.role, content="".join(parts))


class StreamOptions(Fields):
    """What a stream says beside the answer."""

    include_usage: bool = False


class Drawing(Fields):
    """How answers are drawn; a field that is left out has the default of the chat."""

    model: str = Field(max_length=200)
    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=10**9, description="Beyond OpenAI's: 0 keeps all.")
    max_tokens: int | None = Field(None, ge=1, le=100_000)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=1000)
    presence_penalty: Unused = None
    frequency_penalty: Unused = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def sampling(self) -> Sampling:
        """The settings of the session; InputError where one is out of range."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return session.sampling_of(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_new_tokens=self.limit(),
            seed=self.seed,
            stop=tuple(stop),
        )

    def limit(self) -> int | None:
        """The longest answer in tokens."""
        return self.max_tokens


class ChatBody(Drawing):
    """The body of a chat completion."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    def limit(self) -> int | None:
        """The longest answer in tokens, by the newer name or the older."""
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(Drawing):
    """The body of a text completion: the text is continued as it is, whatever the stage."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None


async def models(service: Service, request: HttpRequest) -> Response:
    """List the stages."""
    return JSONResponse({"object": "list", "data": [_model(service, name) for name in service.voices.names]})


async def model(service: Service, request: HttpRequest) -> Response:
    """Describe one stage."""
    name = request.path_params["model"]
    if name not in service.voices.names:
        raise Refused(404, f'there is no model "{name[:100]}"; there are {", ".join(service.voices.names)}')
    return JSONResponse(_model(service, name))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": service.voices.run}


async def chat_completions(service: Service, request: HttpRequest) -> Response:
    """Answer a conversation."""
    body = await read_body(request, ChatBody)
    messages = [message.message() for message in body.messages]
    for place, message in enumerate(messages):
        session.check_characters(message["content"], f"messages[{place}]")
    sampling, voice = body.sampling(), await _voice(service, body.model)
    prepared = await service.prepare(session.prepare, voice, messages, sampling)
    keys = [session.answer_key(messages, sampling.seed, attempt) for attempt in range(body.n or 1)]
    streams = service.start_all([(voice, prepared, sampling, key) for key in keys])
    alternatives = (body.top_logprobs or 0) if body.logprobs else None
    reply = Reply(body, CHAT, service, voice, len(prepared.tokens), alternatives)
    return await _respond(request, reply, streams)


async def completions(service: Service, request: HttpRequest) -> Response:
    """Continue texts."""
    body = await read_body(request, CompletionBody)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    for place, prompt in enumerate(prompts):
        session.check_text(prompt, f"prompt {place}")
    if len(prompts) * (body.n or 1) > MAX_ANSWERS:
        raise Refused(
            400, f"{len(prompts)} prompts with n {body.n} are more than {MAX_ANSWERS} answers; ask for fewer"
        )
    sampling, voice = body.sampling(), replace(await _voice(service, body.model), plain=False)
    prepared = [await service.prepare(session.prepare_text, voice, prompt, sampling) for prompt in prompts]
    wanted = [
        (voice, one, sampling, session.text_key(prompt, sampling.seed, attempt))
        for prompt, one in zip(prompts, prepared, strict=True)
        for attempt in range(body.n or 1)
    ]
    num_tokens = sum(len(one.tokens) for one in prepared)
    reply = Reply(body, TEXT, service, voice, num_tokens, body.logprobs)
    return await _respond(request, reply, service.start_all(wanted))


async def _voice(service: Service, name: str) -> Voice:
    try:
        return await service.voice(name)
    except InputError as error:
        raise Refused(404, str(error)) from error


# --- what goes out -----------------------------------------------------------------------------------------


class Form(NamedTuple):
    """How one of the two kinds of completion is written."""

    prefix: str
    name: str
    chunk: str
    whole: Callable[[str], dict[str, Any]]
    begin: dict[str, Any]
    piece: Callable[[str], dict[str, Any]]
    logprobs: Callable[[Sequence[TokenView], int], dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """One reply under way; `alternatives` is the number of likely tokens told of each, None for no log-probs."""

    body: ChatBody | CompletionBody
    form: Form
    service: Service
    voice: Voice
    num_prompt_tokens: int
    alternatives: int | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def record(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        """The frame of a reply or of a part of it."""
        return {
            "id": f"{self.form.prefix}-{self.id}",
            "object": self.form.chunk if chunk else self.form.name,
            "created": self.created,
            "model": self.voice.name,
            "choices": choices,
        }

    def choice(self, index: int, content: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """One choice, or a part of it."""
        return {"index": index, **content, "logprobs": None, "finish_reason": finish}

    async def finished(self, index: int, content: dict[str, Any], answer: Answer) -> dict[str, Any]:
        """A choice, or the last part of it, with the log-probabilities where they are asked for."""
        choice = self.choice(index, content, FINISH[answer.reason])
        if self.alternatives is not None:
            num = self.alternatives
            views = await self.service.compute(
                lambda: explain(self.voice, answer, num_alternatives=max(num, 1))
            )
            choice["logprobs"] = self.form.logprobs(_seen(views, answer.text), num)
        return choice

    def usage(self, answers: Sequence[Answer]) -> dict[str, int]:
        """Count the tokens; a prompt counts once for each choice's batch, not for each choice."""
        num = sum(len(answer.tokens) for answer in answers)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num,
            "total_tokens": self.num_prompt_tokens + num,
        }


async def _respond(request: HttpRequest, reply: Reply, streams: Sequence[Stream]) -> Response:
    if reply.body.stream:
        return Streamed(_chunks(reply, streams), streams, media_type="text/event-stream")
    answers = await collect(request, streams)
    choices = [
        await reply.finished(index, reply.form.whole(answer.text), answer)
        for index, answer in enumerate(answers)
    ]
    return JSONResponse({**reply.record(choices, chunk=False), "usage": reply.usage(answers)})


async def _chunks(reply: Reply, streams: Sequence[Stream]) -> AsyncIterator[str]:
    """Server-sent events, a choice's parts in their order, and at last [DONE]."""
    answers = []
    if reply.form.begin:
        for index in range(len(streams)):
            yield _event(reply.record([reply.choice(index, reply.form.begin)], chunk=True))
    try:
        async for index, event in merged(streams):
            if isinstance(event, Answer):
                answers.append(event)
                choice = await reply.finished(index, reply.form.piece(""), event)
            else:
                choice = reply.choice(index, reply.form.piece(event.text))
            yield _event(reply.record([choice], chunk=True))
    except Exception as error:  # the reply has begun, so its status cannot tell
        yield _event({"error": {"message": str(error), "type": "server_error", "param": None, "code": 500}})
        return
    options = reply.body.stream_options
    if options is not None and options.include_usage:
        yield _event({**reply.record([], chunk=True), "usage": reply.usage(answers)})
    yield "data: [DONE]\n\n"


def _event(record: dict[str, Any]) -> str:
    return f"data: {json.dumps(record)}\n\n"  # ASCII, so no character in it ends a line


def _seen(views: Sequence[TokenView], text: str) -> list[TokenView]:
    """The tokens that the text is made of: without what ended it, and what a stop string cut off."""
    starts = itertools.accumulate((len(view.text) for view in views), initial=0)
    return [view for view, start in zip(views, starts, strict=False) if start < len(text)]


def _chat_logprobs(views: Sequence[TokenView], num: int) -> dict[str, Any]:
    def told(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    content = [
        {
            **told(view.text, view.logprob),
            "top_logprobs": [told(other.text, other.logprob) for other in view.alternatives[:num]],
        }
        for view in views
    ]
    return {"content": content, "refusal": None}


def _text_logprobs(views: Sequence[TokenView], num: int) -> dict[str, Any]:
    offsets = itertools.accumulate((len(view.text) for view in views), initial=0)
    return {
        "tokens": [view.text for view in views],
        "token_logprobs": [view.logprob for view in views],
        "top_logprobs": [{other.text: other.logprob for other in view.alternatives[:num]} for view in views],
        "text_offset": list(offsets)[:-1],
    }


CHAT = Form(
    prefix="chatcmpl",
    name="chat.completion",
    chunk="chat.completion.chunk",
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    begin={"delta": {"role": "assistant", "content": ""}},
    piece=lambda text: {"delta": {"content": text} if text else {}},
    logprobs=_chat_logprobs,
)
TEXT = Form(
    prefix="cmpl",
    name="text_completion",
    chunk="text_completion",
    whole=lambda text: {"text": text},
    begin={},
    piece=lambda text: {"text": text},
    logprobs=_text_logprobs,
)
