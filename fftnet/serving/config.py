"""Configuration of the server: address, access, limits and chat template."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from fftnet.fields import check_fields, check_positive, check_range, documented


@documented
@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Configuration of ``fftnet serve``.

    Raises:
        ValueError: if a field is out of range, or the chat template lacks a part.
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network interface: set an api_key then."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names allowed in the headers Host and Origin, next to the loopback and --host; * allows all."""
    api_key: str | None = field(default=None, repr=False)
    """API key that requests must send (default: the environment variable FFTNET_API_KEY, which other users of
    the machine do not see; without both, no key)."""
    name: str = "fftnet"
    """Name of the model in the API; requests may leave it out."""
    max_prompt_tokens: int = 16384
    """Maximum length of a prompt, tokens; longer ones are refused."""
    max_new_tokens: int = 2048
    """Maximum length of a reply, tokens; requests for more are refused."""
    max_seconds: float = 300.0
    """Timeout of a request, queueing included, seconds."""
    max_rows: int = 64
    """Maximum number of replies written at the same time; a request with n = 3 counts three times."""
    max_queue: int = 256
    """Maximum number of prompts in the queue; more are refused with status 429."""
    max_body_bytes: int = 4 * 2**20
    """Maximum size of a request body, bytes."""
    max_connections: int = 512
    """Maximum number of open connections; more are refused with status 503."""
    request_seconds: float = 30.0
    """Timeout for a client to send its whole request, or to read from its reply, seconds."""
    cache_bytes: int = 256 * 2**20
    """Maximum memory of the prefix cache, bytes; 0 disables it."""
    grace_seconds: float = 10.0
    """Time for running requests to end after SIGTERM or Ctrl-C, seconds; new ones are refused."""
    chat_template: str = "{role}:\n{content}\n\n"
    """Text of one chat message. The part before {content} also starts the model's reply, which ends where
    the next message of the user would begin. A \\n is a line break."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "max_prompt_tokens", "max_new_tokens", "max_rows", "max_body_bytes")
        check_range(self, 1, None, "max_connections")
        check_range(self, 0, None, "max_queue", "cache_bytes", "grace_seconds")
        check_range(self, 0, 65535, "port")
        check_positive(self, "max_seconds", "request_seconds")
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise ValueError("api_key must be printable ASCII characters without spaces, at least one")
        if not self.name:
            raise ValueError("name must not be empty: requests give it")
        # On a command line, a line break arrives as the two characters \\n.
        template = self.chat_template.replace("\\n", "\n")
        if template.count("{content}") != 1 or template.startswith("{content}"):
            message = "chat_template must hold {content} once, and something before it"
            raise ValueError(f"{message}, got {self.chat_template!r}")
        # The dataclass is frozen.
        object.__setattr__(self, "chat_template", template)

    def chat_parts(self, messages: Iterable[tuple[str, str]]) -> list[str]:
        """Return a chat, given as roles and contents, as pieces of text up to the beginning of the reply.

        Pieces are encoded one by one, so that the ids of a chat begin with the ids of the shorter chat before
        it: the prefix cache then holds its state.
        """
        parts: list[str] = []
        for role, content in messages:
            before, after = self._around(role)
            parts += [before, content, after]
        return [part for part in [*parts, self._around("assistant")[0]] if part]

    @property
    def chat_stop(self) -> str:
        """Text that ends a reply: the end of a message and the beginning of the user's next one."""
        return self._around("assistant")[1] + self._around("user")[0]

    def _around(self, role: str) -> tuple[str, str]:
        before, _, after = self.chat_template.partition("{content}")
        return before.replace("{role}", role), after.replace("{role}", role)
