"""The HTTP server: its socket, its routes, and its shutdown."""

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
from starlette.types import ASGIApp

from fftnet.errors import UserError
from fftnet.model.fftnet_model import FFTNet
from fftnet.serving.access import PATHS, Connection, Gate
from fftnet.serving.answers import error_response
from fftnet.serving.config import ServeConfig
from fftnet.serving.engine import Engine
from fftnet.serving.jobs import Refusal
from fftnet.serving.metrics import Metrics
from fftnet.serving.service import Service
from fftnet.utils.tokenizer import Tokenizer

# Time for sending the last replies before the remaining connections are closed, seconds.
LINGER = 1.0


class ServeError(UserError):
    """A server can't be started; the message says why and what to do."""


class _Server(uvicorn.Server):
    """Server that lets running requests end after the first signal, and stops at once after the second."""

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

        def abort() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()

        asyncio.get_running_loop().call_later(LINGER, abort)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The base class would send itself the signal again at the end: the exit status would be a failure.
        self.force_exit = self.should_exit
        self.should_exit = True
        self._engine.drain()


def bind(config: ServeConfig) -> socket.socket:
    """Return a socket that is bound to the address, or raise a ServeError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # A restarted server must not wait until the connections of the old one have timed out.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"can't listen on port {config.port} of {config.host} ({reason}): "
        raise ServeError(message + "choose another --port or --host") from error
    return listener


def make_app(service: Service, config: ServeConfig) -> ASGIApp:
    """Return the application; its errors have OpenAI's format."""
    about = [
        f"fftnet serve: the model {config.name!r} over HTTP, for clients of OpenAI's API\n",
        *(f"  {path:22}{purpose}" for path, purpose in PATHS.items()),
        '\nA completion: {"prompt": "Once", "max_tokens": 100}, as application/json',
        "Fields and limits: docs/serving.md\n",
    ]

    async def overview() -> Response:
        return PlainTextResponse("\n".join(about))

    # FastAPI's own pages of documentation would load scripts from other hosts.
    app = FastAPI(title="fftnet", openapi_url=None, docs_url=None, redoc_url=None)
    routes: dict[str, Callable] = {
        "/": overview,
        "/docs": overview,
        "/v1/completions": service.completions,
        "/v1/chat/completions": service.chat,
        "/v1/models": service.models,
        "/v1/models/{name:path}": service.model,
        "/health": service.health,
        "/metrics": service.prometheus,
    }
    for path, endpoint in routes.items():
        method = "POST" if path.endswith("completions") else "GET"
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    for kind in (Refusal, HTTPException, Exception):
        app.add_exception_handler(kind, _refused)
    return Gate(app, config, service.metrics)


def serve(
    model: FFTNet,
    tokenizer: Tokenizer,
    config: ServeConfig,
    listener: socket.socket,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; running requests then have the grace time to end.

    The listener is a socket from ``bind``, which is closed; ``ready`` is called once requests are accepted.
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
        # Longer than LINGER, whose abort leaves uvicorn nothing to wait for.
        timeout_graceful_shutdown=2 + int(LINGER),
    )
    try:
        _Server(settings, engine, ready).run([listener])
    finally:
        engine.drain()
        engine.thread.join()


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        messages = {404: "there is no such path here", 405: "this path takes another method"}
        message = messages.get(error.status_code, str(error.detail))
        error = Refusal(error.status_code, f"{message}: {request.method} {request.url.path[:100]}")
    elif not isinstance(error, Refusal):
        error = Refusal(500, f"the server failed ({type(error).__name__}): see its log")
    return error_response(error)
