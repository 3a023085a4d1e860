"""The engine: one thread that owns the model and works through the jobs of all requests."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch

from fftnet.model.fftnet_model import FFTNet
from fftnet.serving.batch import Batcher
from fftnet.serving.config import ServeConfig
from fftnet.serving.jobs import Job, Refusal, failure
from fftnet.serving.metrics import Metrics
from fftnet.utils.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


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
        self._config = config
        self._metrics = metrics
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # The fields up to the next comment belong to all threads, under the lock of the condition.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._admitted: set[Job] = set()
        self._stop_at: float | None = None
        # The rest belongs to the engine's thread.
        self._batcher = Batcher(model, tokenizer, config.cache_bytes, metrics)

    def start(self) -> None:
        """Begin to work, after a first step that makes the kernels ready."""
        self._batcher.warm_up()
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
                raise _stopping()
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
                    with job.guard():
                        self._batcher.begin(job)
                self._end_overdue()
                self._drop_over()
                self._batcher.read()
                self._batcher.step()
            # This thread must not end. The error of a single job does not arrive here: its guard ends it.
            except Exception as error:
                logger.exception("the engine failed")
                self._fail(failure(error))
            self._metrics.waiting.set(len(self._waiting))
            self._batcher.gauge()

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

    def _end_overdue(self) -> None:
        now = time.monotonic()
        stopping = self._stop_at is not None and now > self._stop_at
        with self._changed:
            jobs = [*self._admitted, *self._waiting]
        for job in jobs:
            if stopping:
                job.refuse(_stopping())
            elif now > job.deadline:
                seconds = f"{self._config.max_seconds:g} seconds"
                sentence = f"the request took longer than {seconds}: ask for fewer tokens"
                job.refuse(Refusal(408, sentence, code="timeout"))

    def _drop_over(self) -> None:
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.over)
            self._admitted = {job for job in self._admitted if job.unfinished and not job.over}

    def _fail(self, refusal: Refusal) -> None:
        with self._changed:
            failed = self._admitted
            self._admitted = set()
        for job in failed:
            job.refuse(refusal)
        self._batcher.clear()


def _stopping() -> Refusal:
    return Refusal(503, "the server is stopping: send the request again later", retry_after=5)
