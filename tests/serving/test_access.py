"""Attacks on a server in this process: odd bodies, raw sockets, deadlines, hosts, API keys, shutdown."""

import asyncio
import http.client
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import AuthenticationError
from sites import BODY, CHAT, ENDLESS, JSON, Site, wait_until
from starlette.responses import Response

from fftnet.cli import serve as command
from fftnet.errors import UserError
from fftnet.serving import service
from fftnet.serving.access import Gate
from fftnet.serving.config import ServeConfig
from fftnet.serving.jobs import Refusal
from fftnet.serving.metrics import Metrics
from fftnet.serving.requests import ChatRequest, CompletionRequest, parse_request

ODD: list[Any] = [None, True, -1, 0, 10**400, 1e308, 1e-320, "", "\0", "é" * 9]
ODD += [[], [[]], [None], {}, {"a": [{}]}]
"""Values of types and sizes that nobody expects."""


@pytest.fixture
def sites(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    opened: list[Site] = []

    def start(**fields: Any) -> Site:
        opened.append(Site(**fields))
        return opened[-1]

    yield start
    for site in opened:
        site.close()
    failures = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert not failures, [record.getMessage() for record in failures]


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    connection.close()
    return received


def test_no_body_ends_in_an_error_of_the_server(sites: Any) -> None:
    site = sites(max_new_tokens=4)
    fields = ("temperature", "top_p", "top_k", "n", "seed", "stop", "logprobs", "model")
    completions = [BODY | {name: value} for name in fields for value in ODD[1:7]]
    completions += [BODY | {"prompt": value} for value in ODD]
    completions += ODD[:7]
    completions += [BODY | {"temperature": value} for value in (1e-40, 1e-300, 5e-324)]
    completions += [BODY | {"top_p": 1e-300, "logprobs": 3}, b"[" * 10**5, b'{"a":' * 10**5]
    messages = [*ODD[3:], *([{"role": "user", "content": value}] for value in ODD[7:])]
    bodies = [("completions", body) for body in completions]
    bodies += [("chat/completions", CHAT | {"messages": value}) for value in messages]
    assert len(bodies) >= 95
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    for path, body in bodies:
        content = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", f"/v1/{path}", content, JSON)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status == 200:
            assert answer["choices"][0]["finish_reason"] in ("length", "stop")
        else:
            assert response.status < 500, answer
            assert set(answer["error"]) == {"message", "type", "param", "code"}
            assert "\n" not in answer["error"]["message"]
    connection.close()


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CONTENT = json.dumps(BODY).encode()
MANY = b"[" * 9000
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT
LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
RAW: dict[str, tuple[bytes, bytes]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01", b"400"),
    "NUL bytes": (b"\0" * 100 + b"\r\n\r\n", b"400"),
    "NUL in a header": (b"GET /health HTTP/1.1\r\nHost: local\0host\r\n\r\n", b"400"),
    "NUL in a path": (b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    "NUL as an escape": (LAST.replace(b"/health", b"/%00"), b"404"),
    "not UTF-8 as an escape": (LAST.replace(b"/health", b"/v1/models/%ff%fe"), b"404"),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
    "HTTP/1.0 without a host": (b"GET /health HTTP/1.0\r\n\r\n", b"403"),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", b"400"),
    "huge header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000, b"400"),
    "many headers": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 20_000, b"400"),
    "no length": (HEAD + b"Connection: close\r\n\r\n" + CONTENT, b"400"),
    "negative length": (HEAD + b"Content-Length: -5\r\n\r\n" + CONTENT, b"400"),
    "length no number": (HEAD + b"Content-Length: 0x10\r\n\r\n" + CONTENT, b"400"),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + CONTENT, b"400"),
    "length too small": (HEAD + b"Content-Length: 5\r\nConnection: close\r\n\r\n" + CONTENT, b"400"),
    "length above the limit": (HEAD + b"Connection: close\r\nContent-Length: 99999\r\n\r\n" + MANY, b"413"),
    "a bad chunk": (CHUNKED + b"zz\r\n" + CONTENT + b"\r\n0\r\n\r\n", b"400"),
    "a huge chunk size": (CHUNKED + b"f" * 40 + b"\r\n", b"400"),
    "an unknown coding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + CONTENT, b"400"),
    "an upgrade": (LAST.replace(b"close", b"Upgrade\r\nUpgrade: websocket\r\nConnection: close"), b"200"),
    "two requests at once": (WHOLE + LAST, b"200"),
    "a hundred requests at once": (LAST.replace(b"close", b"keep-alive") * 99 + LAST, b"200"),
}


def test_no_raw_request_ends_in_an_error_of_the_server(sites: Any, caplog: pytest.LogCaptureFixture) -> None:
    site = sites(max_body_bytes=5000)
    for name, (content, status) in RAW.items():
        answer = everything(site.connect(content))
        assert answer.startswith(b"HTTP/1.1 " + status), (name, answer[:200])
        if status != b"200":
            assert b'{"error":{"message":"' in answer, name
    # Bytes after the answer get no second answer.
    connection = site.connect(CHUNKED + b"1f40\r\n" + b"[" * 8000)
    assert connection.recv(9).endswith(b" ")
    connection.sendall(b"\r\nzz\r\n")
    assert b"HTTP/1.1" not in everything(connection)
    # Clients leave in the middle of a request.
    for content in (HEAD, CHUNKED + b"5\r\n{", WHOLE[:-3], WHOLE):
        for _ in range(3):
            site.connect(content).close()
    assert site.complete()[0] == 200
    assert "Traceback" not in caplog.text


def test_half_sent_requests_are_closed_and_others_served_meanwhile(sites: Any) -> None:
    site = sites(request_seconds=1.0)
    begun = time.monotonic()
    # The first one is a second request on its connection.
    held = [site.connect(LAST.replace(b"close", b"keep-alive"))]
    while b"}" not in held[0].recv(65536):
        pass
    held[0].sendall(b"POST /v1")
    for part in (b"", b"GET /hea", HEAD, WHOLE[:-1], CHUNKED + b"5\r\n{"):
        held += [site.connect(part) for _ in range(5)]
    # A byte now and then does not help.
    held.append(site.connect(b"GET / HTTP/1.1\r\nX: "))
    while time.monotonic() < begun + 0.8:
        held[-1].send(b"a")
        assert site.complete()[0] == 200
        time.sleep(0.1)
    for connection in held:
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"the request was not complete after 1 seconds" in answer
    assert time.monotonic() < begun + 10
    assert not site.servers[0].server_state.connections


def slow_reader(site: Site) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", site.port))
    return connection


def test_a_client_that_takes_no_reply_is_left(sites: Any) -> None:
    site = sites(request_seconds=1.0)
    connection = slow_reader(site)
    one = HEAD.replace(b"POST /v1/completions", b"GET /metrics") + b"\r\n"
    connection.setblocking(False)

    def closed() -> bool:
        try:
            if select.select([], [connection], [], 0.05)[1]:
                connection.send(one * 50)
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    wait_until(closed)
    connection.close()
    assert site.ask()[0] == 200


def test_a_slow_client_that_takes_its_reply_gets_all_of_it(sites: Any) -> None:
    site = sites(request_seconds=1.0, name="x" * 12_000_000)
    connection = slow_reader(site)
    connection.sendall(LAST.replace(b"/health", b"/"))
    begun = time.monotonic()
    received = 0
    while part := connection.recv(65536):
        received += len(part)
        # Reading takes two timeouts; the system's own buffers hold some megabytes.
        time.sleep(max(0.0, begun + 2.0 * received / 12_000_000 - time.monotonic()))
    connection.close()
    assert received > 12_000_000
    assert time.monotonic() > begun + 2


def test_connections_above_the_limit_are_told_to_come_back(sites: Any) -> None:
    site = sites(max_connections=3)
    held = [site.connect() for _ in range(3)]
    status, headers, answer = site.ask()
    assert (status, headers["Retry-After"]) == (503, "5")
    assert answer["error"]["message"] == "3 connections are open: try again in a few seconds"
    held.pop().close()
    wait_until(lambda: site.ask()[0] == 200)
    for connection in held:
        connection.close()


def test_the_memory_of_all_bodies_together_is_bounded(sites: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_BODIES", 2)
    site = sites(max_body_bytes=1000)
    held = [site.connect(CHUNKED + b"384\r\n" + b"[" * 900) for _ in range(2)]
    body = json.dumps(BODY | {"user": "a" * 500}).encode()
    wait_until(lambda: site.complete(body)[0] != 200)
    status, headers, answer = site.complete(body)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert answer["error"]["message"].startswith("too many large requests arrive at once")
    assert site.complete()[0] == 200
    for connection in held:
        connection.close()
    wait_until(lambda: site.complete(body)[0] == 200)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"messages": [{}%s]}' % (b",{}" * 899_999), "messages.0.role is missing"),
        (CHAT | {"messages": CHAT["messages"] * 5000}, "messages must have at most 4096 items, not 5000"),
        (CHAT | {"stop": ["a"] * 20_000}, "stop must be a text or a list of at most 4 texts"),
        (BODY | {"prompt": ["a"] * 20_000}, "20000 replies were requested, .* writes at most 64 at once"),
        (BODY | {"prompt": [[1]] * 20_000}, "20000 replies were requested"),
        (BODY | {"prompt": [None] * 20_000}, "prompt must be a text, a list of texts"),
        ({f"k{n}": 0 for n in range(20_000)}, "unknown parameter 'k0': leave it out"),
        (BODY | {"stream_options": {f"k{n}": 0 for n in range(20_000)}, "n": 0}, "n must be"),
    ],
    ids=range(8),
)
def test_a_body_with_many_mistakes_is_refused_at_the_first(body: Any, sentence: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = ChatRequest if b"messages" in content else CompletionRequest
    begun = time.process_time()
    with pytest.raises(Refusal, match=sentence):
        parse_request(kind, content, ServeConfig())
    assert time.process_time() - begun < 2.0


def test_others_are_answered_while_bodies_are_parsed(sites: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = sites()
    parse = service.parse_request
    free = threading.Event()
    parsing: list[int] = []

    def slow(*args: Any) -> Any:
        parsing.append(1)
        assert free.wait(30)
        return parse(*args)

    monkeypatch.setattr(service, "parse_request", slow)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(site.complete) for _ in range(5)]
        wait_until(lambda: len(parsing) == service.PARSERS)
        assert site.ask()[0] == 200
        assert len(parsing) == service.PARSERS
        free.set()
        assert [answer.result()[0] for answer in asked] == [200] * 5


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({}, {"Host": "localhost"}, 200),
        ({}, {"Host": "LOCALHOST:9"}, 200),
        ({}, {"Host": "[::1]:8000"}, 200),
        ({}, {"Host": "evil.example"}, 403),
        ({}, {"Host": "evil.example:8000"}, 403),
        ({}, {"Host": "localhost.evil.example"}, 403),
        ({}, {"Host": "192.168.0.9"}, 403),
        ({}, {"Host": "[::1"}, 403),
        ({}, {"Origin": "http://localhost:3000"}, 200),
        ({}, {"Origin": "http://evil.example"}, 403),
        ({}, {"Origin": "null"}, 403),
        ({}, {"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"allowed_hosts": ("Ok.example",)}, {"Host": "ok.example:80", "Origin": "https://ok.example"}, 200),
        ({"allowed_hosts": ("good.example",)}, {"Host": "evil.example"}, 403),
        ({"allowed_hosts": ("*",)}, {"Host": "evil.example", "Origin": "null"}, 200),
        ({"host": "0.0.0.0"}, {"Host": "192.168.0.9:8000"}, 200),
        ({"host": "0.0.0.0"}, {"Host": "evil.example"}, 403),
        ({"host": "0.0.0.0"}, {"Host": "192.168.0.9", "Origin": "http://192.168.0.8"}, 403),
    ],
)
def test_foreign_hosts_and_origins_are_refused(
    fields: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    assert gate_status(ServeConfig(**fields), "/v1/models", headers) == status


def gate_status(config: ServeConfig, path: str, headers: dict[str, str]) -> int:
    """Return the status that the gate gives to a request; 200 if it passes it on."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    names = {"Host": "localhost"} | headers
    given = [(name.lower().encode(), value.encode()) for name, value in names.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": given}
    asyncio.run(Gate(Response(), config, Metrics())(scope, receive, send))
    if sent[0]["status"] == 403:
        assert b"is not allowed: if it is yours, start the server with --allowed_hosts" in sent[1]["body"]
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v1/models", None, 401),
        ("/v1/models", "Bearer wrong", 401),
        ("/v1/models", "Bearer secret", 200),
        ("/v1/models", "secret", 401),
        ("/v1/completions", "Bearer secretx", 401),
        ("/metrics", None, 401),
        ("/metrics", "Bearer secret", 200),
        ("/health", None, 200),
        ("/", None, 200),
    ],
)
def test_the_key_is_asked_for(path: str, key: str | None, status: int) -> None:
    headers = {} if key is None else {"Authorization": key}
    assert gate_status(ServeConfig(api_key="secret"), path, headers) == status


def test_openais_client_sends_the_key(sites: Any) -> None:
    site = sites(api_key="secret")
    assert site.client.with_options(api_key="secret").models.list().data[0].id == "fftnet"
    with pytest.raises(AuthenticationError, match="the API key is missing or wrong") as refused:
        site.client.models.list()
    assert refused.value.code == "invalid_api_key"
    assert site.ask()[0] == 200


def test_the_key_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFTNET_API_KEY", "hidden")
    assert command._with_key(ServeConfig()).api_key == "hidden"
    assert command._with_key(ServeConfig(api_key="flag")).api_key == "flag"
    assert "hidden" not in repr(command._with_key(ServeConfig()))
    monkeypatch.setenv("FFTNET_API_KEY", "")
    assert command._with_key(ServeConfig()).api_key is None
    monkeypatch.setenv("FFTNET_API_KEY", "two words")
    with pytest.raises(UserError, match="the environment variable FFTNET_API_KEY is wrong: api_key must be"):
        command._with_key(ServeConfig())


def test_the_start_prints_commands_to_copy_and_warns_without_a_key() -> None:
    lines = list(command._greeting(ServeConfig(), "127.0.0.1", 80))
    assert lines[0] == "serving fftnet at http://127.0.0.1:80/v1 (Ctrl-C ends it)"
    beginnings = ("try: curl http://127", "  or: python -c ", "note: ")
    assert all(line.startswith(start) for line, start in zip(lines[1:], beginnings, strict=True))
    *_, last = command._greeting(ServeConfig(host="0.0.0.0"), "0.0.0.0", 80)
    assert last.startswith("warning: anyone who reaches port 80 of this machine can use it")
    text = "\n".join(command._greeting(ServeConfig(host="::", api_key="secret"), "::", 80))
    assert "http://[::1]:80/v1/completions" in text
    assert "-H 'Authorization: Bearer KEY'" in text
    assert "secret" not in text
    assert "warning" not in text


def test_only_json_is_read(sites: Any) -> None:
    site = sites()
    for given in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        status, _, answer = site.complete(**{"Content-Type": given})
        assert status == 415
        assert answer["error"]["message"].startswith(
            "the body needs the header Content-Type: application/json"
        )
    assert site.complete(**{"Content-Type": "Application/JSON; charset=utf-8"})[0] == 200
    assert site.ask("POST", "/v1/chat/completions", CHAT, **{"Content-Type": "text/plain"})[0] == 415


def test_requests_need_no_model_and_the_root_names_the_paths(sites: Any) -> None:
    site = sites(name="mine")
    assert site.complete()[2]["model"] == "mine"
    assert site.complete(BODY | {"model": None})[0] == 200
    assert site.complete(BODY | {"model": "mine"})[0] == 200
    assert site.complete(BODY | {"model": "other"})[0] == 404
    assert site.ask("POST", "/v1/chat/completions", CHAT)[2]["model"] == "mine"
    for path in ("/", "/docs"):
        status, headers, text = site.ask(path=path)
        assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert all(part in text for part in ("'mine'", "/v1/chat/completions", '"max_tokens": 100'))
    # The example on the page works.
    example = text[text.index("{") : text.index("}") + 1]
    assert site.complete(example.encode())[0] == 200


def test_new_requests_are_told_to_come_back_while_running_ones_end(sites: Any) -> None:
    site = sites(grace_seconds=60.0)
    endless = json.dumps({"prompt": "x", "max_tokens": ENDLESS, "temperature": 0}).encode()
    running = site.connect(HEAD + b"Content-Length: %d\r\n\r\n" % len(endless) + endless)
    site.wait_for("writing", 1)
    site.stop()
    status, headers, answer = site.complete()
    assert (status, headers["Retry-After"]) == (503, "5")
    assert answer["error"]["message"] == "the server is stopping: send the request again later"
    assert site.ask()[::2] == (503, {"status": "stopping"})
    half_sent = site.connect(HEAD)
    assert site.thread.is_alive()
    running.close()
    site.thread.join(20)
    assert everything(half_sent) == b""
    with pytest.raises(ConnectionRefusedError):
        site.connect()
