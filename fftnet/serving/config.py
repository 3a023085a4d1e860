"""What a server may do, and how a chat is put into text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fftnet.fields import check_fields, check_range, documented

CONTENT = "{content}"
ROLES = ("system", "developer", "user", "assistant")
"""Who may speak in a chat; the model is the assistant."""


class Message(NamedTuple):
    """One message of a chat."""

    role: str
    content: str


@documented
@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Address, limits and chat template of a server.

    Raises:
        ValueError: if a field is out of range, or the chat template lacks a part.
    """

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every network interface: set an api_key then."""
    port: int = 8000
    """Port to listen at; 0 takes a free one and prints it."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may give as their Host or Origin, next to those of the loopback and --host;
    * allows all."""
    api_key: str | None = field(default=None, repr=False)
    """Key that requests must send (default: the environment variable FFTNET_API_KEY, which other users of
    this machine do not see; without both, no key)."""
    name: str = "fftnet"
    """Name of the model; requests may leave it out."""
    max_prompt_tokens: int = 16384
    """Tokens of a prompt at most; longer ones are refused."""
    max_new_tokens: int = 2048
    """Tokens of a reply at most; requests for more are refused."""
    max_seconds: float = 300.0
    """Time for a request, waiting included; what takes longer is ended with an error."""
    max_rows: int = 64
    """Texts that are written at the same time; a request for n replies is n texts."""
    max_queue: int = 256
    """Requests that wait for their turn; more are refused with status 429."""
    max_body_bytes: int = 4 * 2**20
    """Bytes of a request at most."""
    max_connections: int = 512
    """Open connections at most; more are refused with status 503."""
    request_seconds: float = 30.0
    """Time for a client to send a whole request, seconds. A client that takes nothing of its reply for as
    long is disconnected, too."""
    cache_bytes: int = 256 * 2**20
    """Memory for the states of texts that were read before; 0 keeps none."""
    grace_seconds: float = 10.0
    """Time that running requests have to end in after SIGTERM or Ctrl-C; new ones are refused."""
    chat_template: str = "{role}:\n{content}\n\n"
    """A message of a chat as text. Whatever stands before {content} also asks the model for its reply, and
    a reply ends where the next message of the user would begin. A \\n is a line break."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "max_prompt_tokens", "max_new_tokens", "max_rows", "max_body_bytes")
        check_range(self, 1, None, "max_connections")
        check_range(self, 0, None, "max_queue", "cache_bytes", "grace_seconds")
        for name in ("max_seconds", "request_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        key = self.api_key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("api_key must be printable ASCII characters without spaces, at least one")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must lie between 0 and 65535, got {self.port}")
        if not self.name:
            raise ValueError("name must not be empty: requests give it")
        # Typed on a command line, a line break arrives as two characters.
        template = self.chat_template.replace("\\n", "\n")
        if template.count(CONTENT) != 1 or not template.partition(CONTENT)[0]:
            raise ValueError(
                f"chat_template must hold {CONTENT} once, and something before it, got {self.chat_template!r}"
            )
        object.__setattr__(self, "chat_template", template)

    def chat_parts(self, messages: Sequence[Message]) -> list[str]:
        """A chat as pieces of text, up to where the reply begins.

        Pieces are encoded one by one, so that the ids of a chat begin with those of the same chat a message
        before, however the tokenizer joins characters.
        """
        parts: list[str] = []
        for message in messages:
            before, after = self._around(message.role)
            parts += [before, message.content, after]
        return [part for part in [*parts, self._around("assistant")[0]] if part]

    @property
    def chat_stop(self) -> str:
        """Text that ends a reply: the end of a message, then the beginning of the user's next one."""
        return self._around("assistant")[1] + self._around("user")[0]

    def _around(self, role: str) -> tuple[str, str]:
        before, _, after = self.chat_template.partition(CONTENT)
        return before.replace("{role}", role), after.replace("{role}", role)
