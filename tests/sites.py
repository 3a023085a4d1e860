"""A server of a small model in a thread, for tests."""

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from email.message import Message
from typing import Any

import pytest
import torch
from conftest import randomise
from openai import OpenAI

from fftnet.api.generate import SamplingConfig, generate
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serving import app
from fftnet.serving.config import ServeConfig
from fftnet.utils.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("bytes")
JSON = {"Content-Type": "application/json"}
BODY = {"prompt": "a", "max_tokens": 2}
CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
ENDLESS = 100_000
"""Number of new tokens of a request that does not end during a test."""


def small_model() -> FFTNet:
    """Return a model that writes ASCII and no end of text, so that texts hold all tokens."""
    torch.manual_seed(3)
    model = randomise(FFTNet(FFTNetConfig(vocab_size=TOKENIZER.vocab_size, d_model=16, num_layers=2)), 0.1)
    with torch.no_grad():
        model.embedding.weight[:128, 0] = 3
        model.embedding.weight[128:, 0] = -3
    return model


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


class Site:
    def __init__(self, **fields: Any) -> None:
        self.model = small_model()
        config = ServeConfig(**({"port": 0, "max_new_tokens": ENDLESS, "grace_seconds": 0.5} | fields))
        self.servers: list[Any] = []
        servers = self.servers

        class Server(app._Server):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                servers.append(self)

        listener = app.bind(config)
        self.port = listener.getsockname()[1]
        self.client = OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)
        ready = threading.Event()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "_Server", Server)
            arguments = (self.model, TOKENIZER, config, listener, ready.set)
            self.thread = threading.Thread(target=app.serve, args=arguments)
            self.thread.start()
            assert ready.wait(300)

    def stop(self) -> None:
        self.servers[0].handle_exit(signal.SIGTERM, None)

    def close(self) -> None:
        self.client.close()
        self.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def ask(
        self, method: str = "GET", path: str = "/health", body: Any = None, **headers: str
    ) -> tuple[int, Message, Any]:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, content, {**(JSON if content else {}), **headers})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, response.headers, json.loads(text) if is_json else text

    def complete(self, body: Any = BODY, **headers: str) -> tuple[int, Message, Any]:
        return self.ask("POST", "/v1/completions", body, **headers)

    def connect(self, content: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(content)
        return connection

    def expected(self, prompt: str, **fields: Any) -> str:
        """Return the text of ``fftnet generate``."""
        config = SamplingConfig(**({"temperature": 1.0, "max_new_tokens": 16} | fields))
        return generate(self.model, [prompt], config, tokenizer=TOKENIZER).texts[0]

    def metric(self, name: str) -> float:
        lines = self.ask(path="/metrics")[2].splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"fftnet_{name} "))

    def wait_for(self, name: str, value: float) -> None:
        wait_until(lambda: self.metric(name) == value)
