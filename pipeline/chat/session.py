"""Talking without input or output: a conversation, and several models that answer it side by side.

All models get the same user turns, the same sampling and the same seed; each goes on from its own earlier
answers. An answer is a function of (model, conversation, sampling, attempt), whoever asks and whatever else
is being answered: terminal, comparison, page and API all come through here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from data.errors import InputError
from data.randomness import key
from data.rows import Message, parse_messages
from data.settings import Settings
from pipeline.chat.streaming import TextStream
from pipeline.chat.voices import Prompt, Voice

TEMPERATURE, MAX_NEW_TOKENS = 0.7, 128  # where nothing else is asked for
PLAIN_STOP = "\n"  # an answer in the plain question format is one line

Reason = Literal["end", "stop", "length", "cancelled"]
Events = Generator["Piece | Answer", None, None]


class Sampling(Settings):
    """How answers are drawn."""

    temperature: float = Field(
        TEMPERATURE, ge=0, le=5, description="Divides the logits; 0 takes the most likely token."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Smallest probability mass of tokens that is kept.")
    top_k: int = Field(0, ge=0, description="Number of most likely tokens that are kept; 0 keeps all.")
    max_new_tokens: int = Field(MAX_NEW_TOKENS, ge=1, le=100_000, description="Longest answer, in tokens.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of the answers' random streams.")
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        (), max_length=4, description="Texts that end an answer and are not part of it."
    )


@dataclass(frozen=True)
class Turn:
    """What the user said and what each model answered, by the model's name."""

    user: str
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """Turns in order, after an optional system text."""

    system: str = ""
    turns: tuple[Turn, ...] = ()

    def say(self, text: str) -> Conversation:
        """Append a turn of the user."""
        return replace(self, turns=(*self.turns, Turn(text)))

    def answered(self, answers: Mapping[str, str]) -> Conversation:
        """Add answers to the last turn; an earlier answer of the same model is replaced."""
        last = self.turns[-1]
        return replace(self, turns=(*self.turns[:-1], replace(last, answers={**last.answers, **answers})))

    def undone(self) -> Conversation:
        """Take back the last turn."""
        return replace(self, turns=self.turns[:-1])

    def messages(self, name: str) -> list[Message]:
        """The conversation as one model sees it, up to the last turn of the user.

        Earlier answers are its own; where it gave none (it joined later), the first that was given. A turn
        that nobody answered is left out.
        """
        messages = [Message(role="system", content=self.system)] if self.system else []
        for turn in self.turns[:-1]:
            if turn.answers:
                answer = turn.answers.get(name, next(iter(turn.answers.values())))
                messages.append(Message(role="user", content=turn.user))
                messages.append(Message(role="assistant", content=answer))
        return [*messages, Message(role="user", content=self.turns[-1].user)]


class Piece(NamedTuple):
    """Some more text of an answer that is under way."""

    name: str
    text: str


@dataclass(frozen=True)
class Answer:
    """A finished answer: its text, tokens with log-probabilities in nats as drawn, and why it ended.

    `prompt` is what the model was given after the `num_dropped` oldest turns were left out for lack of room;
    `limit` is the number of tokens that the answer could have.
    """

    name: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: Reason
    prompt: Prompt
    num_dropped: int
    limit: int


class Request(NamedTuple):
    """What a model is given: prompt, the same as tokens, number of oldest turns left out, room for the answer."""

    prompt: Prompt
    tokens: tuple[int, ...]
    num_dropped: int
    limit: int


def sampling_of(**values: Any) -> Sampling:
    """Check sampling settings; None stands for the default. All problems are reported at once.

    Raises:
        InputError: unknown names, values out of range, NaN.
    """
    try:
        return Sampling(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise InputError(
            [
                f"{'.'.join(map(str, problem['loc']))} is {problem['input']!r}: {problem['msg']}"
                for problem in error.errors()
            ]
        ) from error


def check_text(text: str, what: str) -> str:
    """Refuse a text that is blank or holds lone surrogates (bytes that were no UTF-8)."""
    if not text.strip():
        raise InputError(f"{what} is empty; give some text")
    return check_characters(text, what)


def check_characters(text: str, what: str) -> str:
    """Refuse lone surrogates."""
    for place, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise InputError(f"{what} is not valid UTF-8 at character {place}; give UTF-8 text")
    return text


# --- one answer --------------------------------------------------------------------------------------------


def speak(
    voice: Voice,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    attempt: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Events:
    """Answer a conversation: pieces of text as they are drawn, then the Answer; closing it stops the model.

    Another `attempt` (regenerate) draws another answer. `cancelled` is asked before each token;
    the Answer then holds what was drawn until then.

    Raises:
        InputError: not a conversation that ends with the user, or its last turn exceeds the context; raised
            by the call, before anything is drawn.
    """
    request = prepare(voice, messages, sampling)
    return _speak(voice, request, sampling, answer_key(messages, sampling.seed, attempt), cancelled)


def _speak(
    voice: Voice, request: Request, sampling: Sampling, stream_key: int, cancelled: Callable[[], bool]
) -> Events:
    draft, stopped = Draft(voice, request, sampling), False
    tokens = voice.stream(
        request.prompt,
        key=stream_key,
        max_new_tokens=request.limit,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    with closing(tokens):  # whoever goes away: the model stops at once
        while not draft.stopped and not (stopped := cancelled()):
            step = next(tokens, None)
            if step is None:
                break
            if piece := draft.push(*step):
                yield Piece(voice.name, piece)
    if piece := draft.finish():
        yield Piece(voice.name, piece)
    yield draft.answer(cancelled=stopped)


class Draft:
    """An answer in the making: tokens go in as they are drawn, and text comes out."""

    def __init__(self, voice: Voice, request: Request, sampling: Sampling) -> None:
        """Begin with nothing drawn."""
        self.voice, self.request = voice, request
        stops = [*([PLAIN_STOP] if voice.plain else []), *sampling.stop]
        self._text = TextStream(voice.decode, stops, strip_start=voice.plain)
        self._drawn: list[tuple[int, float]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete; nothing more is to be drawn."""
        return self._text.stopped

    def push(self, token: int, logprob: float) -> str:
        """Add a token; returns the text that is certain now, perhaps none."""
        self._drawn.append((token, logprob))
        return self._text.push(token)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add all tokens of a finished answer, whose log-probabilities are not known."""
        self._drawn += [(token, math.nan) for token in tokens]
        self._text.extend(tokens)

    def finish(self) -> str:
        """Return the text that was held back: there is no further token."""
        return self._text.finish()

    def answer(self, *, cancelled: bool = False) -> Answer:
        """The finished answer."""
        reason: Reason = "length"
        if cancelled:
            reason = "cancelled"
        elif self.stopped:
            reason = "stop"
        elif self._drawn and self._drawn[-1][0] in self.voice.end_ids:
            reason = "end"
        return Answer(
            name=self.voice.name,
            text=self._text.text,
            tokens=tuple(token for token, _ in self._drawn),
            logprobs=tuple(logprob for _, logprob in self._drawn),
            reason=reason,
            prompt=self.request.prompt,
            num_dropped=self.request.num_dropped,
            limit=self.request.limit,
        )


def answer_all(
    voice: Voice, conversations: Sequence[Sequence[Message]], sampling: Sampling, *, attempt: int = 0
) -> list[Answer]:
    """Answer many conversations in batches; each answer is the one that `speak` gives."""
    requests = [prepare(voice, messages, sampling) for messages in conversations]
    answers: dict[int, Answer] = {}
    for limit in sorted({request.limit for request in requests}):
        rows = [row for row, request in enumerate(requests) if request.limit == limit]
        completions = voice.generate(
            [requests[row].prompt for row in rows],
            keys=[answer_key(conversations[row], sampling.seed, attempt) for row in rows],
            max_new_tokens=limit,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            stop=PLAIN_STOP if voice.plain else None,
        )
        for row, completion in zip(rows, completions, strict=True):
            draft = Draft(voice, requests[row], sampling)
            for drawn in zip(completion.tokens, completion.logprobs, strict=True):
                draft.push(*drawn)
                if draft.stopped:
                    break
            draft.finish()
            answers[row] = draft.answer()
    return [answers[row] for row in range(len(requests))]


def answer_of(voice: Voice, request: Request, sampling: Sampling, tokens: Sequence[int]) -> Answer:
    """The answer that these tokens are, whoever drew them; their log-probabilities as drawn are not known (NaN).

    Raises:
        InputError: a token that the model does not have, or more of them than there was room for.
    """
    unknown = [token for token in tokens if not 0 <= token < voice.vocab_size]
    if unknown or len(tokens) > request.limit:
        what = f"token {unknown[0]}" if unknown else f"{len(tokens)} tokens"
        raise InputError(
            f"{what} cannot be of an answer of {voice.name}, which has {voice.vocab_size} tokens and had room "
            f"for {request.limit}; send the tokens that were drawn, with the same conversation and sampling"
        )
    draft = Draft(voice, request, sampling)
    draft.extend(tokens)
    return draft.answer()


def answer_key(messages: Sequence[Message], seed: int, attempt: int = 0) -> int:
    """Key of an answer's random stream: what was asked, not what was answered, so equal for all models."""
    asked = [f"{turn['role']}:{turn['content']}" for turn in messages if turn["role"] != "assistant"]
    return key("answer", seed, attempt, *asked)


def text_key(text: str, seed: int, attempt: int = 0) -> int:
    """Key of the random stream of a text's continuation."""
    return key("continuation", seed, attempt, text)


# --- the prompt and its room -------------------------------------------------------------------------------


def prepare(voice: Voice, messages: Sequence[Message], sampling: Sampling) -> Request:
    """Fit a conversation into the context of a model: the oldest turns go first, the system text stays.

    Half of the context at most is kept free for the answer; a longer answer gets what is left.

    Raises:
        InputError: the last turn alone leaves no room.
    """
    try:
        checked = parse_messages(messages, last="user")
    except ValueError as error:
        raise InputError(str(error)) from error
    system = [message for message in checked[:1] if message["role"] == "system"]
    turns = checked[len(system) :]
    reserve = max(1, min(sampling.max_new_tokens, voice.context // 2))
    starts = range(0, len(turns), 2)  # a turn is a message of the user with its answer

    def prompt_from(start: int) -> Prompt:
        kept = [*system, *turns[start:]]
        return plain_text(kept) if voice.plain else kept

    # Fewer turns are never longer, so the least number to drop is found by bisection.
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        fits = len(voice.encode(prompt_from(starts[middle]))) + reserve <= voice.context
        low, high = (low, middle) if fits else (middle + 1, high)
    prompt = prompt_from(starts[low])
    tokens = tuple(voice.encode(prompt))
    num_tokens = len(tokens)
    if num_tokens >= voice.context:
        raise InputError(
            f"the message is too long for {voice.name}: {num_tokens} tokens with its frame, and its context "
            f"is {voice.context}, of which the answer needs 1 or more; shorten the message or the system text"
        )
    return Request(prompt, tokens, low, min(sampling.max_new_tokens, voice.context - num_tokens))


def prepare_text(voice: Voice, text: str, sampling: Sampling) -> Request:
    """Fit a text that is to be continued into the context of a model; nothing of it is left out.

    Raises:
        InputError: it leaves no room.
    """
    tokens = tuple(voice.encode(text))
    num_tokens = len(tokens)
    if num_tokens >= voice.context:
        raise InputError(
            f"the text is too long for {voice.name}: {num_tokens} tokens, and its context is {voice.context}, of "
            "which the completion needs 1 or more; shorten it"
        )
    return Request(text, tokens, 0, min(sampling.max_new_tokens, voice.context - num_tokens))


def plain_text(messages: Sequence[Message]) -> str:
    """Write a conversation in the plain question format, a text whose next line is the answer."""
    names = {"user": "Question: ", "assistant": "Answer: ", "system": ""}
    return "".join(f"{names[turn['role']]}{turn['content']}\n" for turn in messages) + "Answer:"


# --- several models ----------------------------------------------------------------------------------------


def reply(
    voices: Sequence[Voice],
    conversation: Conversation,
    sampling: Sampling,
    *,
    attempt: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Events:
    """Answer the last turn by every voice, their pieces in turn, each voice's Answer at its end.

    Raises:
        InputError: as `speak`, for the first voice that cannot answer, before anything is drawn.
    """
    streams = [
        speak(voice, conversation.messages(voice.name), sampling, attempt=attempt, cancelled=cancelled)
        for voice in voices
    ]
    return _in_turn(streams)


def _in_turn(streams: Sequence[Events]) -> Events:
    live = list(streams)
    try:
        while live:
            for stream in list(live):
                event = next(stream, None)
                if event is None:
                    live.remove(stream)
                else:
                    yield event
    finally:  # closed early: no model goes on for nobody
        for stream in live:
            stream.close()


# --- saving ------------------------------------------------------------------------------------------------


def to_dict(conversation: Conversation) -> dict[str, Any]:
    """Turn a conversation into a JSON object that `from_dict` reads back."""
    turns = [{"user": turn.user, "answers": dict(turn.answers)} for turn in conversation.turns]
    return {"system": conversation.system, "turns": turns}


def from_dict(record: object) -> Conversation:
    """Read a conversation back; InputError with the place and the expected schema."""
    schema = 'expected {"system": text, "turns": [{"user": text, "answers": {stage: text}}, ...]}'
    if not isinstance(record, dict) or set(record) != {"system", "turns"}:
        raise InputError(f"this is no saved conversation; {schema}")
    if not isinstance(record["system"], str) or not isinstance(record["turns"], list):
        raise InputError(f"`system` is no text or `turns` no list; {schema}")
    turns = []
    for place, turn in enumerate(record["turns"]):
        if (
            not isinstance(turn, dict)
            or set(turn) != {"user", "answers"}
            or not isinstance(turn["user"], str)
        ):
            raise InputError(f"turns[{place}] is no turn; {schema}")
        answers = turn["answers"]
        if not isinstance(answers, dict) or not all(isinstance(text, str) for text in answers.values()):
            raise InputError(f"turns[{place}].answers maps no stages to texts; {schema}")
        turns.append(Turn(turn["user"], answers))
    return Conversation(record["system"], tuple(turns))
