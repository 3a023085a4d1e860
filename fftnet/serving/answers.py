"""Replies in OpenAI's shape: whole ones, and the chunks of a stream."""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from fftnet.serving.jobs import Job, Piece, Refusal, TokenScores
from fftnet.utils.tokenizer import Tokenizer


def error_body(refusal: Refusal) -> dict[str, Any]:
    """The body of an answer with an error."""
    kinds = {429: "rate_limit_error", 408: "timeout_error"}
    kind = "server_error" if refusal.status >= 500 else kinds.get(refusal.status, "invalid_request_error")
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return {"error": error}


def error_headers(refusal: Refusal) -> dict[str, str]:
    """Whether and when to try again, as headers; the second one is for OpenAI's own clients."""
    if refusal.retry_after is None:
        return {"x-should-retry": "false"}
    return {"Retry-After": str(refusal.retry_after), "x-should-retry": "true"}


def error_response(refusal: Refusal) -> JSONResponse:
    """Return an error as a whole answer."""
    return JSONResponse(error_body(refusal), refusal.status, error_headers(refusal))


def event(value: Mapping[str, Any] | str) -> bytes:
    """An event of a stream."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    return f"data: {text}\n\n".encode()


def usage(jobs: Sequence[Job]) -> dict[str, Any]:
    """How many tokens a request took, and how many of its prompts' were not read again."""
    prompt = sum(len(job.prompt) for job in jobs)
    written = sum(job.written for job in jobs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": sum(job.cached for job in jobs)},
    }


@dataclass(frozen=True)
class Shape:
    """How an answer of one kind is put."""

    kind: str
    """``object`` of a whole answer."""
    chunk_kind: str
    """``object`` of a chunk."""
    prefix: str
    """Beginning of its id."""
    whole: Callable[[str], dict[str, Any]]
    """Fields of a choice that hold a whole text."""
    part: Callable[[str], dict[str, Any]]
    """Fields of a choice that hold a part of a text."""
    scores: Callable[[Tokenizer, Sequence[TokenScores]], dict[str, Any]]
    """Makes the field ``logprobs`` of a choice."""
    role_first: bool = False
    """Whether a stream begins with a chunk that names the role."""


def _completion_scores(tokenizer: Tokenizer, scores: Sequence[TokenScores]) -> dict[str, Any]:
    return {
        "tokens": [tokenizer.decode([score.token]) for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [_by_text(tokenizer, score) for score in scores],
        "text_offset": [score.start for score in scores],
    }


def _by_text(tokenizer: Tokenizer, score: TokenScores) -> dict[str, float]:
    """The likeliest tokens by their text; of several with one text, as parts of characters, the first."""
    found: dict[str, float] = {}
    for token, logprob in score.likeliest:
        found.setdefault(tokenizer.decode([token]), logprob)
    return found


def _chat_scores(tokenizer: Tokenizer, scores: Sequence[TokenScores]) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        content = tokenizer.decode_bytes([token])
        text = content.decode("utf-8", errors="replace")
        return {"token": text, "logprob": logprob, "bytes": list(content)}

    return {
        "content": [
            entry(score.token, score.logprob)
            | {"top_logprobs": [entry(token, logprob) for token, logprob in score.likeliest]}
            for score in scores
        ],
        "refusal": None,
    }


COMPLETION = Shape(
    kind="text_completion",
    chunk_kind="text_completion",
    prefix="cmpl-",
    whole=lambda text: {"text": text},
    part=lambda text: {"text": text},
    scores=_completion_scores,
)
CHAT = Shape(
    kind="chat.completion",
    chunk_kind="chat.completion.chunk",
    prefix="chatcmpl-",
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    part=lambda text: {"delta": {"content": text} if text else {}},
    scores=_chat_scores,
    role_first=True,
)


@dataclass
class Answer:
    """The answer to one request, as it comes in."""

    shape: Shape
    model: str
    tokenizer: Tokenizer
    jobs: Sequence[Job]
    with_scores: bool
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = self.shape.prefix + secrets.token_hex(12)
        self._texts: dict[int, str] = {}
        self._scores: dict[int, list[TokenScores]] = {}
        self._finish: dict[int, str | None] = {}

    def add(self, piece: Piece) -> None:
        """Take a part of a reply."""
        self._texts[piece.choice] = self._texts.get(piece.choice, "") + piece.text
        self._scores.setdefault(piece.choice, []).extend(piece.scores)
        self._finish[piece.choice] = piece.finish

    def body(self) -> dict[str, Any]:
        """The whole of it."""
        choices = [
            self._choice(self.shape.whole(self._texts[choice]), choice, self._scores[choice])
            | {"finish_reason": self._finish[choice]}
            for choice in sorted(self._texts)
        ]
        return self._head(self.shape.kind) | {"choices": choices, "usage": usage(self.jobs)}

    def first_chunks(self) -> list[dict[str, Any]]:
        """What a stream begins with, before there is any text."""
        if not self.shape.role_first:
            return []
        delta = {"delta": {"role": "assistant", "content": ""}}
        return [
            self._chunk({"index": choice, **delta, "logprobs": None, "finish_reason": None})
            for job in self.jobs
            for choice in job.choices
        ]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A part of a reply as a chunk of a stream."""
        choice = self._choice(self.shape.part(piece.text), piece.choice, piece.scores)
        return self._chunk(choice | {"finish_reason": piece.finish})

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream, where it was asked for."""
        return self._head(self.shape.chunk_kind) | {"choices": [], "usage": usage(self.jobs)}

    def _choice(self, text: dict[str, Any], choice: int, scores: Sequence[TokenScores]) -> dict[str, Any]:
        logprobs = self.shape.scores(self.tokenizer, scores) if self.with_scores else None
        return {"index": choice, **text, "logprobs": logprobs}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._head(self.shape.chunk_kind) | {"choices": [choice]}
