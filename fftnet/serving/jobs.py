"""What the engine works on: prompts to read, and replies in the making with their text and its end."""

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


class Refusal(Exception):
    """A request that is not served, or not to its end: a status of HTTP and one sentence.

    Args:
        status: of HTTP.
        message: one sentence for the user.
        code: word for programs.
        param: field of the request that is to blame.
        retry_after: seconds after which the same request may be served; None: it would be refused again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after


def failure(error: Exception) -> Refusal:
    """Return the answer to a request that failed in the server."""
    return Refusal(500, f"the model failed ({type(error).__name__}): see the server's log")


class TokenScores(NamedTuple):
    """A token that was written, and how likely it was."""

    token: int
    start: int
    """Index of its first character in the reply."""
    logprob: float
    """Natural logarithm of its probability, before temperature, top_k and top_p."""
    likeliest: tuple[tuple[int, float], ...]
    """The likeliest tokens with their logarithms, as many as were asked for."""


class Piece(NamedTuple):
    """A part of a reply."""

    choice: int
    """Number of the reply among all of its request."""
    text: str
    scores: tuple[TokenScores, ...] = ()
    """Of the tokens whose text ends in this part; empty unless asked for."""
    finish: str | None = None
    """In the last part: ``stop`` where the model or a stop sequence ended the text, ``length`` where the
    limit did."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A prompt and the replies that are wanted for it."""

    prompt: Sequence[int]
    sampling: SamplingConfig
    """Reply number i of the request has seed + i."""
    emit: Callable[[Piece | Refusal], None]
    """Takes what was written, from the engine's thread; a refusal is the end of the job."""
    choices: range = range(1)
    """Numbers of its replies among all of the request."""
    stops: tuple[str, ...] = ()
    """Texts that end a reply and are no part of it."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens are named with each token; None: no scores at all."""
    deadline: float = float("inf")
    """Of ``time.monotonic``."""
    submitted: float = field(default_factory=time.monotonic)
    cached: int = 0
    """Tokens of the prompt that were not read, since a state behind them was there."""
    written: int = 0
    """Tokens of all replies."""
    unfinished: int = field(init=False)
    """Replies that have not ended."""
    over: bool = False
    """Ended with an error, or left by its client: nothing more is done for it."""

    def __post_init__(self) -> None:
        self.unfinished = len(self.choices)

    def refuse(self, refusal: Refusal) -> None:
        """End the job with an error."""
        self.over = True
        try:
            self.emit(refusal)
        except Exception:
            logger.exception("a request could not be told its error")

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


class StopFinder:
    """Hands text on up to the first of some texts, and keeps back what may be the beginning of one.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._kept = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop has been found behind it."""
        self._kept += text
        found = [start for stop in self._stops if (start := self._kept.find(stop)) >= 0]
        if found:
            return self._kept[: min(found)], True
        certain = len(self._kept) - max((self._overlap(stop) for stop in self._stops), default=0)
        sure = self._kept[:certain]
        self._kept = self._kept[certain:]
        return sure, False

    def finish(self) -> str:
        """What was kept back, where no more comes."""
        kept = self._kept
        self._kept = ""
        return kept

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the text that begins a stop."""
        longest = min(len(stop) - 1, len(self._kept))
        return next((n for n in range(longest, 0, -1) if self._kept.endswith(stop[:n])), 0)


class Reply:
    """A reply in the making: how its tokens are drawn, its text, and where it ends.

    Args:
        job: that it belongs to.
        choice: its number.
        tokenizer: decodes it; its end-of-text token ends the reply.
        device: of the logits.
    """

    def __init__(self, job: Job, choice: int, tokenizer: Tokenizer, device: torch.device) -> None:
        self.job = job
        self.choice = choice
        self.generator = torch.Generator(device).manual_seed(job.sampling.seed + choice)
        self.tokens: list[int] = []
        self.ended = False
        self._eot = tokenizer.eot
        self._decoder = tokenizer.stream()
        self._stops = StopFinder(job.stops)
        self._scores: list[tuple[int, TokenScores]] = []
        self._pushed = 0
        self._sent = 0

    def take(self, token: int, logits_V: Tensor) -> Piece | None:
        """Add what was drawn from these logits; the part of the reply that is certain now, if any."""
        if token == self._eot:
            return self._end(self._stops.push(self._decoder.finish()), "stop")
        self.tokens.append(token)
        self.job.written += 1
        text = self._decoder.push(token)
        self._pushed += len(text)
        if self.job.top_logprobs is not None:
            scores = _scores(token, self._decoder.start, logits_V, self.job.top_logprobs)
            self._scores.append((self._pushed, scores))
        certain, stopped = self._stops.push(text)
        if stopped:
            return self._end((certain, True), "stop")
        if len(self.tokens) == self.job.sampling.max_new_tokens:
            last, stopped = self._stops.push(self._decoder.finish())
            return self._end((certain + last, stopped), "length")
        return self._piece(certain, None) if certain else None

    def _end(self, found: tuple[str, bool], finish: str) -> Piece:
        certain, stopped = found
        self.ended = True
        self.job.unfinished -= 1
        if stopped:
            return self._piece(certain, "stop")
        return self._piece(certain + self._stops.finish(), finish)

    def _piece(self, text: str, finish: str | None) -> Piece:
        self._sent += len(text)
        ready = [score for end, score in self._scores if end <= self._sent]
        self._scores = self._scores[len(ready) :]
        return Piece(self.choice, text, tuple(ready), finish)


def _scores(token: int, start: int, logits_V: Tensor, count: int) -> TokenScores:
    # JSON has no infinity; this is OpenAI's number for what can't be.
    scores_V = logits_V.float().log_softmax(dim=-1).clamp(min=-9999.0)
    best = scores_V.topk(min(count, len(scores_V)))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenScores(token, start, float(scores_V[token]), tuple(likeliest))
