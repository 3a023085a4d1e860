"""The server, asked by OpenAI's own client, and ``fftnet serve`` as a process."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families
from sites import BODY, CHAT, ENDLESS, TOKENIZER, Site, small_model, wait_until

from fftnet.api.generate import SamplingConfig, generate
from fftnet.cli.main import main
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet

IMAGE = {"role": "user", "content": [{"type": "image_url"}]}
MISTAKES: list[tuple[Any, int, str]] = [
    (b"{", 400, "the body is not JSON: EOF while parsing an object"),
    (b"\xff\xfe", 400, "the body is not JSON: "),
    (b'{"model": "fftnet", "prompt": "\\ud800"}', 400, "the body is not JSON: "),
    (b'{"prompt": "a", "temperature": NaN}', 400, "temperature must be a finite number"),
    ([1], 400, "the body must be an object"),
    ({"model": "fftnet"}, 400, "prompt is missing"),
    (BODY | {"model": "gpt-2"}, 404, "there is no model 'gpt-2' here: this server has 'fftnet'"),
    (BODY | {"prompt": 3}, 400, "prompt must be a text, a list of texts, a list of ids"),
    (BODY | {"prompt": []}, 400, "prompt must be a text, a list of texts, a list of ids"),
    (BODY | {"prompt": [[1], []]}, 400, "prompt must be a text, a list of texts, a list of ids"),
    (BODY | {"prompt": [True]}, 400, "prompt must be a text, a list of texts, a list of ids"),
    (BODY | {"prompt": [3, 257]}, 400, "id 257 in the prompt lies outside the vocabulary of 257"),
    (BODY | {"prompt": [-1]}, 400, "id -1 in the prompt lies outside the vocabulary of 257"),
    (BODY | {"prompt": "a" * 300}, 400, "the prompt has 301 tokens, and this server reads at most 300"),
    (BODY | {"prompt": "a" * 6000}, 413, "the body has more than 5000 bytes"),
    (BODY | {"max_tokens": 0}, 400, "max_tokens must be greater than or equal to 1"),
    (BODY | {"max_tokens": 10**6}, 400, "max_tokens is 1000000, and this server writes at most 100000"),
    (BODY | {"temperature": 2.5}, 400, "temperature must be less than or equal to 2"),
    (BODY | {"temperature": "hot"}, 400, "temperature must be a valid number"),
    (BODY | {"n": 9}, 400, "9 replies were requested, and this server writes at most 8 at once"),
    (BODY | {"n": True}, 400, "n must be a valid integer"),
    (BODY | {"seed": 2**63}, 400, "seed must be less than 9223372036854775808"),
    (BODY | {"stop": [""]}, 400, "stop must be a text or a list of at most 4 texts, none of them empty"),
    (BODY | {"stop": list("abcde")}, 400, "stop must be a text or a list of at most 4 texts"),
    (BODY | {"stream": "yes"}, 400, "stream must be a valid boolean"),
    (BODY | {"temprature": 1}, 400, "unknown parameter 'temprature': leave it out"),
    (BODY | {"logit_bias": {"1": 2}}, 400, "unsupported parameter logit_bias: leave it out"),
    (CHAT | {"messages": []}, 400, "messages must have at least 1 item"),
    (CHAT | {"messages": [{"role": "dog", "content": "a"}]}, 400, "messages.0.role must be 'system', "),
    (CHAT | {"messages": [{"role": "user"}]}, 400, "messages.0.content is missing"),
    (CHAT | {"messages": [IMAGE]}, 400, "messages.0.content must be a text, or a list of parts of the"),
    (CHAT | {"messages": "hello"}, 400, "messages must be a valid array"),
    (CHAT | {"tools": [{"type": "function"}]}, 400, "unsupported parameter tools: leave it out"),
]
COMMAND_MISTAKES = {
    "serve causal --port TAKEN": r"can't listen on port \d+ of 127\.0\.0\.1 \(Address already in use\)",
    "serve causal --host no.host.invalid": r"can't listen on port 8000 of no\.host\.invalid \(",
    "serve both --port 0": r"both is bidirectional and can't write; train a model with causal=True",
    "serve nowhere --port 0": r"nowhere/config\.json is missing: is nowhere a checkpoint\?",
    "serve causal --max_rows 0": r"max_rows must be at least 1, got 0",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two checkpoints: ``causal`` and ``both``, which is bidirectional."""
    folder = tmp_path_factory.mktemp("serving")
    both = FFTNet(FFTNetConfig(vocab_size=258, d_model=16, num_layers=1, max_seq_length=32, causal=False))
    for name, model in {"causal": small_model().float(), "both": both}.items():
        model.save_pretrained(folder / name)
        TOKENIZER.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    site = Site(max_prompt_tokens=300, max_rows=8, max_queue=2, max_body_bytes=5000)
    yield site
    site.close()


@pytest.fixture
def endless(server: Site) -> Iterator[Any]:
    """Streams that the test closes at its end."""
    streams: list[Any] = []

    def start(prompt: str = "x", **fields: Any) -> Any:
        stream = server.client.completions.create(
            model="fftnet", prompt=prompt, max_tokens=ENDLESS, temperature=0, stream=True, **fields
        )
        streams.append(stream)
        return stream

    yield start
    for stream in streams:
        stream.close()
    server.wait_for("writing", 0)


def complete(server: Site, prompt: Any, **fields: Any) -> Any:
    return server.client.completions.create(
        **{"model": "fftnet", "prompt": prompt, "max_tokens": 16, **fields}
    )


def streamed(stream: Any) -> tuple[str, list[Any]]:
    chunks = list(stream)
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices), chunks


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"seed": 2, "temperature": 0.5, "top_p": 0.7},
        {"temperature": 0.0},
        {"top_k": 3, "seed": 4},
    ],
)
def test_a_reply_is_that_of_generate_streamed_or_not(server: Site, fields: dict[str, Any]) -> None:
    # top_k is not in OpenAI's client.
    own: dict[str, Any] = {"extra_body": fields} if "top_k" in fields else fields
    whole = complete(server, "Once", **own)
    expected = server.expected("Once", **fields)
    assert whole.choices[0].text == expected
    assert whole.usage.prompt_tokens == 5
    stream = complete(server, "Once", stream=True, stream_options={"include_usage": True}, **own)
    text, chunks = streamed(stream)
    assert text == expected
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 16
    assert len(chunks) > 8
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "length"]


def test_many_clients_get_their_own_replies(server: Site) -> None:
    def ask(number: int) -> tuple[str, str]:
        prompt = f"{number} " * (number % 5)
        fields = {"seed": number, "max_tokens": 4 + number % 9, "stream": number % 2 == 0}
        try:
            answer = complete(server, prompt, **fields)
        except openai.RateLimitError:
            time.sleep(0.05)
            return ask(number)
        text = streamed(answer)[0] if fields["stream"] else answer.choices[0].text
        return text, server.expected(prompt, seed=number, max_new_tokens=fields["max_tokens"])

    with ThreadPoolExecutor(10) as pool:
        for text, expected in pool.map(ask, range(20)):
            assert text == expected


def test_several_prompts_and_replies_keep_their_order(server: Site) -> None:
    answer = complete(server, ["a", "b"], n=3, seed=5)
    assert [choice.index for choice in answer.choices] == list(range(6))
    expected = [server.expected("aaabbb"[n], seed=5 + n) for n in range(6)]
    assert [choice.text for choice in answer.choices] == expected
    ids = complete(server, [[256, 97], [256, 98]], seed=5)
    assert [choice.text for choice in ids.choices] == [expected[0], server.expected("b", seed=6)]
    # Without a seed, every reply is different.
    assert len({complete(server, "a").choices[0].text for _ in range(3)}) == 3


def test_text_ends_before_a_stop_sequence(server: Site) -> None:
    whole = server.expected("Once", seed=1)
    stop = whole[5:7]
    cut = whole[: whole.index(stop)]
    answer = complete(server, "Once", seed=1, stop=["never there", stop])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (cut, "stop")
    text, chunks = streamed(complete(server, "Once", seed=1, stop=stop, stream=True))
    assert (text, chunks[-1].choices[0].finish_reason) == (cut, "stop")


@torch.no_grad()
def test_log_probabilities_are_those_of_one_pass(server: Site) -> None:
    config = SamplingConfig(temperature=1.0, seed=1, max_new_tokens=6)
    written = generate(server.model, ["ab"], config, tokenizer=TOKENIZER).tokens[0]
    ids = [256, 97, 98, *written]
    scores = server.model(torch.tensor([ids]))[0, 2:-1].log_softmax(dim=-1)
    wanted = [float(row[token]) for row, token in zip(scores, written, strict=True)]
    found = complete(server, "ab", seed=1, max_tokens=6, logprobs=2).choices[0].logprobs
    assert found.token_logprobs == pytest.approx(wanted, abs=1e-4)
    assert found.tokens == [TOKENIZER.decode([token]) for token in written]
    likeliest = [max(names.values()) for names in found.top_logprobs]
    assert likeliest == pytest.approx(scores.amax(dim=-1).tolist(), abs=1e-4)
    parts = complete(server, "ab", seed=1, max_tokens=6, logprobs=0, stream=True)
    logprobs = [score for part in parts for score in part.choices[0].logprobs.token_logprobs]
    assert logprobs == pytest.approx(wanted, abs=1e-4)
    create: Any = server.client.chat.completions.create
    chat = create(model="fftnet", **CHAT, seed=1, logprobs=True, top_logprobs=2)
    content = chat.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in content] == [2] * len(content)


def test_a_chat_continues_from_its_cached_state(server: Site) -> None:
    create: Any = server.client.chat.completions.create
    messages: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    prompt = "system:\nBe kind.\n\nuser:\nWhy?\n\nassistant:\n"
    first = create(model="fftnet", messages=messages, seed=1, max_tokens=9)
    reply = first.choices[0].message.content
    assert reply == server.expected(prompt, seed=1, max_new_tokens=9)
    assert first.usage.prompt_tokens == len(prompt) + 1
    messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": "And?"}]
    second = create(model="fftnet", messages=messages, seed=2, max_tokens=9)
    prompt = f"{prompt}{reply}\n\nuser:\nAnd?\n\nassistant:\n"
    assert second.choices[0].message.content == server.expected(prompt, seed=2, max_new_tokens=9)
    # The last of the nine tokens was drawn and not read.
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens + 8
    # A stream names the role first.
    chunks = list(create(model="fftnet", messages=messages, seed=2, max_tokens=9, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == second.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_replies_of_a_client_that_hangs_up_leave_the_batch(server: Site, endless: Any) -> None:
    before = server.metric("hang_ups_total")
    staying = endless("stay")
    next(iter(staying))
    stream = endless("leave")
    next(iter(stream))
    server.wait_for("writing", 2)
    stream.close()
    server.wait_for("writing", 1)
    # The same without streaming: the client leaves before the answer begins.
    content = json.dumps(BODY | {"max_tokens": ENDLESS, "temperature": 0})
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with server.connect(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode()):
        server.wait_for("writing", 2)
    server.wait_for("writing", 1)
    assert next(iter(staying)).choices[0].finish_reason is None
    assert server.metric("hang_ups_total") == before + 2


def test_more_than_fit_wait_and_more_than_wait_are_refused(server: Site, endless: Any) -> None:
    running = endless("x", n=8)
    server.wait_for("writing", 8)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(complete, server, "a", seed=n) for n in range(2)]
        server.wait_for("waiting", 2)
        with pytest.raises(openai.RateLimitError, match="3 prompts are being served or wait") as refused:
            complete(server, "a")
        assert refused.value.response.headers["Retry-After"] == "1"
        assert refused.value.type == "rate_limit_error"
        running.close()
        for n in range(2):
            assert waiting[n].result().choices[0].text == server.expected("a", seed=n)


def test_bad_requests_end_in_a_sentence_and_disturb_nobody(server: Site, endless: Any) -> None:
    stream = iter(endless("other"))
    next(stream)
    for body, status, sentence in MISTAKES:
        chat = isinstance(body, dict) and "messages" in body
        found, headers, answer = server.ask("POST", f"/v1/{'chat/' * chat}completions", body)
        error = answer["error"]
        assert (found, error["message"][: len(sentence)]) == (status, sentence)
        assert "\n" not in error["message"]
        assert error["type"] == "invalid_request_error"
        assert headers["x-should-retry"] == "false"
    for path, status in (("/v2", 404), ("/v1/completions", 405), ("/v1/models/a", 404)):
        found, _, answer = server.ask(path=path)
        assert (found, set(answer["error"])) == (status, {"message", "type", "param", "code"})
    assert next(stream).choices[0].finish_reason is None
    with pytest.raises(openai.BadRequestError, match="the prompt has 301 tokens") as refused:
        complete(server, "a" * 300)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_models_health_and_metrics(server: Site) -> None:
    assert [model.id for model in server.client.models.list()] == ["fftnet"]
    assert server.client.models.retrieve("fftnet").id == "fftnet"
    assert server.ask()[::2] == (200, {"status": "ok"})
    text = server.ask(path="/metrics")[2]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    labels = [sample.labels for sample in families["fftnet_requests"].samples if sample.value > 0]
    assert {"path": "/health", "status": "200"} in labels
    for name in ("written_tokens_total", "first_token_seconds_count", "cache_bytes"):
        assert server.metric(name) > 0


@pytest.mark.parametrize(("line", "sentence"), COMMAND_MISTAKES.items())
def test_mistakes_on_the_command_line_end_in_a_sentence(
    folder: Path,
    line: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = shlex.split(line.replace("TAKEN", str(taken.getsockname()[1])))
        assert main(words) == 2
    assert re.fullmatch(rf"error: .*{sentence}.*\n", capsys.readouterr().err)


def test_sigterm_lets_requests_end_and_ends_the_rest_with_a_sentence(folder: Path) -> None:
    words = ["serve", "causal", "--port", "0", "--max_new_tokens", str(ENDLESS), "--grace_seconds", "1"]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "fftnet", *words], cwd=folder, stderr=file)
    try:
        wait_until(lambda: "/v1 (Ctrl-C" in log.read_text() or process.poll() is not None)
        (url,) = re.findall(r"at (http://127\.0\.0\.1:\d+/v1) ", log.read_text())
        create: Any = OpenAI(base_url=url, api_key="none", max_retries=0).completions.create
        fields = {"model": "fftnet", "prompt": "x", "max_tokens": ENDLESS, "temperature": 0}
        parts = iter(create(stream=True, **fields))
        next(parts)
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(create, **fields)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError, match="the server is stopping: send the request again later"):
                for _ in parts:
                    pass
            with pytest.raises(openai.InternalServerError, match="the server is stopping"):
                whole.result()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
