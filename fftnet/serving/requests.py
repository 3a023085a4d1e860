"""Request bodies in OpenAI's format as pydantic models, and the jobs that they ask for."""

import re
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from fftnet.api.generate import SamplingConfig
from fftnet.serving.config import ServeConfig
from fftnet.serving.jobs import Job, Piece, Refusal
from fftnet.utils.tokenizer import Tokenizer

MAX_MESSAGES = 4096
MAX_STOPS = 4
UNSUPPORTED: dict[str, Any] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "function_call": "none",
    "functions": [],
    "logit_bias": {},
    "modalities": ["text"],
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "suffix": "",
    "tool_choice": "none",
    "tools": [],
}
"""Parameters of OpenAI that would change a reply, with the one value, next to null, that is accepted."""
IGNORED = {
    *("metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "store"),
    "user",
}
"""Parameters of OpenAI that do not change a reply."""
ALLOWED = {
    "prompt": "must be a text, a list of texts, a list of ids or a list of such lists, none empty",
    "content": "must be a text, or a list of parts of the type text",
    "stop": f"must be a text or a list of at most {MAX_STOPS} texts, none of them empty",
}
"""Messages for fields of several types; pydantic reports each type separately."""

Count = Annotated[int, Field(ge=1, lt=2**53)]
Logprobs = Annotated[int, Field(ge=0, le=20)]
# fail_fast: the errors of a million wrong items would take seconds to report.
Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """Part of the content of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """Message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(fail_fast=True)]

    @property
    def text(self) -> str:
        """Content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    include_usage: StrictBool | None = None


class BaseRequest(BaseModel):
    """Fields that completions and chats share; null means the default."""

    # Strict: a number in quotes, or True for 1, is a mistake of the client.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    model: str | None = None
    n: Count | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Count | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, fields: Any) -> Any:
        """Refuse parameters that are unknown, or not supported and not at their default."""
        # extra="forbid" would report each of a million unknown parameters.
        for name, value in fields.items() if isinstance(fields, dict) else ():
            if name in UNSUPPORTED and value not in (None, UNSUPPORTED[name]):
                raise Refusal(400, f"unsupported parameter {name}: leave it out", param=name)
            if name not in cls.model_fields and name not in UNSUPPORTED and name not in IGNORED:
                raise Refusal(400, f"unknown parameter {name[:100]!r}: leave it out", param=name[:100])
        return fields

    def stops(self, config: ServeConfig) -> tuple[str, ...]:
        """Return the texts that end a reply."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(BaseRequest):
    """Body of ``/v1/completions``."""

    prompt: str | Ids | Annotated[list[str | Ids], Field(min_length=1, fail_fast=True)]
    logprobs: Logprobs | None = None

    def prompts(self, config: ServeConfig) -> list[list[str] | list[int]]:
        """Return the prompts, each as token ids or as a text."""
        if isinstance(self.prompt, str):
            return [[self.prompt]]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return [[prompt] if isinstance(prompt, str) else prompt for prompt in self.prompt]  # pyright: ignore

    def max_new_tokens(self, config: ServeConfig) -> int:
        """Return the maximum length of a reply, in tokens."""
        # The default of OpenAI's API.
        return self.max_tokens or 16

    @property
    def num_likeliest(self) -> int | None:
        """Number of likeliest tokens reported with each token (None: no log-probabilities)."""
        return self.logprobs


class ChatRequest(BaseRequest):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None

    def prompts(self, config: ServeConfig) -> list[list[str] | list[int]]:
        """Return the one prompt, as the pieces of the chat template."""
        return [config.chat_parts((message.role, message.text) for message in self.messages)]

    def stops(self, config: ServeConfig) -> tuple[str, ...]:
        """Return the texts that end a reply, with the beginning of the user's next message."""
        return (*super().stops(config), config.chat_stop)

    def max_new_tokens(self, config: ServeConfig) -> int:
        """Return the maximum length of a reply, in tokens."""
        return self.max_completion_tokens or self.max_tokens or config.max_new_tokens

    @property
    def num_likeliest(self) -> int | None:
        """Number of likeliest tokens reported with each token (None: no log-probabilities)."""
        return (self.top_logprobs or 0) if self.logprobs else None


AnyRequest = CompletionRequest | ChatRequest


def parse_request(kind: type[AnyRequest], body: bytes, config: ServeConfig) -> AnyRequest:
    """Validate the body of a request; raise a Refusal that names a wrong field."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error
    if request.model is not None and request.model != config.name:
        message = f"there is no model {request.model[:100]!r} here: this server has {config.name!r}"
        raise Refusal(404, message, code="model_not_found", param="model")
    rows = len(request.prompts(config)) * (request.n or 1)
    if rows > config.max_rows:
        message = f"{rows} replies were requested, and this server writes at most {config.max_rows} at once"
        raise Refusal(400, message, param="n")
    count = request.max_new_tokens(config)
    if count > config.max_new_tokens:
        message = f"max_tokens is {count}, and this server writes at most {config.max_new_tokens}"
        raise Refusal(400, message, param="max_tokens")
    return request


def _refusal(error: ValidationError) -> Refusal:
    """Return the first mistake as one sentence that names its field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        return Refusal(400, message.replace("Invalid JSON", "the body is not JSON"), code="invalid_json")
    # For a field of several types, the path goes on with the type that was tried last.
    path = [str(part) for part in first["loc"]]
    several = next((n for n, part in enumerate(path) if part in ALLOWED and kind != "missing"), None)
    name = ".".join(path[: None if several is None else several + 1])[:100]
    # pydantic's sentences begin with the type of the value, such as "Input should be" or "List should have".
    sentence = ALLOWED[path[several]] if several is not None else re.sub(r"^\w+ should", "must", message)
    sentence = "is missing" if kind == "missing" else sentence.replace(" after validation", "")
    return Refusal(400, f"{name or 'the body'} {sentence}", param=name or None)


def make_jobs(
    request: AnyRequest,
    config: ServeConfig,
    tokenizer: Tokenizer,
    vocab_size: int,
    emit: Callable[[Piece | Refusal], None],
) -> list[Job]:
    """Encode the prompts of a request and return a job for each; refuse long prompts and unknown ids."""
    copies = request.n or 1
    sampling = SamplingConfig(
        max_new_tokens=request.max_new_tokens(config),
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=request.top_k,
        top_p=1.0 if request.top_p is None else request.top_p,
        # Without a seed, no two replies of a server are the same; 62 bits leave room for seed + choice.
        seed=secrets.randbits(62) if request.seed is None else request.seed,
    )
    jobs = []
    for number, prompt in enumerate(request.prompts(config)):
        # A text begins with the end-of-text token, as in training.
        ids = [tokenizer.eot] if isinstance(prompt[0], str) else []
        for part in prompt:
            ids += tokenizer.encode(part) if isinstance(part, str) else [part]
        if len(ids) > config.max_prompt_tokens:
            message = f"the prompt has {len(ids)} tokens, and this server reads at most "
            message += f"{config.max_prompt_tokens}: shorten it"
            raise Refusal(400, message, code="context_length_exceeded", param="prompt")
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            message = f"id {wrong} in the prompt lies outside the vocabulary of {vocab_size}"
            raise Refusal(400, message, param="prompt")
        jobs.append(
            Job(
                prompt=ids,
                sampling=sampling,
                emit=emit,
                choices=range(number * copies, (number + 1) * copies),
                stops=request.stops(config),
                top_logprobs=request.num_likeliest,
                deadline=time.monotonic() + config.max_seconds,
            )
        )
    return jobs
