"""What the page is made of, and where it is served."""

from dataclasses import dataclass

from fftnet.fields import check_fields, documented


@documented
@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """A page that runs a model in the browser.

    Raises:
        ValueError: if the port is none.
    """

    output: str = "page"
    """Folder of the page, for any host of static files; made where it is missing."""
    int8: bool = False
    """Weights of 8 bits: a third of the download, and another text."""
    runtime_files: str | None = None
    """Folder with the files of onnxruntime-web, dist of its npm package (default: fetched once, then kept in
    the user's cache folder)."""
    serve: bool = True
    """Serve the page when it is made; --no_serve leaves it at the folder."""
    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 is every network interface."""
    port: int = 8080
    """Port to serve at; 0 takes a free one and prints it."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must lie between 0 and {2**16 - 1}, got {self.port}")
