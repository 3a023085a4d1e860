"""Requests in OpenAI's shape: which fields there are, what they may hold, what is refused."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from fftnet.api.generate import SamplingConfig
from fftnet.serving.config import Message, ServeConfig
from fftnet.serving.jobs import Refusal
from fftnet.utils.tokenizer import Tokenizer

MAX_MESSAGES = 4096
MAX_STOPS = 4
MAX_LOGPROBS = 20
COMPLETION_TOKENS = 16
"""What a completion has where nothing was asked for: OpenAI's number."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
}
"""Fields of OpenAI's that are not there, with the values that ask for nothing."""
IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
"""Fields that change nothing in a reply."""
SENTENCES = {
    "missing": "is missing",
    "too_short": "must not be empty",
}
"""Pydantic's types of mistakes to what is said of the field, in place of its own words."""

Request = TypeVar("Request", bound="BaseRequest")


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if isinstance(stops, list) and len(stops) > MAX_STOPS:
        raise ValueError(f"must be at most {MAX_STOPS} texts, got {len(stops)}")
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("must be a text or a list of texts, none of them empty")
    return stops


def _messages(value: Any) -> Any:
    # Counted before pydantic validates each of them, which takes seconds for a million.
    if isinstance(value, list) and len(value) > MAX_MESSAGES:
        raise ValueError(f"must be at most {MAX_MESSAGES} messages, got {len(value)}")
    return value


def _content(value: Any) -> Any:
    if isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in value
    ):
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise ValueError("must be a text, or a list of parts of the type text")
    return value


def _prompts(value: Any) -> Any:
    prompts = value if isinstance(value, list) and not _are_ids(value) else [value]
    if not prompts or not all(isinstance(prompt, str) or _are_ids(prompt) for prompt in prompts):
        raise ValueError("must be a text, a list of texts, a list of ids or a list of such lists, none empty")
    return prompts


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) is int for number in value)


class StreamOptions(BaseModel):
    """How a streamed reply ends."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None


class ChatMessage(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content)]


class BaseRequest(BaseModel):
    """Fields that completions and chats share; None is as good as left out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    model: str | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[list[str], BeforeValidator(_stops)] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    def stops(self, config: ServeConfig) -> tuple[str, ...]:
        """Texts that end a reply."""
        return tuple(self.stop)

    def sampling(self, config: ServeConfig) -> SamplingConfig:
        """How tokens are drawn, and how many.

        Raises:
            Refusal: if more tokens are asked for than the server writes, or a value is out of range.
        """
        count = self._count(config)
        if count > config.max_new_tokens:
            raise Refusal(
                400,
                f"max_tokens is {count}, and this server writes {config.max_new_tokens} at most",
                param="max_tokens",
            )
        try:
            return SamplingConfig(
                max_new_tokens=count,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=secrets.randbits(62) if self.seed is None else self.seed,
            )
        except ValueError as error:
            raise Refusal(400, str(error)) from error

    @property
    def num_prompts(self) -> int:
        """Number of prompts."""
        return 1

    def prompts(self, config: ServeConfig, tokenizer: Tokenizer) -> list[list[int]]:
        """Ids of the prompts."""
        raise NotImplementedError

    @property
    def scores_wanted(self) -> int | None:
        """How many likeliest tokens are named with each token; None: no scores at all."""
        raise NotImplementedError

    def _count(self, config: ServeConfig) -> int:
        raise NotImplementedError


class CompletionRequest(BaseRequest):
    """Body of ``/v1/completions``."""

    prompt: Annotated[list[Any], BeforeValidator(_prompts)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def num_prompts(self) -> int:
        """As ``BaseRequest``."""
        return len(self.prompt)

    def prompts(self, config: ServeConfig, tokenizer: Tokenizer) -> list[list[int]]:
        """Ids of the prompts; texts begin with the end-of-text token, as in ``fftnet generate``."""
        return [
            [tokenizer.eot, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt
            for prompt in self.prompt
        ]

    @property
    def scores_wanted(self) -> int | None:
        """As ``BaseRequest``."""
        return self.logprobs

    def _count(self, config: ServeConfig) -> int:
        return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


class ChatRequest(BaseRequest):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1), BeforeValidator(_messages)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def prompts(self, config: ServeConfig, tokenizer: Tokenizer) -> list[list[int]]:
        """Ids of the one prompt, by the server's chat template."""
        parts = config.chat_parts([Message(message.role, message.content) for message in self.messages])
        return [[tokenizer.eot, *(token for part in parts for token in tokenizer.encode(part))]]

    def stops(self, config: ServeConfig) -> tuple[str, ...]:
        """Texts that end a reply, the beginning of the user's next message among them."""
        return (*self.stop, config.chat_stop)

    @property
    def scores_wanted(self) -> int | None:
        """As ``BaseRequest``."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def _count(self, config: ServeConfig) -> int:
        return self.max_completion_tokens or self.max_tokens or config.max_new_tokens


def parse_request(kind: type[Request], body: bytes, config: ServeConfig) -> Request:
    """Read the body of a request.

    Raises:
        Refusal: naming the field that is wrong.
    """
    try:
        fields = _object(body)
        for name in fields.keys() & NEUTRAL.keys():
            value = fields.pop(name)
            if not any(value == neutral for neutral in NEUTRAL[name]):
                raise Refusal(400, f"{name} is not there in this server: leave it out", param=name)
        # Looked for before validation: pydantic would report each of a million unknown fields.
        known = kind.model_fields.keys() | IGNORED
        unknown = next((name for name in fields if name not in known), None)
        if unknown is not None:
            raise Refusal(400, f"{unknown[:100]} is no field of this request", param=unknown[:100])
        request = kind.model_validate({name: fields[name] for name in fields.keys() - IGNORED})
    except ValidationError as error:
        raise _refusal(error) from error
    if request.model is not None and request.model != config.name:
        raise Refusal(
            404,
            f"there is no model {request.model[:100]!r} here: this server has {config.name!r}",
            code="model_not_found",
            param="model",
        )
    rows = request.num_prompts * (request.n or 1)
    if rows > config.max_rows:
        raise Refusal(
            400, f"{rows} replies are asked for, and this server writes {config.max_rows} at once", param="n"
        )
    return request


def check_prompts(prompts: Sequence[Sequence[int]], config: ServeConfig, vocab: int) -> None:
    """Refuse prompts that the server does not read.

    Raises:
        Refusal: naming the limit that they exceed.
    """
    for prompt in prompts:
        if len(prompt) > config.max_prompt_tokens:
            raise Refusal(
                400,
                f"the prompt has {len(prompt)} tokens, and this server reads {config.max_prompt_tokens} at "
                "most: shorten it",
                code="context_length_exceeded",
                param="prompt",
            )
        wrong = next((token for token in prompt if not 0 <= token < vocab), None)
        if wrong is not None:
            raise Refusal(
                400, f"id {wrong} in the prompt lies outside the vocabulary of {vocab}", param="prompt"
            )


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "the body must be an object of JSON, with the fields of the request")
    return fields


def _refusal(error: ValidationError) -> Refusal:
    """The first thing that is wrong, as a sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    text = SENTENCES.get(first["type"])
    if text is None:
        text = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return Refusal(400, f"{name[:100]} {text}", param=name[:100])
