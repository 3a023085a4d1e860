"""The engine: one thread that owns the model, reads prompts in pieces and steps all replies together."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fftnet.generation import sample
from fftnet.model import State, concat_states, select_state
from fftnet.model.fftnet_model import FFTNet
from fftnet.serving.config import ServeConfig
from fftnet.serving.jobs import Job, Refusal, Reply
from fftnet.serving.metrics import Metrics
from fftnet.serving.prefix_cache import Prefix, PrefixCache
from fftnet.utils.tokenizer import Tokenizer

PIECE = 512
"""Tokens of prompts that are read between two decode steps, about."""
SHORTEST = 64
"""A last piece of fewer tokens is read with the one before it. Pieces whose lengths are multiples of this
give the same numbers as one pass, to the last bit, on the CPUs that we have seen."""

logger = logging.getLogger(__name__)


class _Reading(NamedTuple):
    """A prompt of which a part was read."""

    job: Job
    position: int
    state: State | None


class _Batch(NamedTuple):
    """Replies that are stepped together; row i of the state has read all but the last token of reply i."""

    replies: list[Reply]
    state: State


class Engine:
    """Writes the replies of many jobs at once.

    Between two decode steps rows join and leave, and one piece of the prompts is read, so that nobody waits
    for a long prompt of another. A reply depends on its prompt, its seed and its sampling alone, but for
    round-off (docs/serving.md).

    Args:
        model: causal, in evaluation mode; used by the engine's thread only from ``start`` on.
        tokenizer: of the model.
        config: limits.
        metrics: counted into.
    """

    def __init__(self, model: FFTNet, tokenizer: Tokenizer, config: ServeConfig, metrics: Metrics) -> None:
        self.cache = PrefixCache(config.cache_bytes)
        self._model = model
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._config = config
        self._metrics = metrics
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # The fields up to the next comment belong to all threads, under the lock of the condition.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._admitted: set[Job] = set()
        self._stop_at: float | None = None
        # The rest belongs to the engine's thread.
        self._readings: deque[_Reading] = deque()
        self._joining: list[_Batch] = []
        self._batch: _Batch | None = None

    def start(self) -> None:
        """Begin to work, after a first step that makes the kernels ready."""
        tokens_1T = torch.zeros(1, 2, dtype=torch.int64, device=self._device)
        with torch.inference_mode():
            _, state = self._model.prefill(tokens_1T)
            self._model.step(tokens_1T[:, 0], state)
        self._thread.start()

    @property
    def state(self) -> str:
        """``ok``; ``stopping`` after ``drain``; ``dead`` where the thread has ended."""
        if not self._thread.is_alive():
            return "dead"
        return "ok" if self._stop_at is None else "stopping"

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all jobs of a request, or none.

        Raises:
            Refusal: 503 where the engine stops, 429 where too many wait.
        """
        with self._changed:
            if self.state != "ok":
                raise Refusal(503, "the server is stopping: send the request again later", retry_after=5)
            in_work = [*self._admitted, *self._waiting]
            rows = sum(len(job.choices) for job in [*in_work, *jobs])
            if rows > self._config.max_rows and len(self._waiting) + len(jobs) > self._config.max_queue:
                raise Refusal(
                    429,
                    f"{len(in_work)} prompts are being served or wait: send the request again in a second",
                    code="rate_limit_exceeded",
                    retry_after=1,
                )
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Drop what was not finished of these jobs: their client has left. Wakes the engine."""
        with self._changed:
            for job in jobs:
                job.over = True
            self._changed.notify()

    def drain(self) -> None:
        """Take no more jobs, and end when those in work have ended, at the latest after the grace time."""
        # No lock: this is called by a handler of a signal, which may have come while the lock was held.
        self._stop_at = time.monotonic() + self._config.grace_seconds
        threading.Thread(target=self.cancel, args=((),), daemon=True).start()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while (new := self._admit()) is not None:
            try:
                for job in new:
                    self._begin(job)
                self._end_overdue()
                self._drop_over()
                self._read()
                self._step()
            # One job's misfortune shall not be that of the next one: this thread must not end.
            except Exception as error:
                logger.exception("the engine failed")
                self._fail(Refusal(500, f"the model failed ({type(error).__name__}): see the server's log"))
            self._gauge()

    def _admit(self) -> list[Job] | None:
        """Jobs for which there is room, waiting for one where there is nothing to do; None to end."""
        new: list[Job] = []
        with self._changed:
            while not self._admitted and not self._waiting:
                if self._stop_at is not None:
                    return None
                self._changed.wait()
            rows = sum(len(job.choices) for job in self._admitted)
            while self._waiting:
                rows += len(self._waiting[0].choices)
                if rows > self._config.max_rows:
                    break
                new.append(self._waiting.popleft())
                self._admitted.add(new[-1])
        return new

    def _begin(self, job: Job) -> None:
        if job.over:
            return
        known = self.cache.longest(job.prompt)
        (self._metrics.cache_misses if known is None else self._metrics.cache_hits).inc()
        job.cached = 0 if known is None else known.length
        self._metrics.prompt_tokens.inc(len(job.prompt))
        self._metrics.cached_tokens.inc(job.cached)
        if known is not None and known.logits is not None and known.length == len(job.prompt):
            self._spawn(job, known.logits, known.state)
        else:
            self._readings.append(_Reading(job, job.cached, None if known is None else known.state))

    def _end_overdue(self) -> None:
        now = time.monotonic()
        stopping = self._stop_at is not None and now > self._stop_at
        with self._changed:
            jobs = [*self._admitted, *self._waiting]
        for job in jobs:
            if stopping:
                job.over = True
                job.emit(Refusal(503, "the server is stopping: send the request again later", retry_after=5))
            elif now > job.deadline:
                job.over = True
                job.emit(
                    Refusal(
                        408,
                        f"the request took longer than {self._config.max_seconds:g} seconds: ask for fewer "
                        "tokens",
                        code="timeout",
                    )
                )

    def _drop_over(self) -> None:
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.over)
            self._admitted = {job for job in self._admitted if job.unfinished and not job.over}
        self._readings = deque(reading for reading in self._readings if not reading.job.over)

    def _fail(self, refusal: Refusal) -> None:
        with self._changed:
            failed = self._admitted
            self._admitted = set()
        for job in failed:
            job.over = True
            job.emit(refusal)
        self._readings.clear()
        self._joining.clear()
        self._batch = None

    def _read(self) -> None:
        """Read pieces of the prompts in turn, about ``PIECE`` tokens in all."""
        left = PIECE
        while self._readings and left > 0:
            job, position, state = self._readings.popleft()
            end = _piece_end(position, len(job.prompt))
            tokens_1T = torch.tensor([job.prompt[position:end]], device=self._device)
            logits_11V, state = self._model.prefill(tokens_1T, state, logits_to_keep=1)
            self._metrics.read_tokens.inc(end - position)
            left -= end - position
            # What is kept shall not hold on to the larger memory that it may be a view of.
            state = select_state(state, [0])
            logits_1V = logits_11V[:, -1].clone()
            self.cache.put(job.prompt[:end], Prefix(end, state, logits_1V))
            if end < len(job.prompt):
                self._readings.append(_Reading(job, end, state))
            else:
                self._spawn(job, logits_1V, state)

    def _spawn(self, job: Job, logits_1V: Tensor, state: State) -> None:
        """Draw the first token of each reply; those that go on join the batch."""
        count = len(job.choices)
        replies = [Reply(job, choice, self._tokenizer, self._device) for choice in job.choices]
        self._metrics.first_seconds.observe(time.monotonic() - job.submitted)
        self._take(replies, logits_1V.expand(count, -1))
        going_on = [reply for reply in replies if not reply.ended and not job.over]
        if going_on:
            self._joining.append(_Batch(going_on, select_state(state, [0] * len(going_on))))

    def _step(self) -> None:
        """Step all replies once."""
        batch = self._gather()
        self._batch = batch
        if batch is None:
            return
        tokens_B = torch.tensor([reply.tokens[-1] for reply in batch.replies], device=self._device)
        logits_BV, state = self._model.step(tokens_B, batch.state)
        self._batch = _Batch(batch.replies, state)
        self._metrics.step_rows.observe(len(batch.replies))
        read = [len(reply.job.prompt) + len(reply.tokens) for reply in batch.replies]
        self._take(batch.replies, logits_BV)
        for row, reply in enumerate(batch.replies):
            if reply.ended:
                tokens = [*reply.job.prompt, *reply.tokens][: read[row]]
                self.cache.put(tokens, Prefix(read[row], select_state(state, [row])))

    def _gather(self) -> _Batch | None:
        """The batch without the rows that have ended, with those that join."""
        parts = self._joining
        self._joining = []
        if self._batch is not None:
            replies = self._batch.replies
            staying = [row for row, reply in enumerate(replies) if not reply.ended and not reply.job.over]
            if len(staying) == len(replies) and not parts:
                return self._batch
            if staying:
                kept = _Batch([replies[row] for row in staying], select_state(self._batch.state, staying))
                parts = [kept, *parts]
        parts = [part for part in parts if not part.replies[0].job.over]
        if not parts:
            return None
        return _Batch(
            [reply for part in parts for reply in part.replies], concat_states([part.state for part in parts])
        )

    def _take(self, replies: Sequence[Reply], logits_BV: Tensor) -> None:
        """Draw a token for each reply, and hand on what is written of it."""
        tokens = self._draw(replies, logits_BV)
        for row, reply in enumerate(replies):
            token = tokens[row]
            if reply.job.over:
                continue
            if token is None:
                reply.job.over = True
                reply.job.emit(
                    Refusal(500, "the logits are not finite: the model's weights are damaged, serve another")
                )
                continue
            written = reply.job.written
            piece = reply.take(token, logits_BV[row])
            self._metrics.written_tokens.inc(reply.job.written - written)
            if piece is not None:
                reply.job.emit(piece)
            if not reply.job.unfinished:
                self._metrics.request_seconds.observe(time.monotonic() - reply.job.submitted)

    def _draw(self, replies: Sequence[Reply], logits_BV: Tensor) -> list[int | None]:
        """A token for each row, None where its logits are not finite."""
        finite = torch.isfinite(logits_BV.amax(dim=-1)).tolist()
        groups: dict[tuple[float, int | None, float], list[int]] = {}
        for row, reply in enumerate(replies):
            if finite[row]:
                sampling = reply.job.sampling
                groups.setdefault((sampling.temperature, sampling.top_k, sampling.top_p), []).append(row)
        tokens: list[int | None] = [None] * len(replies)
        for rows in groups.values():
            generators = [replies[row].generator for row in rows]
            drawn = sample(logits_BV[rows], replies[rows[0]].job.sampling, generators)
            for row, token in zip(rows, drawn.tolist(), strict=True):
                tokens[row] = token
        return tokens

    def _gauge(self) -> None:
        self._metrics.cache_bytes.set(self.cache.num_bytes)
        self._metrics.cache_states.set(len(self.cache))
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.reading.set(len(self._readings))
        batch = self._batch.replies if self._batch is not None else []
        self._metrics.writing.set(sum(not reply.ended for reply in batch))


def _piece_end(position: int, length: int) -> int:
    """Where the piece that begins at a position ends, in a prompt of so many tokens."""
    end = (position // PIECE + 1) * PIECE
    return length if length - end < SHORTEST else end
