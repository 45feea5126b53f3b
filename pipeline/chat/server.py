"""`fledge serve`: a run's chat page, its API and the OpenAI-compatible API, by default for this machine alone.

On the loopback address Host and Origin are checked, so that no page of another site can reach the server through
a browser, under whatever name it is resolved. On any other address every request for data needs a token.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import InputError
from pipeline.chat import openai_api, page_api
from pipeline.chat.api_schema import openapi
from pipeline.chat.engine import Busy
from pipeline.chat.protocol import BoundedHttp
from pipeline.chat.requests import RETRY_SECONDS, Refused, error_response
from pipeline.chat.service import Service, open_service
from pipeline.chat.streams import Gone

PAGE = Path(__file__).with_name("page")
LOOPBACK = "127.0.0.1"
PORT = 8365
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
MAX_CONNECTIONS = 512
CLOSE_SECONDS = 5
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The report is one file with its style and script inside; in a sandbox it has no part in this origin.
REPORT_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
)
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN = ("/", "/static/", "/favicon.ico")  # what holds no data, and needs no token

Handler = Callable[[Service, HttpRequest], Awaitable[Response]]


@dataclass(frozen=True)
class Access:
    """Who may ask: on the loopback address all by a local name and from no other site, else who has the token."""

    loopback: bool
    token: str | None
    host: str = LOOPBACK

    def refusal(self, headers: Headers, path: str, query: str) -> Refused | None:
        """Why a request is refused, or None."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.loopback and _hostname(host) not in (*LOCAL_NAMES, self.host):
            return Refused(403, f"this server answers to {', '.join(LOCAL_NAMES)} alone")
        if origin is not None and origin != f"http://{host}":
            return Refused(403, "requests from other sites are refused")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and path != "/":
            return Refused(403, "requests from other sites are refused")
        if self.token is None or path == "/" or path.startswith(OPEN[1:]):
            return None
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if path == "/report":  # a link cannot send a header
            given = given or query
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return Refused(
                401, "this needs the token that `fledge serve` printed: Authorization: Bearer TOKEN"
            )
        return None


def _hostname(host: str) -> str | None:
    """The name in a Host header, without the port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def make_app(service: Service, access: Access) -> ASGIApp:
    """The application of a service."""

    def handle(handler: Handler) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def endpoint(request: HttpRequest) -> Response:
            try:
                return await handler(service, request)
            except Refused as refused:
                return error_response(refused)
            except InputError as error:
                return error_response(Refused(400, str(error)))
            except Busy as busy:
                return error_response(Refused(429, str(busy), {"Retry-After": str(RETRY_SECONDS)}))
            except (Gone, ClientDisconnect):
                return Response(status_code=499)  # as web servers write it into their logs
            except Exception as error:  # a fault of ours or of the model: told here, and the server goes on
                traceback.print_exc()
                return error_response(Refused(500, f"the server failed: {type(error).__name__}: {error}"))

        return endpoint

    routes = [
        Route("/", handle(_index)),
        Route("/static/{name}", handle(_static)),
        Route("/report", handle(_report)),
        Route("/openapi.json", handle(_schema)),
        Route("/api/run", handle(page_api.run)),
        Route("/api/reply", handle(page_api.reply), methods=["POST"]),
        Route("/api/insight", handle(page_api.insight), methods=["POST"]),
        Route("/api/votes", handle(page_api.vote), methods=["POST"]),
        Route("/v1/models", handle(openai_api.models)),
        Route("/v1/models/{model}", handle(openai_api.model)),
        Route("/v1/chat/completions", handle(openai_api.chat_completions), methods=["POST"]),
        Route("/v1/completions", handle(openai_api.completions), methods=["POST"]),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette):  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield
        service.close()

    handlers = {HTTPException: _http_error}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)  # type: ignore[arg-type]
    return Guard(app, access)


class Guard:
    """Checks who asks before anything else, and puts the safe headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Take the application inside."""
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", POLICY)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = HttpRequest(scope)
        refused = self.access.refusal(request.headers, scope["path"], request.query_params.get("token", ""))
        app = error_response(refused) if refused is not None else self.app
        return await app(scope, receive, send_safely)


async def _index(service: Service, request: HttpRequest) -> Response:
    return FileResponse(PAGE / "index.html")


async def _static(service: Service, request: HttpRequest) -> Response:
    known = {path.name: path for path in PAGE.iterdir() if path.is_file()}
    name = request.path_params["name"]
    if name not in known:  # names from a list, never a path
        raise Refused(404, "there is no such file")
    return FileResponse(known[name])


async def _report(service: Service, request: HttpRequest) -> Response:
    if service.report is None:
        raise Refused(404, "this run has no report; `fledge report` builds one")
    return FileResponse(service.report, headers={"Content-Security-Policy": REPORT_POLICY})


async def _schema(service: Service, request: HttpRequest) -> Response:
    return JSONResponse(openapi(service.voices.names))


async def _http_error(request: HttpRequest, error: HTTPException) -> Response:
    return error_response(Refused(error.status_code, error.detail, error.headers))


# --- starting ----------------------------------------------------------------------------------------------


def serve(
    run: str | Path,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    token: str | None = None,
    stages: Sequence[str] | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a run until it is stopped.

    Args:
        run: a run's folder, a stage's, or that of a Hugging Face model.
        host: the address to listen at; on any but a loopback address a token is asked for.
        port: 0 takes a free one.
        token: what requests must carry; where the address needs one and none is given, one is drawn.
        stages: what to serve; all that can talk where None.
        announce: is given the line that says where.

    Raises:
        InputError: no such run or stage, or the address cannot be had; before any model is loaded.
    """
    sock = listen(host, port)
    try:
        loopback = _is_loopback(host)
        if not loopback and token is None:
            token = secrets.token_urlsafe(16)
        service = open_service(run, stages=stages)
        app = make_app(service, Access(loopback, token, host))
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            http=BoundedHttp,
        )
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sock.getsockname()[1]}/"
        announce(
            f"{service.voices.run}: {', '.join(service.voices.names)} at "
            f"{address}{f'#token={token}' if token else ''} (Ctrl-C stops)"
        )
        uvicorn.Server(config).run(sockets=[sock])
    finally:
        sock.close()


def listen(host: str, port: int) -> socket.socket:
    """Bind an address; InputError where it cannot be had."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen at {host}, port {port} ({reason}); give another by --port, or 0 for a free one"
        ) from error
    return sock


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
