"""HTTP server of the page on the loopback, from the standard library."""

import os
import socket
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from fftnet.demo.config import DemoConfig, DemoError


class PageServer(ThreadingHTTPServer):
    """Server that listens from the start; ``serve_forever`` answers. The folder may be created later."""

    daemon_threads = True

    def __init__(self, config: DemoConfig) -> None:
        # The base class takes IPv4 unless told.
        self.address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            super().__init__((config.host, config.port), partial(_Handler, directory=config.output))  # pyright: ignore
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            message = f"can't listen on port {config.port} of {config.host} ({reason}): "
            message += "choose another --port or --host, or only write the page with --no_serve"
            raise DemoError(message) from error

    @property
    def url(self) -> str:
        """Address for a browser."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}/" if ":" in str(host) else f"http://{host!s}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of an error, unless the client has left or is too slow."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    # Seconds for a client to send its request: without a timeout, half a request would hold a thread forever.
    timeout = 30
    # The system's table of types may differ, and browsers insist on these.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".svg": "image/svg+xml",
    }

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Answer 404 to invalid paths and to paths that leave the folder through a link."""
        try:
            path = Path(os.path.realpath(self.translate_path(self.path)))
            inside = path.is_relative_to(os.path.realpath(self.directory))
        except ValueError:
            # The path has a NUL byte or a lone surrogate.
            inside = False
        return super().send_head() if inside else self.send_error(404)

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """Answer 404: folders are not listed."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Let the browser ask for each file again, since the page may have changed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: a page is dozens of requests."""
