"""Text of a model made safe to show on a terminal: no character of it can act, hide or reorder.

Every character is judged alone, so that sanitising piece by piece while text streams in equals sanitising
the whole, however an escape sequence is cut. What an escape sequence leaves without its control characters
stays as plain text: it is what the model wrote.
"""

from __future__ import annotations

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]  # C0, delete, and C1: 0x9B starts a sequence without ESC
_BIDI = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_INVISIBLE = [0x00AD, 0x180E, 0x200B, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF]
_ANNOTATION = [*range(0xFFF9, 0xFFFC)]  # brackets of ruby text, which terminals hide
_LINE_ENDS = [0x0B, 0x0C, 0x85, 0x2028, 0x2029]  # else the words on their two sides would run together
_SURROGATES = range(0xD800, 0xE000)  # not encodable: printing one would raise

# Zero-width joiner and non-joiner stay: emoji and several scripts need them, and they cannot act.
_TABLE: dict[int, str | None] = {
    **dict.fromkeys([*_CONTROLS, *_BIDI, *_INVISIBLE, *_ANNOTATION]),
    **dict.fromkeys(_LINE_ENDS, "\n"),
    **dict.fromkeys(_SURROGATES, "\N{REPLACEMENT CHARACTER}"),
    ord("\n"): "\n",
    ord("\t"): "\t",
}


def inert(text: str) -> str:
    """Drop control, bidi and invisible formatting characters; keep line ends, tabs and all visible text.

    Holds for all texts: `inert(a + b) == inert(a) + inert(b)` and `inert(inert(a)) == inert(a)`.
    """
    return text.translate(_TABLE)


def inert_line(text: str) -> str:
    """Make one line of it: as `inert`, with each run of white space a single space."""
    return " ".join(inert(text).split())


def encodable(text: str, encoding: str | None) -> str:
    """Replace what the encoding of a stream cannot hold by "?", so that printing never fails."""
    return text.encode(encoding or "utf-8", "replace").decode(encoding or "utf-8")
