"""Continuous batching: prompts are read in pieces, and all replies are decoded together."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fftnet.api.generate import sample
from fftnet.model import State, concat_states, select_state
from fftnet.model.fftnet_model import FFTNet
from fftnet.serving.jobs import Job, Refusal, Reply
from fftnet.serving.metrics import Metrics
from fftnet.serving.prefix_cache import Prefix, PrefixCache
from fftnet.utils.tokenizer import Tokenizer

PIECE = 512
"""Approximate number of prompt tokens read between two decode steps."""

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class _Reading(NamedTuple):
    """A prompt that is read up to a position."""

    job: Job
    position: int
    state: State | None


class _Batch(NamedTuple):
    """Replies that are decoded together; row i of the state has read all but the last token of reply i."""

    replies: list[Reply]
    state: State


class Batcher:
    """The model, the prompts that it reads and the replies that it writes; for one thread only.

    An error in a single row ends the job of this row only.
    """

    def __init__(self, model: FFTNet, tokenizer: Tokenizer, cache_bytes: int, metrics: Metrics) -> None:
        self.cache = PrefixCache(cache_bytes)
        self._model = model
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._metrics = metrics
        self._readings: deque[_Reading] = deque()
        self._joining: list[_Batch] = []
        self._batch: _Batch | None = None

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run a first step, which compiles the kernels."""
        tokens_1T = torch.zeros(1, 2, dtype=torch.int64, device=self._device)
        _, state = self._model.prefill(tokens_1T)
        self._model.step(tokens_1T[:, 0], state)

    def begin(self, job: Job) -> None:
        """Start a job from the longest cached prefix of its prompt."""
        if job.over:
            return
        known = self.cache.longest(job.prompt)
        (self._metrics.cache_misses if known is None else self._metrics.cache_hits).inc()
        job.cached = 0 if known is None else known.length
        self._metrics.prompt_tokens.inc(len(job.prompt))
        self._metrics.cached_tokens.inc(job.cached)
        # The whole prompt is cached with the logits of its next token: nothing is left to read.
        if known is not None and known.logits is not None and known.length == len(job.prompt):
            self._spawn(job, known.logits, known.state)
        else:
            self._readings.append(_Reading(job, job.cached, None if known is None else known.state))

    def read(self) -> None:
        """Read pieces of the prompts in turn, about ``PIECE`` tokens in total."""
        self._readings = deque(reading for reading in self._readings if not reading.job.over)
        left = PIECE
        while self._readings and left > 0:
            reading = self._readings.popleft()
            end = _piece_end(reading.position, len(reading.job.prompt))
            left -= end - reading.position
            with reading.job.guard():
                self._read_piece(reading, end)

    def step(self) -> None:
        """Decode one token of every reply."""
        batch = self._gather()
        self._batch = None
        if batch is None:
            return
        everyone = range(len(batch.replies))
        parts: list[_Batch] = []
        logits: list[Tensor] = []
        for rows, (logits_BV, state) in _together(batch.replies, everyone, partial(self._advance, batch)):
            parts.append(_Batch([batch.replies[row] for row in rows], state))
            logits.append(logits_BV)
        if not parts:
            return
        self._batch = replies, state = _join(parts)
        self._metrics.step_rows.observe(len(replies))
        # The state has read the tokens up to here, and not those that are drawn now.
        read = [len(reply.job.prompt) + len(reply.tokens) for reply in replies]
        self._take(replies, torch.cat(logits) if len(logits) > 1 else logits[0])
        for row, reply in enumerate(replies):
            if reply.ended:
                with reply.job.guard():
                    tokens = [*reply.job.prompt, *reply.tokens][: read[row]]
                    self.cache.put(tokens, Prefix(read[row], select_state(state, [row])))

    def clear(self) -> None:
        """Drop all prompts and replies."""
        self._readings.clear()
        self._joining.clear()
        self._batch = None

    def gauge(self) -> None:
        """Update the gauges of the metrics."""
        self._metrics.cache_bytes.set(self.cache.num_bytes)
        self._metrics.cache_states.set(len(self.cache))
        self._metrics.reading.set(len(self._readings))
        batch = self._batch.replies if self._batch is not None else []
        self._metrics.writing.set(sum(not reply.ended for reply in batch))

    def _read_piece(self, reading: _Reading, end: int) -> None:
        job, position, state = reading
        tokens_1T = torch.tensor([job.prompt[position:end]], device=self._device)
        logits_11V, state = self._model.prefill(tokens_1T, state, logits_to_keep=1)
        self._metrics.read_tokens.inc(end - position)
        # Copies: a cached state must not keep alive the larger memory that it may be a view of.
        state = select_state(state, [0])
        logits_1V = logits_11V[:, -1].clone()
        self.cache.put(job.prompt[:end], Prefix(end, state, logits_1V))
        # An unfinished prompt goes to the end of the queue: prompts take turns.
        if end < len(job.prompt):
            self._readings.append(_Reading(job, end, state))
        else:
            self._spawn(job, logits_1V, state)

    def _spawn(self, job: Job, logits_1V: Tensor, state: State) -> None:
        """Draw the first token of each reply; unfinished replies join the batch."""
        replies = [Reply(job, choice, self._tokenizer, self._device) for choice in job.choices]
        self._metrics.first_seconds.observe(time.monotonic() - job.submitted)
        self._take(replies, logits_1V.expand(len(replies), -1))
        unfinished = [reply for reply in replies if not reply.ended and not job.over]
        if unfinished:
            self._joining.append(_Batch(unfinished, select_state(state, [0] * len(unfinished))))

    def _gather(self) -> _Batch | None:
        """Return the batch with new rows and without ended ones."""
        parts, self._joining = self._joining, []
        if self._batch is not None:
            replies = self._batch.replies
            staying = [row for row, reply in enumerate(replies) if not reply.ended and not reply.job.over]
            # Usually no row changes, and the state is used without a copy.
            if len(staying) == len(replies) and not parts:
                return self._batch
            if staying:
                kept = _Batch([replies[row] for row in staying], select_state(self._batch.state, staying))
                parts = [kept, *parts]
        parts = [part for part in parts if not part.replies[0].job.over]
        return _join(parts) if parts else None

    def _advance(self, batch: _Batch, rows: Sequence[int]) -> tuple[Tensor, State]:
        """Decode some rows of the batch; return their logits (B, V) and state."""
        state = batch.state if len(rows) == len(batch.replies) else select_state(batch.state, rows)
        tokens = [batch.replies[row].tokens[-1] for row in rows]
        return self._model.step(torch.tensor(tokens, device=self._device), state)

    def _take(self, replies: Sequence[Reply], logits_BV: Tensor) -> None:
        """Draw a token for each reply, and send the text that is final."""
        # Rows of equal sampling are drawn together: one call for many rows is as fast as for a single row.
        groups: dict[tuple[float, int | None, float], list[int]] = defaultdict(list)
        for row, reply in enumerate(replies):
            sampling = reply.job.sampling
            groups[sampling.temperature, sampling.top_k, sampling.top_p].append(row)
        for group in groups.values():
            for rows, drawn in _together(replies, group, partial(_sample, replies, logits_BV)):
                for row, token in zip(rows, drawn.tolist(), strict=True):
                    self._add(replies[row], token, logits_BV[row])

    def _add(self, reply: Reply, token: int, logits_V: Tensor) -> None:
        job = reply.job
        if job.over:
            return
        with job.guard():
            written = job.written
            piece = reply.take(token, logits_V)
            self._metrics.written_tokens.inc(job.written - written)
            if piece is not None:
                job.emit(piece)
            if not job.unfinished:
                self._metrics.request_seconds.observe(time.monotonic() - job.submitted)


def _sample(replies: Sequence[Reply], logits_BV: Tensor, rows: Sequence[int]) -> Tensor:
    """Draw a token for each of these rows, which share temperature, top_k and top_p."""
    generators = [replies[row].generator for row in rows]
    try:
        return sample(logits_BV[list(rows)], replies[rows[0]].job.sampling, generators)
    except ValueError as error:
        # Logits that are not finite: the sentence is for the user.
        raise Refusal(500, str(error)) from error


def _together(
    replies: Sequence[Reply], rows: Sequence[int], compute: Callable[[Sequence[int]], Result]
) -> Iterator[tuple[Sequence[int], Result]]:
    """Compute all rows at once; if that fails, one by one, so that only the failing jobs end."""
    try:
        result = compute(rows)
    except Exception:
        logger.warning("%d replies failed together: they are tried one by one", len(rows), exc_info=True)
    else:
        yield rows, result
        return
    for row in rows:
        job = replies[row].job
        if not job.over:
            with job.guard():
                yield [row], compute([row])


def _join(parts: Sequence[_Batch]) -> _Batch:
    if len(parts) == 1:
        return parts[0]
    replies = [reply for part in parts for reply in part.replies]
    return _Batch(replies, concat_states([part.state for part in parts]))


def _piece_end(position: int, length: int) -> int:
    """Return the end of the piece that starts at a position in a prompt of ``length`` tokens."""
    # Ends at multiples of PIECE: prompts with a common beginning share the states of its pieces.
    end = (position // PIECE + 1) * PIECE
    # A last piece below 64 tokens is read with the piece before it. Pieces whose lengths are multiples of 64
    # give the same numbers as one pass, bit by bit, on tested CPUs.
    return length if length - end < 64 else end
