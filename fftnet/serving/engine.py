"""The engine: one thread that owns the model and processes the jobs of all requests."""

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
    """Continuous batching of the replies of all jobs.

    Between two decode steps, rows join and leave the batch, and one piece of the prompts is read. A reply
    depends only on its prompt, seed and sampling, up to round-off (docs/serving.md). After ``start``, only
    the engine's thread may use the model.
    """

    def __init__(self, model: FFTNet, tokenizer: Tokenizer, config: ServeConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # All threads use the queue and the set of admitted jobs, under the lock of the condition.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._admitted: set[Job] = set()
        self._stop_at: float | None = None
        # Only the engine's thread uses the batcher.
        self._batcher = Batcher(model, tokenizer, config.cache_bytes, metrics)

    def start(self) -> None:
        """Compile the kernels by a first step, and start the thread."""
        self._batcher.warm_up()
        self.thread.start()

    @property
    def state(self) -> str:
        """``ok``; ``stopping`` after ``drain``; ``dead`` once the thread has ended."""
        if not self.thread.is_alive():
            return "dead"
        return "ok" if self._stop_at is None else "stopping"

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all jobs of a request, or raise a Refusal: 503 when stopping, 429 if the queue is full."""
        with self._changed:
            if self.state != "ok":
                raise _stopping()
            # The queue is not full for a request that fits into the batch right now.
            in_work = [*self._admitted, *self._waiting]
            rows = sum(len(job.choices) for job in [*in_work, *jobs])
            if rows > self._config.max_rows and len(self._waiting) + len(jobs) > self._config.max_queue:
                message = f"{len(in_work)} prompts are being served or wait"
                message += ": send the request again in a second"
                raise Refusal(429, message, code="rate_limit_exceeded", retry_after=1)
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Drop the unfinished replies of these jobs, and wake the engine."""
        with self._changed:
            for job in jobs:
                job.over = True
            self._changed.notify()

    def drain(self) -> None:
        """Accept no more jobs, and end with the running ones or after the grace time."""
        # A signal handler calls this, maybe while its thread holds the lock: the lock needs another thread.
        self._stop_at = time.monotonic() + self._config.grace_seconds
        threading.Thread(target=self.cancel, args=((),), daemon=True).start()

    @torch.inference_mode()
    def _run(self) -> None:
        while (new := self._admit()) is not None:
            try:
                for job in new:
                    with job.guard():
                        self._batcher.begin(job)
                self._drop_ended()
                self._batcher.read()
                self._batcher.step()
            # The thread must survive. Errors of single jobs do not arrive here: their guard ends the job.
            except Exception as error:
                logger.exception("the engine failed")
                for job in self._admitted:
                    job.refuse(failure(error))
                self._batcher.clear()
            self._metrics.waiting.set(len(self._waiting))
            self._batcher.gauge()

    def _admit(self) -> list[Job] | None:
        """Move jobs that fit from the queue to the batch; wait while idle; return None at the end."""
        new: list[Job] = []
        with self._changed:
            while not self._admitted and not self._waiting:
                if self._stop_at is not None:
                    return None
                self._changed.wait()
            rows = sum(len(job.choices) for job in self._admitted)
            # In order of arrival: a request for many rows is not overtaken by smaller ones.
            while self._waiting and rows + len(self._waiting[0].choices) <= self._config.max_rows:
                new.append(self._waiting.popleft())
                self._admitted.add(new[-1])
                rows += len(new[-1].choices)
        return new

    def _drop_ended(self) -> None:
        """End jobs past their deadline, and drop all that have ended."""
        now = time.monotonic()
        stopping = self._stop_at is not None and now > self._stop_at
        with self._changed:
            jobs = [*self._admitted, *self._waiting]
        # Without the lock: `refuse` calls code of the requests.
        for job in jobs:
            if stopping:
                job.refuse(_stopping())
            elif now > job.deadline:
                message = f"the request took longer than {self._config.max_seconds:g} seconds"
                job.refuse(Refusal(408, f"{message}: ask for fewer tokens", code="timeout"))
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.over)
            self._admitted = {job for job in self._admitted if job.unfinished and not job.over}


def _stopping() -> Refusal:
    return Refusal(503, "the server is stopping: send the request again later", retry_after=5)
