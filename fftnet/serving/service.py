"""Endpoints of the server: a body is read and validated, the engine writes, the answer is sent."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fftnet.serving.answers import ChatAnswer, CompletionAnswer, error_body, event
from fftnet.serving.config import ServeConfig
from fftnet.serving.engine import Engine
from fftnet.serving.jobs import Job, Piece, Refusal
from fftnet.serving.metrics import Metrics
from fftnet.serving.requests import AnyRequest, ChatRequest, CompletionRequest, make_jobs, parse_request
from fftnet.utils.tokenizer import Tokenizer

PARSERS = 2
"""Maximum number of bodies parsed at the same time."""
MAX_BODIES = 64
"""Memory limit of all bodies together, as a multiple of the maximum size of one."""


class _Work:
    """The jobs of one request and the pieces that the engine writes for them."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.jobs: list[Job] = []
        self.watcher: asyncio.Task[None] | None = None
        self._over = False

    def emit(self, piece: Piece | Refusal) -> None:
        """Take a piece; called in the engine's thread."""
        # The event loop may be closed already, after a second Ctrl-C.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield all pieces until every reply has ended; raise the error of a job, or ClientDisconnect."""
        # Replies of all jobs arrive mixed; each has one last piece.
        left = sum(len(job.choices) for job in self.jobs)
        while left:
            piece = await self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            left -= piece.finish is not None
            yield piece
        self._over = True

    async def events(self, answer: CompletionAnswer, asked: AnyRequest) -> AsyncIterator[bytes]:
        """Yield the server-sent events of a stream."""
        for chunk in answer.first_chunks():
            yield event(chunk)
        try:
            async for piece in self.pieces():
                yield event(answer.chunk(piece))
        except Refusal as refusal:
            # The status 200 has been sent already. OpenAI's clients also look for errors in events.
            self.close()
            yield event(error_body(refusal))
            return
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield event(answer.usage_chunk())
        yield event("[DONE]")

    async def watch(self, request: Request) -> None:
        """Cancel the jobs and end ``pieces`` when the client leaves; return after the answer in any case."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.close(hung_up=True)
        self._pieces.put_nowait(ClientDisconnect())

    def close(self, hung_up: bool = False) -> None:
        """Cancel the jobs that have not ended."""
        if not self._over:
            self._over = True
            self._engine.cancel(self.jobs)
            if hung_up:
                self._metrics.hang_ups.inc()


class Service:
    """Endpoints of the server."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, vocab_size: int, config: ServeConfig, metrics: Metrics
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._config = config
        self._created = int(time.time())
        self._parsers = asyncio.Semaphore(PARSERS)
        self._body_bytes = 0

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        return await self._answer(request, CompletionRequest, CompletionAnswer)

    async def chat(self, request: Request) -> Response:
        """Reply in a chat."""
        return await self._answer(request, ChatRequest, ChatAnswer)

    async def models(self) -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [await self.model(self._config.name)]}

    async def model(self, name: str) -> dict[str, Any]:
        """Describe the one model."""
        if name != self._config.name:
            raise Refusal(404, f"there is no model {name[:100]!r} here", code="model_not_found")
        return {"id": name, "object": "model", "created": self._created, "owned_by": "fftnet"}

    async def health(self) -> Response:
        """Return 200 if requests are accepted, else 503."""
        state = self.engine.state
        return JSONResponse({"status": state}, status_code=200 if state == "ok" else 503)

    async def prometheus(self) -> Response:
        """Return all metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(
        self, request: Request, kind: type[AnyRequest], answer_kind: type[CompletionAnswer]
    ) -> Response:
        content_type = request.headers.get("content-type", "")
        # Browsers send other types without asking the server first (CORS).
        if content_type.partition(";")[0].strip().lower() != "application/json":
            given = repr(content_type[:100]) if content_type else "nothing"
            message = f"the body needs the header Content-Type: application/json, got {given}"
            raise Refusal(415, message, code="unsupported_media_type")
        work = _Work(self.engine, self.metrics)
        try:
            asked = await self._read(request, kind, work)
            answer = answer_kind(self._config.name, self._tokenizer, work.jobs)
            self.engine.submit(work.jobs)
            # asyncio keeps a weak reference only.
            work.watcher = asyncio.create_task(work.watch(request))
            if asked.stream:
                headers = {"Cache-Control": "no-cache"}
                events = work.events(answer, asked)
                return StreamingResponse(events, media_type="text/event-stream", headers=headers)
            pieces = [piece async for piece in work.pieces()]
            return await asyncio.to_thread(lambda: JSONResponse(answer.body(pieces)))
        except ClientDisconnect:
            work.close(hung_up=True)
            return Response(status_code=499)
        except BaseException:
            work.close()
            raise

    async def _read(self, request: Request, kind: type[AnyRequest], work: _Work) -> AnyRequest:
        """Read and validate a body, and make its jobs."""
        body = bytearray()
        limit = self._config.max_body_bytes
        try:
            async for chunk in request.stream():
                body += chunk
                self._body_bytes += len(chunk)
                if len(body) > limit:
                    raise Refusal(413, f"the body has more than {limit} bytes: send a shorter request")
                # Many bodies that are read at the same time must not fill the memory.
                if self._body_bytes > MAX_BODIES * limit:
                    message = "too many large requests arrive at once: send the request again in a second"
                    raise Refusal(503, message, retry_after=1)
            # Parsing a large body takes a while: in a thread it does not hold up other requests.
            async with self._parsers:
                return await asyncio.to_thread(self._parse, kind, bytes(body), work)
        finally:
            self._body_bytes -= len(body)

    def _parse(self, kind: type[AnyRequest], body: bytes, work: _Work) -> AnyRequest:
        asked = parse_request(kind, body, self._config)
        work.jobs = make_jobs(asked, self._config, self._tokenizer, self._vocab_size, work.emit)
        return asked
