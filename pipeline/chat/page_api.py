"""What the chat page asks of its server: the run, answers of several stages, insight into one, votes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from pipeline.chat import session
from pipeline.chat.insight import as_record, look
from pipeline.chat.requests import MAX_MESSAGES, Fields, Refused, read_body
from pipeline.chat.service import MOST_SHOWN, Service
from pipeline.chat.session import Answer, Conversation, Sampling
from pipeline.chat.streams import Stream, Streamed, merged
from pipeline.chat.voices import BASE, stage_kinds
from pipeline.chat.votes import Verdict, vote_on

Name = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=1_000_000)]


class TurnBody(Fields):
    """What the user said and what each stage answered."""

    user: Text
    answers: dict[Name, Text] = Field({}, max_length=100)


class ConversationBody(Fields):
    """A conversation, as it is saved, too."""

    system: Text = ""
    turns: list[TurnBody] = Field(min_length=1, max_length=MAX_MESSAGES)

    def conversation(self) -> Conversation:
        """As the session takes it; InputError for a blank turn of the user."""
        for place, turn in enumerate(self.turns):
            session.check_text(turn.user, f"turns[{place}].user")
            for name, text in turn.answers.items():
                session.check_characters(text, f"turns[{place}].answers.{name}")
        session.check_characters(self.system, "system")
        return Conversation(self.system, tuple(session.Turn(turn.user, turn.answers) for turn in self.turns))


class Asking(Fields):
    """What every question of the page holds."""

    conversation: ConversationBody
    sampling: dict[Name, Any] = Field({}, max_length=20)
    plain_base: bool = True

    def how(self) -> Sampling:
        """The sampling; InputError where it is out of range."""
        return session.sampling_of(**self.sampling)


class ReplyBody(Asking):
    """Let stages answer the last turn."""

    stages: list[Name] = Field(min_length=1, max_length=MOST_SHOWN)
    attempt: int = Field(0, ge=0, le=10**9)


class InsightBody(Asking):
    """Look into an answer, given as its tokens, to the last turn."""

    stage: Name
    reference: Name | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(max_length=100_000)


class VoteBody(Asking):
    """Judge the answers of two stages to the last turn."""

    left: Name
    right: Name
    verdict: Verdict
    blind: bool = False
    attempt: int = Field(0, ge=0, le=10**9)


async def run(service: Service, request: HttpRequest) -> Response:
    """Describe the run."""
    kinds = stage_kinds(service.folder) if (service.folder / "stages").is_dir() else {}
    suggestions = await asyncio.to_thread(lambda: service.known.suggestions)
    return JSONResponse(
        {
            "run": service.voices.run,
            "stages": [
                {
                    "name": name,
                    "about": kinds.get("pretrain" if name == BASE else name, ""),
                    "plain": _is_plain(service, name),
                }
                for name in service.voices.names
            ],
            "shown": service.shown,
            "reference": service.reference,
            "sampling": session.sampling_of().model_dump(exclude={"stop"}),
            "suggestions": [suggestion._asdict() for suggestion in suggestions],
            "has_report": service.report is not None,
            "votes": service.ballot.counted.votes,
        }
    )


def _is_plain(service: Service, name: str) -> bool:
    """Whether a stage is asked in the plain question format; of one that is not loaded yet by its name."""
    voice = service.voices.loaded.get(name)
    return name == BASE if voice is None else voice.plain


async def reply(service: Service, request: HttpRequest) -> Response:
    """Stream the answers of several stages, a JSON object on each line."""
    body = await read_body(request, ReplyBody)
    conversation, sampling = body.conversation.conversation(), body.how()
    wanted = []
    for name in service.voices.check_all(body.stages):
        voice = await service.voice(name, plain_base=body.plain_base)
        messages = conversation.messages(name)
        prepared = await service.prepare(session.prepare, voice, messages, sampling)
        wanted.append((voice, prepared, sampling, session.answer_key(messages, sampling.seed, body.attempt)))
    streams = service.start_all(wanted)
    return Streamed(_lines(streams), streams, media_type="application/x-ndjson")


async def _lines(streams: Sequence[Stream]) -> AsyncIterator[str]:
    try:
        async for _, event in merged(streams):
            if isinstance(event, Answer):
                yield json.dumps({"stage": event.name, "answer": _answer(event)}) + "\n"
            else:
                yield json.dumps({"stage": event.name, "piece": event.text}) + "\n"
    except Exception as error:  # the reply has begun, so its status cannot tell
        yield json.dumps({"error": {"message": str(error)}}) + "\n"


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "reason": answer.reason,
        "tokens": list(answer.tokens),
        "logprobs": list(answer.logprobs),
        "num_dropped": answer.num_dropped,
        "limit": answer.limit,
    }


async def insight(service: Service, request: HttpRequest) -> Response:
    """Say of an answer what the run knows: KL, reward, value, gold, and every token."""
    body = await read_body(request, InsightBody)
    conversation, sampling = body.conversation.conversation(), body.how()
    voice = await service.voice(body.stage, plain_base=body.plain_base)
    reference = None if body.reference is None else await service.voice(body.reference)
    messages = conversation.messages(voice.name)
    prepared = await service.prepare(session.prepare, voice, messages, sampling)
    answer = await asyncio.to_thread(session.answer_of, voice, prepared, sampling, body.tokens)
    found = await service.compute(
        lambda: look(
            voice, answer, messages, reference=reference, known=service.known, rewards=service.rewards
        )
    )
    return JSONResponse(as_record(found))


async def vote(service: Service, request: HttpRequest) -> Response:
    """Keep a vote."""
    body = await read_body(request, VoteBody)
    conversation, sampling = body.conversation.conversation(), body.how()
    left, right = service.voices.check_all([body.left, body.right])
    made = vote_on(
        conversation,
        (left, right),
        body.verdict,
        run=service.voices.run,
        sampling=sampling,
        attempt=body.attempt,
        blind=body.blind,
    )
    try:
        cast = await asyncio.to_thread(service.ballot.cast, made)
    except OSError as error:
        raise Refused(507, f"the vote was not kept: {error.strerror or error}") from error
    counted = cast.counted
    return JSONResponse(
        {
            "saved": True,
            "votes": counted.votes,
            "undecided": counted.undecided,
            "duplicate": cast.duplicate,
            "contradiction": cast.contradiction,
        }
    )
