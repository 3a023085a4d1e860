"""Jobs of the engine: prompts, the replies that they ask for, and the text of each reply."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fftnet.api.generate import SamplingConfig
from fftnet.utils.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Refusal(Exception):
    """An error that ends a request: an HTTP status and one sentence."""

    status: int
    message: str
    code: str | None = None
    """Word that programs recognize the error by."""
    param: str | None = None
    """Field of the request that is wrong."""
    retry_after: int | None = None
    """Time after which the same request may succeed, seconds (None: it would be refused again)."""

    def __str__(self) -> str:
        return self.message


class TokenScores(NamedTuple):
    """Log-probabilities of a written token."""

    token: int
    start: int
    """Index of the token's first character in the reply."""
    logprob: float
    """Natural logarithm of its probability, before temperature, top_k and top_p."""
    likeliest: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """A part of a reply."""

    choice: int
    """Number of the reply within its request."""
    text: str
    scores: tuple[TokenScores, ...] = ()
    """Scores of the tokens whose text ends in this part, if requested."""
    finish: str | None = None
    """In the last part: ``stop`` after an end of text or a stop sequence, ``length`` at the limit."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A prompt and the replies to it."""

    prompt: Sequence[int]
    sampling: SamplingConfig
    """Sampling of the replies; reply i of the request has seed + i."""
    emit: Callable[[Piece | Refusal], None]
    """Receiver of the pieces, called in the engine's thread; a refusal ends the job."""
    choices: range = range(1)
    """Numbers of the replies within the request."""
    stops: tuple[str, ...] = ()
    """Texts that end a reply and are not part of it."""
    top_logprobs: int | None = None
    """Number of likeliest tokens reported with each token (None: no scores)."""
    deadline: float = float("inf")
    """Time of ``time.monotonic`` at which the job ends with an error."""
    submitted: float = field(default_factory=time.monotonic)
    cached: int = 0
    """Number of prompt tokens covered by a cached state."""
    written: int = 0
    """Number of tokens written in all replies."""
    unfinished: int = field(init=False)
    """Number of replies that have not ended."""
    over: bool = False
    """True after an error, or after the client has left: the engine drops the job."""

    def __post_init__(self) -> None:
        self.unfinished = len(self.choices)

    def refuse(self, refusal: Refusal) -> None:
        """End the job with an error."""
        # First: the job must end even if its receiver fails.
        self.over = True
        try:
            self.emit(refusal)
        except Exception:
            logger.exception("the error of a request could not be sent")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """End the job with an error if the block fails, so that the engine goes on with the others."""
        try:
            yield
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            logger.exception("a request failed")
            self.refuse(failure(error))


class Reply:
    """A reply that is being written: its random generator, tokens and text."""

    def __init__(self, job: Job, choice: int, tokenizer: Tokenizer, device: torch.device) -> None:
        self.job = job
        self.choice = choice
        self.generator = torch.Generator(device).manual_seed(job.sampling.seed + choice)
        self.tokens: list[int] = []
        self.ended = False
        self._eot = tokenizer.eot
        self._decoder = tokenizer.stream()
        # Text that is not sent yet, because a stop sequence may begin in it.
        self._held = ""
        self._sent = 0
        # Scores of tokens whose text is not sent yet, each with the position at which that text ends.
        self._scores: list[tuple[int, TokenScores]] = []

    def take(self, token: int, logits_V: Tensor) -> Piece | None:
        """Add a token that was drawn from these logits; return the text that is final now, if any."""
        finish = "stop" if token == self._eot else None
        if finish is None:
            self.tokens.append(token)
            self.job.written += 1
            self._held += self._decoder.push(token)
            if self.job.top_logprobs is not None:
                scores = _scores(token, self._decoder.start, logits_V, self.job.top_logprobs)
                self._scores.append((self._sent + len(self._held), scores))
            if len(self.tokens) == self.job.sampling.max_new_tokens:
                finish = "length"
        if finish is not None:
            self._held += self._decoder.finish()
        # Text after a stop is dropped; without one, an ended reply sends all that it held back.
        length, stopped = final_length(self._held, self.job.stops)
        if stopped:
            finish = "stop"
        elif finish is not None:
            length = len(self._held)
        self.ended = finish is not None
        self.job.unfinished -= self.ended
        return self._piece(length, finish) if length or self.ended else None

    def _piece(self, length: int, finish: str | None) -> Piece:
        text = self._held[:length]
        self._held = self._held[length:]
        self._sent += length
        ready = [scores for end, scores in self._scores if end <= self._sent]
        self._scores = self._scores[len(ready) :]
        return Piece(self.choice, text, tuple(ready), finish)


def failure(error: Exception) -> Refusal:
    """Return the answer to a request that failed in the server."""
    return Refusal(500, f"the model failed ({type(error).__name__}): see the server's log")


def final_length(text: str, stops: Sequence[str]) -> tuple[int, bool]:
    """Return the length of text in front of the first stop, and True if a stop was found.

    Without a stop, the text is final up to the longest end that may turn out to begin one.
    """
    found = [start for stop in stops if (start := text.find(stop)) >= 0]
    if found:
        return min(found), True
    held = 0
    for stop in stops:
        sizes = range(min(len(stop) - 1, len(text)), held, -1)
        held = next((size for size in sizes if text.endswith(stop[:size])), held)
    return len(text) - held, False


def _scores(token: int, start: int, logits_V: Tensor, count: int) -> TokenScores:
    # JSON has no infinity; OpenAI writes -9999 for impossible tokens.
    scores_V = logits_V.float().log_softmax(dim=-1).clamp(min=-9999.0)
    best = scores_V.topk(min(count, len(scores_V)))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenScores(token, start, float(scores_V[token]), tuple(likeliest))
