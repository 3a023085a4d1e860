"""Answers in OpenAI's format: whole ones, the chunks of a stream, and errors."""

import json
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from fftnet.serving.jobs import Job, Piece, Refusal, TokenScores
from fftnet.utils.tokenizer import Tokenizer


def error_body(refusal: Refusal) -> dict[str, Any]:
    """Return the JSON object of an error."""
    kinds = {429: "rate_limit_error", 408: "timeout_error"}
    kind = "server_error" if refusal.status >= 500 else kinds.get(refusal.status, "invalid_request_error")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}


def error_response(refusal: Refusal) -> JSONResponse:
    """Return an error as a whole answer."""
    # OpenAI's clients retry by the second header, others by the first.
    headers = {"x-should-retry": "false" if refusal.retry_after is None else "true"}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    return JSONResponse(error_body(refusal), refusal.status, headers)


def event(value: Mapping[str, Any] | str) -> bytes:
    """Return a server-sent event with a text or a JSON object."""
    # allow_nan=False: NaN is not JSON, and clients would fail to parse it.
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    return f"data: {text}\n\n".encode()


class CompletionAnswer:
    """Builder of the answer to one request of ``/v1/completions``."""

    # Field `object` of a whole answer and of a chunk, and beginning of the id.
    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, model: str, tokenizer: Tokenizer, jobs: Sequence[Job]) -> None:
        self._tokenizer = tokenizer
        self._jobs = jobs
        self._head = {"id": self.prefix + secrets.token_hex(12), "created": int(time.time()), "model": model}

    def body(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the whole answer from all pieces of its replies."""
        replies: dict[int, list[Piece]] = defaultdict(list)
        for piece in pieces:
            replies[piece.choice].append(piece)
        choices = []
        for number, parts in sorted(replies.items()):
            scores = [score for part in parts for score in part.scores]
            text = self._whole("".join(part.text for part in parts))
            choices.append(self._choice(number, text, scores, parts[-1].finish))
        return {"object": self.kind, **self._head, "choices": choices, "usage": self._usage()}

    def first_chunks(self) -> list[dict[str, Any]]:
        """Return the chunks of a stream that precede its text."""
        return []

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """Return a piece as a chunk of a stream."""
        return self._chunk(self._choice(piece.choice, self._part(piece.text), piece.scores, piece.finish))

    def usage_chunk(self) -> dict[str, Any]:
        """Return the last chunk of a stream, with the numbers of tokens."""
        return {**self._chunk(), "usage": self._usage()}

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        return {"object": self.chunk_kind, **self._head, "choices": list(choices)}

    def _choice(
        self, number: int, text: dict[str, Any], scores: Sequence[TokenScores], finish: str | None
    ) -> dict[str, Any]:
        # All jobs of a request ask for the same scores.
        logprobs = None if self._jobs[0].top_logprobs is None else self._logprobs(scores)
        return {"index": number, **text, "logprobs": logprobs, "finish_reason": finish}

    def _usage(self) -> dict[str, Any]:
        prompt = sum(len(job.prompt) for job in self._jobs)
        written = sum(job.written for job in self._jobs)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": sum(job.cached for job in self._jobs)},
        }

    def _whole(self, text: str) -> dict[str, Any]:
        """Return the field of a choice that holds a whole reply."""
        return {"text": text}

    def _part(self, text: str) -> dict[str, Any]:
        """Return the field of a choice that holds a part of a reply."""
        return self._whole(text)

    def _logprobs(self, scores: Sequence[TokenScores]) -> dict[str, Any]:
        decode = self._tokenizer.decode
        likeliest: list[dict[str, float]] = [{} for _ in scores]
        for by_text, score in zip(likeliest, scores, strict=True):
            for token, logprob in score.likeliest:
                # Tokens that are parts of characters may decode to one text: the likeliest of them counts.
                by_text.setdefault(decode([token]), logprob)
        return {
            "tokens": [decode([score.token]) for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": likeliest,
            "text_offset": [score.start for score in scores],
        }


class ChatAnswer(CompletionAnswer):
    """Builder for ``/v1/chat/completions``, whose choices have other fields."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def first_chunks(self) -> list[dict[str, Any]]:
        """Return a chunk for each reply that names the role."""
        delta = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self._chunk({"index": choice, **delta}) for job in self._jobs for choice in job.choices]

    def _whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, scores: Sequence[TokenScores]) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            content = self._tokenizer.decode_bytes([token])
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
