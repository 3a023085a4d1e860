"""The application: the paths of OpenAI's interface, and the server that runs it."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fftnet.errors import UserError
from fftnet.model.fftnet_model import FFTNet
from fftnet.serving.access import Connection, Gate
from fftnet.serving.answers import error_response
from fftnet.serving.config import ServeConfig
from fftnet.serving.engine import Engine
from fftnet.serving.jobs import Refusal
from fftnet.serving.metrics import Metrics
from fftnet.serving.service import Service
from fftnet.utils.tokenizer import Tokenizer

PATHS = {
    "/": "this text, also at /docs",
    "/v1/completions": "POST: continue a prompt",
    "/v1/chat/completions": "POST: the next message of a chat",
    "/v1/models": "GET: the model",
    "/health": "GET: 200, or 503 while the server stops",
    "/metrics": "GET: metrics for Prometheus",
}
LINGER = 1.0
"""Time for the last replies to be sent before the remaining connections are closed, seconds."""


class ServeError(UserError):
    """A server can't be started; the message says why and what to do."""


class _Counting:
    """Counts the answers of an application by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in PATHS else "other"
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


class _Server(uvicorn.Server):
    """Lets running requests end after the first signal, and leaves after the second."""

    def __init__(self, config: uvicorn.Config, engine: Engine, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._engine = engine
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The port stays open while requests run, so that new ones are answered with 503.
        while self._engine.state == "stopping" and not self.force_exit:
            await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_later(LINGER, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not noted down as the base class does: it would send itself the signal again in the end, and a
        # server that was asked to end has not failed.
        self.force_exit = self.should_exit
        self.should_exit = True
        self._engine.drain()


def bind(config: ServeConfig) -> socket.socket:
    """The socket to listen at, before anything takes time.

    Raises:
        ServeError: if the address can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServeError(
            f"port {config.port} of {config.host} can't be listened at ({reason}): choose another --port or "
            "--host"
        ) from error
    return listener


def make_app(service: Service, config: ServeConfig) -> ASGIApp:
    """The application, with errors in OpenAI's shape."""

    async def overview() -> Response:
        return PlainTextResponse(_overview(config))

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="fftnet", openapi_url=None, docs_url=None, redoc_url=None)
    for path in ("/", "/docs"):
        app.add_api_route(path, overview, methods=["GET"], response_model=None)
    app.add_api_route("/v1/completions", service.completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/chat/completions", service.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", service.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", service.model, methods=["GET"])
    app.add_api_route("/health", service.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", service.prometheus, methods=["GET"], response_model=None)
    for kind in (Refusal, HTTPException, Exception):
        app.add_exception_handler(kind, _refused)
    return _Counting(Gate(app, config), service.metrics)


def serve(
    model: FFTNet,
    tokenizer: Tokenizer,
    config: ServeConfig,
    listener: socket.socket,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; requests that run then have the grace time to end in.

    Args:
        model: causal, in evaluation mode.
        tokenizer: of the model.
        config: limits and chat template.
        listener: from ``bind``; it is closed.
        ready: called once requests are taken.
    """
    metrics = Metrics()
    engine = Engine(model, tokenizer, config, metrics)
    service = Service(engine, tokenizer, model.config.vocab_size, config, metrics)
    engine.start()
    settings = uvicorn.Config(
        make_app(service, config),
        http=partial(Connection, limits=config),  # pyright: ignore[reportArgumentType]
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2 + int(LINGER),
    )
    try:
        _Server(settings, engine, ready).run([listener])
    finally:
        engine.drain()
        engine.join()


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        sentences = {404: "there is no such path here", 405: "this path takes another method"}
        sentence = sentences.get(error.status_code, str(error.detail))
        refusal = Refusal(error.status_code, f"{sentence}: {request.method} {request.url.path[:100]}")
    elif isinstance(error, Refusal):
        refusal = error
    else:
        refusal = Refusal(500, f"the server failed ({type(error).__name__}): see its log")
    return error_response(refusal)


def _overview(config: ServeConfig) -> str:
    """Return the paths and an example, as plain text."""
    lines = [f"fftnet serve: the model {config.name!r} over HTTP, for clients of OpenAI's API", ""]
    lines += [f"  {path:22}{about}" for path, about in PATHS.items()]
    lines += ["", 'A completion: {"prompt": "Once", "max_tokens": 100}, as application/json']
    lines += ["Fields and limits: docs/serving.md"]
    return "\n".join(lines) + "\n"
