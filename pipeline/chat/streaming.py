"""Text out of tokens as they come: half characters wait to be whole, nothing after a stop is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_OPEN = 16  # tokens at the end whose text may still change with those that come
_LONGEST_HALF = 3  # bytes of a character of four that can stand at the end of the tokens so far


class TextStream:
    """Turns tokens into pieces of text whose concatenation is the text of all tokens up to the stop.

    `decode` maps token ids to text; it is asked for the last tokens alone, as the text of those before does not
    change any more. A stop string is not part of the text and may lie across tokens. With
    `strip_start` white space before the first visible character is left out, though a stop in it counts.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), *, strip_start: bool = False
    ) -> None:
        assert all(stops), "a stop string is not empty"
        self._decode, self._stops, self._strip = decode, tuple(stops), strip_start
        self._tokens: list[int] = []  # those that are decoded again
        self._settled = ""  # the text of those before them
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns the text that is certain now, perhaps none. After a stop nothing is added."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        return self._advance(whole=False)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add the last tokens at once."""
        self._tokens += tokens
        self._advance(whole=True)

    def finish(self) -> str:
        """Return what was held back: the text has no further token."""
        return "" if self.stopped else self._advance(whole=True)

    def _advance(self, *, whole: bool) -> str:
        text = self._settled + self._decode(self._tokens)
        self._settle(text)
        if not whole:  # a half character reads as U+FFFD, which a stop string may hold
            text = text[: len(text) - half_character(text)]
        text, self.stopped = cut_at_stop(text, self._stops)
        if not whole and not self.stopped:
            text = text[: len(text) - stop_prefix(text, self._stops)]
        if self._strip:
            text = text.lstrip()
        # A tokenizer with byte fallback may rewrite its last characters once more bytes come: wait for those.
        if not text.startswith(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece

    def _settle(self, text: str) -> None:
        """Let go of the first tokens, where the others alone read as they do behind them.

        Not where bytes among these may still become a character, and with them bytes before.
        """
        if len(self._tokens) < 2 * _OPEN:
            return
        last = self._decode(self._tokens[-_OPEN:])
        if last and REPLACEMENT not in last and text.endswith(last):
            self._settled, self._tokens = text[: len(text) - len(last)], self._tokens[-_OPEN:]


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Cut the text before the stop string that is complete first; says whether there was one.

    First to be complete, not first to begin: so it does not matter in what pieces the text came.
    """
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(ends)[1]], True) if ends else (text, False)


def half_character(text: str) -> int:
    """Count the characters at the end that may be the bytes of a character that is not whole yet."""
    return min(len(text) - len(text.rstrip(REPLACEMENT)), _LONGEST_HALF)


def stop_prefix(text: str, stops: Sequence[str]) -> int:
    """Count the characters at the end that may be the beginning of a stop string."""
    lengths = (length for stop in stops for length in range(len(stop) - 1, 0, -1))
    return max((length for length in lengths if text.endswith(_heads(stops, length))), default=0)


def _heads(stops: Sequence[str], length: int) -> tuple[str, ...]:
    return tuple(stop[:length] for stop in stops if len(stop) > length)
