"""The chat format: control tokens, the template, and encoding in which text can never forge a control token.

A document is `<|begin|>` text `<|end|>`; a conversation is `<|begin|>` and for each turn its role's token,
the content and `<|end|>`; a prompt ends with `<|assistant|>`. Control ids are inserted by position; contents
are encoded with the parsing of special tokens off, so that `<|end|>` in a text stays seven characters.

A tokenizer of another family keeps its own template: the template is rendered around placeholders, its frame
is encoded with the parsing on, the contents with the parsing off. Frame and contents are encoded apart, which
can differ from the template's own encoding where a word would span the border.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data.errors import InputError
from data.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BEGIN, END, SYSTEM, USER, ASSISTANT = range(6)
CONTROL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
ROLE_IDS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

# One line: line breaks between blocks would become part of the text in some engines. `generation` marks what
# the assistant says, for trainers that ask the template for a mask.
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}<|end|>"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}<|end|>"
    "{% else %}{{ raise_exception('Unknown role: ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class EncodedChat(NamedTuple):
    """Tokens of a conversation and which of them the assistant says (its contents and what ends them)."""

    tokens: list[int]
    mask: list[bool]


# --- text --------------------------------------------------------------------------------------------------


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode ordinary texts, many at once; no special token is parsed out of them or added to them."""
    backend = _backend(tokenizer, parse_special=False)
    markers = _inside_marker(tokenizer)
    if markers is None:
        rows = [piece.ids for piece in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    else:
        cut = (backend.encode_batch_fast(_cut(text, markers), add_special_tokens=False) for text in texts)
        rows = [[token for piece in pieces for token in piece.ids] for pieces in cut]
    unknown = tokenizer.unk_token_id
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    # Many tokenizers fill with what stands for unknown characters, too: a mask tells which of both it is.
    control = _control_ids(tokenizer) - ({unknown} - ends)
    for text, row in zip(texts, rows, strict=True):
        if unknown in ends and unknown in row:
            raise InputError(
                f"{tokenizer.name_or_path}: the vocabulary does not know all of {text[:80]!r}, and its unk_token "
                "begins or ends texts; give the tokenizer an unk_token of its own"
            )
        assert control.isdisjoint(row), f"a control token arose from the text {text[:80]!r}"
    return rows


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode one ordinary text, see `encode_texts`."""
    return encode_texts(tokenizer, [text])[0]


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int | None = None
) -> list[list[int]]:
    """Encode pretraining documents with their begin and end; a longer one is cut to `max_tokens`, endless."""
    begin, end = _begin(tokenizer), _end(tokenizer)
    return [[*begin, *row, *end][:max_tokens] for row in encode_texts(tokenizer, texts)]


def encode_document(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode one pretraining document with its begin and end."""
    return encode_documents(tokenizer, [text])[0]


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode the beginning of a document, for a model to continue."""
    return [*_begin(tokenizer), *encode_text(tokenizer, text)]


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Turn tokens into their exact text; control tokens are dropped, torn UTF-8 becomes U+FFFD."""
    control = _control_ids(tokenizer)
    kept = [int(token) for token in tokens if int(token) not in control]
    return str(_fast(tokenizer).decode(kept, skip_special_tokens=False))


def _fast(tokenizer: PreTrainedTokenizerBase) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"{type(tokenizer).__name__}: not a fast tokenizer; accepted are those with a tokenizer.json: "
            "convert it with transformers and save it again"
        )
    return backend


def _backend(tokenizer: PreTrainedTokenizerBase, *, parse_special: bool) -> Any:
    """The inner tokenizer, without what earlier callers may have left set on it."""
    backend = _fast(tokenizer)
    backend.encode_special_tokens = not parse_special
    if backend.padding is not None:
        backend.no_padding()
    if backend.truncation is not None:
        backend.no_truncation()
    return backend


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {token for token, content in tokenizer.added_tokens_decoder.items() if content.special}
    # A text may hold what the vocabulary does not know; elsewhere `unk` is an alias of a control token.
    unknown = {tokenizer.unk_token_id} - {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    }
    return (added | set(tokenizer.all_special_ids)) - unknown


def _inside_marker(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Matches inside every marker that the tokenizer would parse although it is not special, if it has any.

    Other families have such added tokens (`<tool_call>`); a text is cut there so that they cannot arise.
    """
    markers = [added.content for added in tokenizer.added_tokens_decoder.values() if not added.special]
    cut = [re.escape(marker) for marker in markers if len(marker) > 1 and marker.strip()]
    return re.compile(f"(?=({'|'.join(cut)}))") if cut else None


def _cut(text: str, inside_marker: re.Pattern[str]) -> list[str]:
    cuts = [match.start() + 1 for match in inside_marker.finditer(text)]
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def is_native(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has this project's control tokens, with their ids, and its template."""
    ids = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))
    return ids == list(range(len(CONTROL_TOKENS))) and tokenizer.chat_template in (None, CHAT_TEMPLATE)


def can_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether conversations can be encoded: a tokenizer of ours, or one with a chat template."""
    return is_native(tokenizer) or bool(tokenizer.chat_template)


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


# --- conversations -----------------------------------------------------------------------------------------


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[Message]], *, answer_next: bool = False
) -> list[EncodedChat]:
    """Encode conversations, many at once; with `answer_next` each ends where the assistant is to speak."""
    native = is_native(tokenizer)
    frames = [_frame(tokenizer, messages, answer_next, native) for messages in chats]
    contents = [message["content"] for messages in chats for message in messages]
    encoded = iter(encode_texts(tokenizer, contents))
    control = _control_ids(tokenizer)
    return [_fill(frame, [next(encoded) for _ in frame.said], control) for frame in frames]


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> EncodedChat:
    """Encode one conversation; the mask is True on what the assistant says and on what ends it."""
    return encode_chats(tokenizer, [messages])[0]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]]
) -> list[list[int]]:
    """Encode conversations up to where the assistant is to answer, many at once."""
    return [chat.tokens for chat in encode_chats(tokenizer, prompts, answer_next=True)]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Encode one conversation up to where the assistant is to answer."""
    return encode_prompts(tokenizer, [messages])[0]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer in a conversation: its control token, and what a template has before it.

    Raises:
        InputError: the chat template ends an answer with text alone, so that it has no end.
    """
    chat = encode_chat(tokenizer, [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}])
    ending = [token for token, counted in zip(chat.tokens, chat.mask, strict=True) if counted]
    if not ending or ending[-1] not in _control_ids(tokenizer):
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} ends an answer with no special token, so a "
            "model could never learn to stop; accepted are templates that write one behind an answer: give "
            "the tokenizer a `chat_template` that writes its eos_token there"
        )
    return ending


class _Frame(NamedTuple):
    """Control tokens around n contents: n + 1 stretches, and whether each content is the assistant's."""

    stretches: list[list[int]]
    said: list[bool]


def _frame(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer_next: bool, native: bool
) -> _Frame:
    for message in messages:
        if message["role"] not in ROLE_IDS:
            raise InputError(f"the role {message['role']!r} is unknown; accepted are {', '.join(ROLE_IDS)}")
    said = [message["role"] == "assistant" for message in messages]
    if not native:
        return _Frame(_foreign_stretches(tokenizer, messages, answer_next), said)
    starts = [ROLE_IDS[message["role"]] for message in messages]
    opening = [[BEGIN, *starts[:1]], *([END, start] for start in starts[1:])]
    closing = [END, ASSISTANT] if answer_next else [END]
    return _Frame([*opening, closing], said)


def _foreign_stretches(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer_next: bool
) -> list[list[int]]:
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; give a model that has one, or "
            "save the tokenizer with a `chat_template` first"
        )
    # Private-use characters: no template looks for them, none trims them.
    marks = [f"\ue0f0{place}\ue0f1" for place in range(len(messages))]
    shown = [
        {"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)
    ]
    rest = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=answer_next)
    parts = []
    for mark in marks:
        part, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise InputError(
                f"the chat template of {tokenizer.name_or_path!r} does not show every turn once, in order; "
                "accepted are templates that do: give the tokenizer another `chat_template`"
            )
        parts.append(part)
    backend = _backend(tokenizer, parse_special=True)
    return [e.ids for e in backend.encode_batch([*parts, rest], add_special_tokens=False)]


def _fill(frame: _Frame, contents: Sequence[list[int]], control: set[int]) -> EncodedChat:
    tokens = list(frame.stretches[0])
    mask = [False] * len(tokens)
    for said, content, stretch in zip(frame.said, contents, frame.stretches[1:], strict=True):
        tokens += content + stretch
        # What ends an answer is said too: the model has to learn to stop.
        num_said = len(content) + _num_ending(stretch, control)
        mask += [said] * num_said + [False] * (len(content) + len(stretch) - num_said)
    return EncodedChat(tokens, mask)


def _num_ending(stretch: list[int], control: set[int]) -> int:
    """Tokens up to the first control token; the first one alone where a template has text only."""
    first = next((place for place, token in enumerate(stretch) if token in control), 0)
    return min(first + 1, len(stretch))
