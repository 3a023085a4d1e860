"""A page over HTTP, from the standard library: for a look at it, not for the world."""

import os
import socket
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, BinaryIO

from fftnet.demo.config import DemoConfig
from fftnet.demo.errors import DemoError


class PageServer(ThreadingHTTPServer):
    """Listens from the start; ``serve_forever`` answers.

    Args:
        config: address, and the folder that is served, which may be made later.

    Raises:
        DemoError: if the address can't be had.
    """

    daemon_threads = True

    def __init__(self, config: DemoConfig) -> None:
        try:
            found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
            self.address_family, _, _, _, address = found[0]
            super().__init__(address[:2], partial(_Handler, directory=config.output))  # pyright: ignore
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DemoError(
                f"port {config.port} of {config.host} can't be listened at ({reason}): choose another --port "
                "or --host, or leave it at the folder with --no_serve"
            ) from error

    @property
    def url(self) -> str:
        """Address for a browser."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}/" if ":" in str(host) else f"http://{host!s}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a failure, but not of a client that has left or is too slow."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    timeout = 30
    """Time for a client to send its request, in seconds. Without it half a request holds a thread forever."""
    # What the system says of file names differs, and a browser insists on these.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".svg": "image/svg+xml",
    }

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Answer 404 to paths that are invalid, or that leave the folder through a link."""
        try:
            path = os.path.realpath(self.translate_path(self.path))
            folder = os.path.realpath(self.directory)
            inside = os.path.commonpath([path, folder]) == folder
        except ValueError:
            # The path holds a NUL byte or a lone surrogate.
            inside = False
        if inside:
            return super().send_head()
        self.send_error(404)
        return None

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """Answer 404: the folder is not listed."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Have the browser ask again, since the page may have been made anew."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page is dozens of requests."""
