"""Access control: allowed hosts and origins, the API key, connections and their deadlines."""

import asyncio
import hmac
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fftnet.serving.answers import error_response
from fftnet.serving.config import ServeConfig
from fftnet.serving.jobs import Refusal
from fftnet.serving.metrics import Metrics

PATHS = {
    "/": "this text, also at /docs",
    "/v1/completions": "POST: continue a prompt",
    "/v1/chat/completions": "POST: the next message of a chat",
    "/v1/models": "GET: the model",
    "/health": "GET: 200, or 503 while the server stops",
    "/metrics": "GET: metrics for Prometheus",
}
"""Paths in the overview and in the metrics."""


class Gate:
    """Middleware that refuses foreign hosts and origins and wrong API keys, and counts answers.

    A web page can send requests to a server on its reader's machine. Its Origin gives it away or, after DNS
    rebinding (a foreign name that points to this machine), its Host.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        # Host names are case-insensitive, and `_hostname` returns lower case.
        loopback = ("localhost", "127.0.0.1", "::1")
        self._hosts = {host.lower() for host in (*loopback, config.host, *config.allowed_hosts)}
        self._everywhere = config.host in ("0.0.0.0", "::")
        self._key = None if config.api_key is None else f"Bearer {config.api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused, and pass on all others."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Unknown paths share a label: each label costs memory.
                label = path if path in PATHS else "other"
                self._metrics.requests.labels(label, str(message["status"])).inc()
            await send(message)

        try:
            self._check(path, Headers(scope=scope))
        except Refusal as refusal:
            await error_response(refusal)(scope, receive, counted)
            return
        await self._app(scope, receive, counted)

    def _check(self, path: str, headers: Headers) -> None:
        host = _hostname("//" + headers.get("host", ""))
        # DNS rebinding needs a name; clients of a server on all interfaces use any of its addresses.
        if not self._allows(host) and not (self._everywhere and _is_address(host)):
            raise _foreign("Host", host)
        origin = headers.get("origin")
        if origin is not None and not self._allows(_hostname(origin)):
            raise _foreign("Origin", origin)
        if self._key is None or path in ("/", "/docs", "/health"):
            return
        # compare_digest takes constant time: its duration does not tell how much of a key is right.
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._key):
            message = "the API key is missing or wrong: send the header Authorization: Bearer KEY"
            raise Refusal(401, message, code="invalid_api_key")

    def _allows(self, host: str) -> bool:
        return host in self._hosts or "*" in self._hosts


class Connection(H11Protocol):
    """HTTP connection with a deadline for its client to send a request and to read the reply."""

    # uvicorn itself has a timeout between two requests only.

    def __init__(self, *args: Any, limits: ServeConfig, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Start the deadline; refuse a connection above the limit."""
        super().connection_made(transport)
        # Writing counts as paused until the client has read everything.
        transport.set_write_buffer_limits(high=0)
        self._watch()
        if len(self.connections) > self._limits.max_connections:
            message = f"{self._limits.max_connections} connections are open: try again in a few seconds"
            self._close(Refusal(503, message, retry_after=5))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        super().connection_lost(exc)
        self._stop()

    def data_received(self, data: bytes) -> None:
        """Stop the deadline when the request is complete."""
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        """Start the deadline."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Stop the deadline."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        self._close(Refusal(400, "this is not a valid HTTP request"))

    def _watch(self) -> None:
        """Run the deadline while the client has to act."""
        # In IDLE and SEND_BODY the request is not complete; a paused writer waits for the client to read.
        if not self.flow.write_paused and self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop()
        elif self._deadline is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(self._limits.request_seconds, self._overdue)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        self._deadline = None
        if self.flow.write_paused and self.transport.get_write_buffer_size() < self._unsent:
            # A large reply over a slow network: the client reads.
            self._watch()
        elif self.flow.write_paused:
            # close() would wait for the client to read.
            self.transport.abort()
        else:
            message = f"the request was not complete after {self._limits.request_seconds:g} seconds"
            self._close(Refusal(408, message, code="timeout"))

    def _close(self, refusal: Refusal) -> None:
        """Close the connection; send the error first if no answer has been started."""
        if self.cycle is not None:
            # The application must not answer, and must not wait for the rest of the body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = error_response(refusal)
            headers = [*answer.raw_headers, (b"connection", b"close")]
            head = h11.Response(status_code=refusal.status, headers=headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _hostname(url: str) -> str:
    """Return the host of a URL in lower case, without its port; an empty text if it has no host."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _foreign(header: str, value: str) -> Refusal:
    message = f"the {header} {value[:100]!r} is not allowed: "
    message += "if it is yours, start the server with --allowed_hosts"
    return Refusal(403, message, code="host_not_allowed")
