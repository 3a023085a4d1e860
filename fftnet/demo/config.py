"""Configuration and errors of the demo page."""

from dataclasses import dataclass

from fftnet.errors import UserError
from fftnet.fields import check_fields, check_range, documented


class DemoError(UserError, ValueError):
    """A page can't be made or served; the message says why and what to do."""


@documented
@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Configuration of ``fftnet demo``.

    Raises:
        ValueError: if the port is out of range.
    """

    output: str = "page"
    """Folder of the page, for any static file host; it is created if missing."""
    int8: bool = False
    """Use 8-bit weights: a third of the download, and a different text."""
    runtime_files: str | None = None
    """Folder with the files of onnxruntime-web, dist of its npm package (default: the user's cache folder,
    which is filled by one download)."""
    serve: bool = True
    """Serve the page after writing it; --no_serve only writes it."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network interface."""
    port: int = 8080
    """Port to listen on; 0 takes a free one and prints it."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 0, 65535, "port")
