"""What comes in over HTTP: bodies within bounds, checked against a schema, and errors in the API's form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from data.errors import InputError

MAX_BODY_BYTES = 1_000_000
MAX_DROPPED_BYTES = 100_000_000  # read from a body that is refused
BODY_SECONDS = 20.0  # for a body to arrive
MAX_MESSAGES = 1_000
RETRY_SECONDS = 1
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

Body = TypeVar("Body", bound="Fields")


class Fields(BaseModel):
    """A body: unknown fields are refused, types are not guessed, NaN and infinities are no numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Take the HTTP status, what was wrong in words, and headers of the answer."""
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def error_response(error: Refused) -> JSONResponse:
    """An error as clients of the API expect it."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return JSONResponse(
        {"error": {"message": str(error), "type": kind, "param": None, "code": error.status}},
        status_code=error.status,
        headers=error.headers,
    )


async def read_body(request: Request, schema: type[Body]) -> Body:
    """Read a JSON body and check it.

    Raises:
        Refused: 415 no JSON, 413 too large, 408 too slow, 400 not JSON or not of the schema.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"the body is {kind or 'of no type'}; send Content-Type: application/json")
    text = await _bytes(request)
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant, parse_float=_number)
        return schema.model_validate(value)
    except ValidationError as error:
        raise Refused(400, _problems(error)) from None
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is no UTF-8 text at byte {error.start}") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deep") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


async def _bytes(request: Request) -> bytes:
    """Read a body; one that is too large is read on and dropped, so that the refusal arrives.

    A client that is cut off while it sends sees a broken connection instead of the reason.
    """
    parts: list[bytes] = []
    size = 0
    declared = request.headers.get("content-length", "0")
    too_large = not declared.isdigit() or int(declared[:20]) > MAX_BODY_BYTES
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                too_large = too_large or size > MAX_BODY_BYTES
                if size > MAX_DROPPED_BYTES:
                    break
                if too_large:
                    parts.clear()
                else:
                    parts.append(part)
    except TimeoutError:
        if not too_large:
            raise Refused(
                408, f"the body did not arrive within {BODY_SECONDS:g} s", {"Connection": "close"}
            ) from None
    if too_large:
        raise Refused(
            413, f"the body has more than {MAX_BODY_BYTES:,} bytes; shorten it", {"Connection": "close"}
        )
    return b"".join(parts)


def _number(text: str) -> float | int:
    """A number as JSON means it: 3.0 is an integer."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _problems(error: ValidationError) -> str:
    """The first problems of a body in words, with what was given cut short."""
    told = []
    for problem in error.errors(include_url=False)[:5]:
        where = ".".join(str(part) for part in problem["loc"][:6])[:100] or "the body"
        told.append(f"{where}: {problem['msg']} (given {repr(problem['input'])[:60]})")
    more = error.error_count() - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def refused(error: InputError, status: int = 400) -> Refused:
    """An error of the session as an answer."""
    return Refused(status, str(error))
