"""Load test of ``fftnet serve`` with many clients: no reply is lost or wrong, and memory does not grow.

Run ``python -m benchmarks.serving_load --clients 64 --seconds 60``. It prints its results as JSON and ends
with status 1 if a reply is lost or wrong, or memory grows.
"""

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fftnet
from fftnet.api.generate import SamplingConfig, generate
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

CACHE_BYTES = 32 * 2**20
"""Size of the prefix cache in bytes, so small that it is soon full and memory grows only by leaks."""
TIE = 1e-4
"""Relative distance of two probabilities below which round-off may change their order."""
MAX_CHECKED = 2000
"""Largest number of replies that are generated again, spread evenly over all."""


@dataclass
class Asked:
    """A request and its reply."""

    prompt: str
    seed: int
    tokens: int
    text: str = ""
    finish: str | None = None
    hung_up: bool = False
    seconds: float = 0.0


@dataclass
class Load:
    """Requests, errors and memory of a load test."""

    asked: list[Asked] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@contextmanager
def server(checkpoint: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run ``fftnet serve`` and yield its process and port."""
    flags = ["--port", "0", "--device", "cpu", "--cache_bytes", str(CACHE_BYTES)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "fftnet", "serve", checkpoint, *flags], stderr=errors
        )
    try:
        while (found := re.search(r":(\d+)/v1", log.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield process, int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def client(number: int, port: int, until: float, load: Load) -> None:
    """Send requests, streaming or not, that continue earlier replies; some clients disconnect early."""
    rng = np.random.default_rng(number)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    turn = 0
    talk = ""
    while time.monotonic() < until:
        # A new conversation after four turns; the turns between continue it and use the prefix cache.
        if turn % 4 == 0:
            talk = f"Client {number}, talk {turn}. "
        asked = Asked(talk + "x" * int(rng.integers(30)), int(rng.integers(2**31)), int(rng.integers(4, 48)))
        start = time.monotonic()
        try:
            _ask(connection, asked, stream=turn % 2 == 0, hang_up=turn % 10 == 8)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            load.errors.append(f"{type(error).__name__}: {error}")
            connection.close()
        asked.seconds = time.monotonic() - start
        load.asked.append(asked)
        talk = asked.prompt + asked.text
        turn += 1
    connection.close()


def _ask(connection: http.client.HTTPConnection, asked: Asked, stream: bool, hang_up: bool) -> None:
    body = {
        "model": "fftnet",
        "prompt": asked.prompt,
        "seed": asked.seed,
        "max_tokens": asked.tokens,
        "stream": stream,
    }
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {response.read().decode()[:200]}")
    if not stream:
        choice = json.loads(response.read())["choices"][0]
        asked.text = choice["text"]
        asked.finish = choice["finish_reason"]
        return
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        choice = json.loads(line[6:])["choices"][0]
        asked.text += choice["text"]
        asked.finish = choice["finish_reason"]
        if hang_up:
            asked.hung_up = True
            response.close()
            connection.close()
            return


def metric(port: int, name: str) -> float:
    """Return the value of a metric of the server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))


@torch.inference_mode()
def nearest_tie(model: FFTNet, prompt: Sequence[int], reply: Sequence[int], seed: int) -> float:
    """Return the smallest relative distance between the best and the second token in the draws of a reply.

    PyTorch draws the token whose probability divided by an exponential variate is largest.
    """
    generator = torch.Generator().manual_seed(seed)
    logits_1TV, state = model.prefill(torch.tensor([prompt]))
    logits_V = logits_1TV[0, -1]
    nearest = 1.0
    for token in reply:
        chances_V = logits_V.softmax(dim=-1)
        drawn = (chances_V / torch.empty_like(chances_V).exponential_(generator=generator)).topk(2)
        if int(drawn.indices[0]) != token:
            raise SystemExit("this version of PyTorch draws in another way, so ties can't be recognized")
        nearest = min(nearest, 1 - float(drawn.values[1] / drawn.values[0]))
        logits_BV, state = model.step(torch.tensor([token]), state)
        logits_V = logits_BV[0]
    return nearest


def verdicts(model: FFTNet, tokenizer: Tokenizer, asked: Sequence[Asked]) -> dict[str, int]:
    """Count the replies that equal those of ``generate``, that differ at a tie, and that are wrong."""
    counts = {"equal": 0, "tie": 0, "wrong": 0}
    for request in asked:
        config = SamplingConfig(temperature=1.0, seed=request.seed, max_new_tokens=request.tokens)
        generation = generate(model, [request.prompt], config, tokenizer=tokenizer)
        (text,) = generation.texts
        if text == request.text or (request.hung_up and text.startswith(request.text)):
            counts["equal"] += 1
            continue
        # A reply that differs is right if a draw on its way was a tie.
        prompt = [tokenizer.eot, *tokenizer.encode(request.prompt)]
        tie = nearest_tie(model, prompt, generation.tokens[0], request.seed) < TIE
        counts["tie" if tie else "wrong"] += 1
    return counts


def run_load(port: int, clients: int, seconds: float) -> Load:
    """Run all clients at once and record the server's memory every half second."""
    load = Load()
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client, args=(n, port, until, load)) for n in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory.append(metric(port, "process_resident_memory_bytes") / 2**20)
        time.sleep(0.5)
    return load


def figures(load: Load, seconds: float) -> dict[str, Any]:
    """Return rates, times and memory as JSON."""
    done = [asked for asked in load.asked if asked.finish is not None]
    times = np.array([asked.seconds for asked in done])
    # The first third fills caches; memory must not grow after it.
    third = len(load.memory) // 3
    return {
        "requests": len(load.asked),
        "replies_per_second": round(len(done) / seconds, 1),
        "seconds_median": round(float(np.median(times)), 2),
        "seconds_99th": round(float(np.quantile(times, 0.99)), 2),
        "hung_up": sum(asked.hung_up for asked in load.asked),
        "errors": load.errors[:5],
        "lost": sum(asked.finish is None and not asked.hung_up for asked in load.asked),
        "memory_mib_after_a_third": round(max(load.memory[: third + 1])),
        "memory_mib_at_the_end": round(max(load.memory[-third - 1 :])),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load test and print its results; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_load", description=__doc__)
    parser.add_argument("--checkpoint", help="default: random weights, D=128, 4 layers, bytes")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = flags.checkpoint or str(Path(folder) / "checkpoint")
        if flags.checkpoint is None:
            torch.manual_seed(0)
            tokenizer = load_tokenizer("bytes")
            FFTNet(FFTNetConfig(vocab_size=tokenizer.vocab_size)).save_pretrained(checkpoint)
            tokenizer.save(checkpoint)
        with server(checkpoint, Path(folder) / "log") as (process, port):
            load = run_load(port, flags.clients, flags.seconds)
            report = figures(load, flags.seconds)
            names = ("written_tokens_total", "read_tokens_total", "cached_tokens_total", "cache_bytes")
            report |= {name: round(metric(port, f"fftnet_{name}")) for name in names}
            steps = metric(port, "fftnet_step_rows_count")
            report["rows_a_step"] = round(metric(port, "fftnet_step_rows_sum") / max(steps, 1), 1)
            # Requests of clients that hung up end within a second.
            time.sleep(1)
            report["left_over"] = sum(metric(port, f"fftnet_{name}") for name in ("waiting", "writing"))
        report["server_status"] = process.returncode
        model, tokenizer = load_model(checkpoint)
        # After the server has ended, with the same weights in this process.
        every = max(len(load.asked) // MAX_CHECKED, 1)
        report["checked"] = verdicts(model, tokenizer, load.asked[::every])
    print(json.dumps(report, indent=2))
    grown = report["memory_mib_at_the_end"] > 1.1 * report["memory_mib_after_a_third"]
    bad = report["errors"] or report["lost"] or report["left_over"] or report["checked"]["wrong"] or grown
    return int(bool(bad))


def load_model(checkpoint: str) -> tuple[FFTNet, Tokenizer]:
    """Load the model as ``fftnet generate`` does."""
    torch.backends.mkldnn.enabled = False  # pyright: ignore[reportAttributeAccessIssue]
    return fftnet.load(checkpoint, device="cpu")


if __name__ == "__main__":
    sys.exit(main())
