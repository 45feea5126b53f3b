"""Strict reading of text and JSON lines: gzip or not, UTF-8 without NUL; long texts cut at paragraphs."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from data.errors import InputError

OnError = Literal["stop", "skip"]

MIN_WRAPPED_WIDTH = 40  # prose of printed books is broken at 60 to 75 characters, verse mostly below 40
_BOM = "\ufeff"


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacked where its name ends in `.gz`.

    Raises:
        InputError: there is no such file, it cannot be read, or its gzip data are damaged or cut off.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: damaged or cut-off gzip data ({error}); fetch the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    return raw


def decode(raw: bytes, where: str, offset: int = 0) -> str:
    """Decode UTF-8 without replacing anything; a byte order mark at the file's beginning is dropped.

    `offset` is the place of `raw` in its file, in bytes.

    Raises:
        InputError: invalid UTF-8 (which includes encoded surrogates) or a NUL byte, with its byte offset.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"invalid UTF-8 (0x{raw[error.start]:02x}, {error.reason})"
        raise InputError(_bad_byte(where, offset + error.start, found)) from None
    nul = raw.find(b"\0")
    if nul >= 0:
        raise InputError(_bad_byte(where, offset + nul, "a NUL byte"))
    return text if offset else text.removeprefix(_BOM)


def _bad_byte(where: str, offset: int, found: str) -> str:
    return f"{where}: {found} at byte {offset}; accepted is UTF-8 text without NUL: re-encode the file"


def read_text(path: Path) -> str:
    r"""Read one text file strictly; line ends become `\n`."""
    text = decode(read_bytes(path), str(path))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def find_files(path: Path, endings: Sequence[str]) -> list[Path]:
    """List the file, or the files of a folder and its subfolders in name order, whose names end as asked.

    Hidden files are left out. A single file is taken whatever its ending.

    Raises:
        InputError: the path does not exist, or the folder holds no such file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give a file or a folder of {', '.join(endings)}")
    found = [
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.name.endswith(tuple(endings))
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise InputError(f"{path}: the folder holds no file that ends in {', '.join(endings)}")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def locate(path: str, data_root: Path | None) -> Path:
    """Where a path of a recipe points: below the data root where it exists there, else as it stands."""
    inside = data_root / path if data_root is not None else Path(path)
    return inside if inside.exists() else Path(path).expanduser()


def unwrap(text: str) -> str:
    """Join the lines of paragraphs that were broken at a fixed width; verse and lists keep their lines.

    A paragraph is joined where no line but the first is indented and none but the last is shorter than
    `MIN_WRAPPED_WIDTH` characters.
    """
    paragraphs = re.split(r"\n(?:[^\S\n]*\n)+", text)
    return "\n\n".join(_unwrapped(paragraph) for paragraph in paragraphs)


def _unwrapped(paragraph: str) -> str:
    lines = paragraph.split("\n")
    short = any(len(line) < MIN_WRAPPED_WIDTH for line in lines[:-1])
    indented = any(line[:1].isspace() for line in lines[1:])
    return paragraph if short or indented else " ".join(line.strip() for line in lines)


def chunks(text: str, max_characters: int) -> list[str]:
    """Cut a long text into pieces of at most `max_characters`, at paragraph borders where it can be done.

    Paragraphs (separated by blank lines) are filled up greedily; one that is too long alone is cut at
    sentence ends, then at spaces, then anywhere. Nothing but white space at the cuts is lost.
    """
    assert max_characters >= 1, max_characters
    pieces: list[str] = []
    current = ""
    for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", text.strip()):
        joined = f"{current}\n\n{paragraph}" if current else paragraph
        if len(joined) <= max_characters:
            current = joined
            continue
        if current:
            pieces.append(current)
        *whole, current = _cut(paragraph, max_characters)
        pieces += whole
    return [*pieces, current] if current else pieces


def _cut(paragraph: str, max_characters: int) -> list[str]:
    pieces = []
    rest = paragraph
    while len(rest) > max_characters:
        head = rest[: max_characters + 1]
        ends = [match.end() for match in re.finditer(r"[.!?][\"')\]’”]*(?=\s)", head)]
        spaces = [match.start() for match in re.finditer(r"\s", head)]
        # A cut in the first half would leave a stump: the next finer kind of border is taken then.
        good = [[cut for cut in cuts if cut > max_characters // 2] for cuts in (ends, spaces)]
        cut = (good[0] or good[1] or [max_characters])[-1]
        pieces.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [piece for piece in [*pieces, rest] if piece] or [""]


def read_records(
    path: Path, *, on_error: OnError = "stop", dropped: list[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, JSON object) of a `.jsonl` file, plain or gzip; blank lines are passed over.

    With `on_error="skip"` a malformed line is left out and its message appended to `dropped`.

    Raises:
        InputError: a malformed line, naming file, line and the text around the fault; invalid UTF-8, NUL and
            lone surrogates with their byte offset.
    """
    assert on_error == "stop" or dropped is not None, "what is skipped must be counted: give `dropped`"
    raw = read_bytes(path)
    offset = len(_BOM.encode()) if raw.startswith(_BOM.encode()) else 0
    for number, line in enumerate(raw[offset:].split(b"\n"), start=1):
        last = offset + len(line) == len(raw)
        try:
            if line.strip():
                yield number, _record(line, f"{path}:{number}", offset, last=last)
        except InputError as error:
            if on_error == "stop" or dropped is None:
                raise
            dropped.append(str(error))
        offset += len(line) + 1


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def _record(line: bytes, where: str, offset: int, *, last: bool) -> dict[str, Any]:
    text = decode(line, where, offset)
    try:
        record = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        around = text[max(0, error.pos - 30) : error.pos + 30]
        cut = (
            ": the file ends in the middle of a record"
            if last and (error.pos >= len(text.rstrip()) or "Unterminated" in error.msg)
            else ""
        )
        raise InputError(
            f"{where}: malformed JSON{cut} ({error.msg} near {around!r}); correct the line"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{where}: malformed JSON ({reason}); correct the line") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {shown(record)}; each line must be one JSON object")
    if b"\\u" in line:
        _check_escapes(text, where, offset)
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; accepted are finite numbers and null")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the column `{twice}` stands there twice")
    return record


def _check_escapes(text: str, where: str, offset: int) -> None:
    """Refuse what is valid in JSON but not in text: NUL and one half of a surrogate pair."""
    matches = list(_ESCAPE.finditer(text))
    skip = -1
    for place, match in enumerate(matches):
        code = int(match[1], 16) if match[1] else 1
        if match.start() == skip and 0xDC00 <= code < 0xE000:
            continue  # the second half of a pair
        following = matches[place + 1] if place + 1 < len(matches) else None
        paired = (
            0xD800 <= code < 0xDC00
            and following is not None
            and following.start() == match.end()
            and following[1] is not None
            and 0xDC00 <= int(following[1], 16) < 0xE000
        )
        skip = match.end() if paired else -1
        if code == 0 or (0xD800 <= code < 0xE000 and not paired):
            found = "NUL" if code == 0 else f"the lone surrogate U+{code:04X}"
            at = offset + len(text[: match.start()].encode())
            raise InputError(f"{where}: {found} at byte {at}; accepted is Unicode text without NUL")


def shown(value: object) -> str:
    """Show a value of a data file in a message, at most 80 characters of it."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
