"""What a request goes through: its body is read and checked, the engine writes, the answer is sent."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fftnet.serving.answers import CHAT, COMPLETION, Answer, Shape, error_body, event
from fftnet.serving.config import ServeConfig
from fftnet.serving.engine import Engine
from fftnet.serving.jobs import Job, Piece, Refusal
from fftnet.serving.metrics import Metrics
from fftnet.serving.requests import BaseRequest, ChatRequest, CompletionRequest, check_prompts, parse_request
from fftnet.utils.tokenizer import Tokenizer, TokenizerError

PARSERS = 2
"""Number of bodies that are parsed at once; further ones wait."""
MAX_BODIES = 64
"""Number of bodies of the maximum size that memory is reserved for."""


class _Work:
    """A request in work: its jobs, and what the engine says of them."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._pieces: asyncio.Queue[Piece | Refusal] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.jobs: list[Job] = []
        self._over = False

    def emit(self, piece: Piece | Refusal) -> None:
        """Take a piece; called by the engine's thread."""
        # The loop may have been closed by the second Ctrl-C.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Everything that is written, until all replies have ended.

        Raises:
            Refusal: if the engine ends a job before its end.
        """
        left = sum(len(job.choices) for job in self.jobs)
        while left:
            piece = await self._pieces.get()
            if isinstance(piece, Refusal):
                raise piece
            left -= piece.finish is not None
            yield piece
        self._over = True

    def close(self, hung_up: bool = False) -> None:
        """Drop what is not finished."""
        if not self._over:
            self._over = True
            self._engine.cancel(self.jobs)
            if hung_up:
                self._metrics.hang_ups.inc()


class _EventStream(StreamingResponse):
    """A stream of events whose work is dropped with it, however it ends."""

    def __init__(self, work: _Work, answer: Answer, with_usage: bool) -> None:
        super().__init__(
            self._events(work, answer, with_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.close(hung_up=True)

    @staticmethod
    async def _events(work: _Work, answer: Answer, with_usage: bool) -> AsyncIterator[bytes]:
        for chunk in answer.first_chunks():
            yield event(chunk)
        try:
            async for piece in work.pieces():
                yield event(answer.chunk(piece))
        except Refusal as refusal:
            # The status has been sent. OpenAI's clients look for an error in the events, too.
            work.close()
            yield event(error_body(refusal))
            return
        if with_usage:
            yield event(answer.usage_chunk())
        yield event("[DONE]")


class Service:
    """What the paths do.

    Args:
        engine: that writes.
        tokenizer: of its model.
        vocab_size: ids that the model knows.
        config: limits.
        metrics: counted into.
    """

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
        return await self._answer(request, CompletionRequest, COMPLETION)

    async def chat(self, request: Request) -> Response:
        """Reply in a chat."""
        return await self._answer(request, ChatRequest, CHAT)

    async def models(self) -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [self._model()]}

    async def model(self, name: str) -> dict[str, Any]:
        """The one model, by its name."""
        if name != self._config.name:
            raise Refusal(404, f"there is no model {name[:100]!r} here", code="model_not_found")
        return self._model()

    async def health(self) -> Response:
        """Whether requests are taken."""
        state = self.engine.state
        return JSONResponse({"status": state}, status_code=200 if state == "ok" else 503)

    async def prometheus(self) -> Response:
        """Everything that is counted."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _model(self) -> dict[str, Any]:
        return {"id": self._config.name, "object": "model", "created": self._created, "owned_by": "fftnet"}

    async def _answer(self, request: Request, kind: type[BaseRequest], shape: Shape) -> Response:
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            given = repr(content_type[:100]) if content_type else "nothing"
            sentence = f"the body needs the header Content-Type: application/json, got {given}"
            raise Refusal(415, sentence, code="unsupported_media_type")
        work = _Work(self.engine, self.metrics)
        try:
            wanted = await self._read(request, kind, work)
        except ClientDisconnect:
            return self._left(work)
        answer = Answer(
            shape, self._config.name, self._tokenizer, work.jobs, wanted.scores_wanted is not None
        )
        self.engine.submit(work.jobs)
        if wanted.stream:
            options = wanted.stream_options
            return _EventStream(work, answer, bool(options and options.include_usage))
        try:
            return await _unless_left(request, self._whole(work, answer))
        except ClientDisconnect:
            return self._left(work)
        finally:
            work.close()

    @staticmethod
    def _left(work: _Work) -> Response:
        """Answer a client that has left, which nobody reads."""
        work.close(hung_up=True)
        return Response(status_code=499)

    @staticmethod
    async def _whole(work: _Work, answer: Answer) -> Response:
        async for piece in work.pieces():
            answer.add(piece)
        return await asyncio.to_thread(lambda: JSONResponse(answer.body()))

    async def _read(self, request: Request, kind: type[BaseRequest], work: _Work) -> BaseRequest:
        """Read a body and make its jobs."""
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._body_bytes += len(chunk)
                self._check_size(len(body))
            # A large body takes a while, in which others are served.
            async with self._parsers:
                wanted = await asyncio.to_thread(parse_request, kind, bytes(body), self._config)
                work.jobs = await asyncio.to_thread(self._jobs, wanted, work)
        finally:
            self._body_bytes -= len(body)
        return wanted

    def _check_size(self, size: int) -> None:
        most = self._config.max_body_bytes
        if size > most:
            raise Refusal(413, f"the body has more than {most} bytes: send a shorter request")
        if self._body_bytes > MAX_BODIES * most:
            sentence = "too many large requests arrive at once: send the request again in a second"
            raise Refusal(503, sentence, retry_after=1)

    def _jobs(self, wanted: BaseRequest, work: _Work) -> list[Job]:
        sampling = wanted.sampling(self._config)
        copies = wanted.n or 1
        try:
            prompts = wanted.prompts(self._config, self._tokenizer)
        except TokenizerError as error:
            raise Refusal(400, str(error), param="prompt") from error
        check_prompts(prompts, self._config, self._vocab_size)
        return [
            Job(
                prompt=prompt,
                sampling=sampling,
                emit=work.emit,
                choices=range(number * copies, (number + 1) * copies),
                stops=wanted.stops(self._config),
                top_logprobs=wanted.scores_wanted,
                deadline=time.monotonic() + self._config.max_seconds,
            )
            for number, prompt in enumerate(prompts)
        ]


async def _unless_left(request: Request, answer: Any) -> Response:
    """The answer, or ClientDisconnect as soon as the client has left."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(answer), asyncio.create_task(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
