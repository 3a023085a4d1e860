"""A page over HTTP, from the standard library: for a look at it, not for the world."""

import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

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


class _Handler(SimpleHTTPRequestHandler):
    # What the system says of file names differs, and a browser insists on these.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".svg": "image/svg+xml",
    }

    def end_headers(self) -> None:
        """Have the browser ask again, since the page may have been made anew."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page is dozens of requests."""
