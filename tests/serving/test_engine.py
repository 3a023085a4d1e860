"""The engine without HTTP, in float64: replies as from ``generate``, cached states, stops, cancellation."""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from conftest import randomise
from sites import TOKENIZER

from fftnet.api.generate import SamplingConfig, generate
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serving import batch as batch_module
from fftnet.serving.answers import CompletionAnswer
from fftnet.serving.config import ServeConfig
from fftnet.serving.engine import Engine
from fftnet.serving.jobs import Job, Piece, Refusal, Reply, final_length
from fftnet.serving.metrics import Metrics
from fftnet.serving.prefix_cache import Prefix, PrefixCache
from fftnet.utils.tokenizer import load_tokenizer


def make_model(**fields: Any) -> FFTNet:
    sizes: dict[str, Any] = {"d_model": 16, "num_layers": 2, "vocab_size": TOKENIZER.vocab_size}
    torch.manual_seed(7)
    return randomise(FFTNet(FFTNetConfig(**(sizes | fields))), 0.1)


@pytest.fixture(scope="module", params=[(), ("addressed_spectral", "attention")])
def model(request: pytest.FixtureRequest) -> FFTNet:
    return make_model(mixers=request.param)


class Desk:
    """An engine without a server."""

    def __init__(self, model: FFTNet, **fields: Any) -> None:
        self.metrics = Metrics()
        self.engine = Engine(model, TOKENIZER, ServeConfig(**fields), self.metrics)
        self.engine.start()

    def job(self, prompt: Sequence[int], **fields: Any) -> tuple[Job, "queue.Queue[Piece | Refusal]"]:
        pieces: queue.Queue[Piece | Refusal] = queue.Queue()
        names = ("choices", "stops", "deadline", "top_logprobs")
        own = {name: fields.pop(name) for name in names if name in fields}
        return Job(prompt=prompt, sampling=SamplingConfig(**fields), emit=pieces.put, **own), pieces

    def value(self, name: str) -> float:
        return self.metrics._registry.get_sample_value(f"fftnet_{name}") or 0.0

    def ask(self, prompt: Sequence[int], **fields: Any) -> dict[int, str]:
        job, pieces = self.job(prompt, **fields)
        self.engine.submit([job])
        return texts(job, pieces)


def texts(job: Job, pieces: "queue.Queue[Piece | Refusal]") -> dict[int, str]:
    """Wait for the replies of a job."""
    found = dict.fromkeys(job.choices, "")
    left = len(found)
    while left:
        piece = pieces.get(timeout=60)
        if isinstance(piece, Refusal):
            raise piece
        found[piece.choice] += piece.text
        left -= piece.finish is not None
    return found


@pytest.fixture
def desks() -> Iterator[Any]:
    opened: list[Desk] = []

    def start(model: FFTNet, **fields: Any) -> Desk:
        opened.append(Desk(model, **fields))
        return opened[-1]

    yield start
    for desk in opened:
        desk.engine.drain()
        desk.engine.thread.join()


def ids(text: str) -> list[int]:
    return [TOKENIZER.eot, *TOKENIZER.encode(text)]


def alone(model: FFTNet, prompt: Sequence[int], **fields: Any) -> str:
    return generate(model, [prompt], SamplingConfig(**fields), tokenizer=TOKENIZER).texts[0]


def test_a_reply_in_a_batch_is_that_of_generate(model: FFTNet, desks: Any) -> None:
    desk = desks(model, max_rows=7)
    wanted: list[dict[str, Any]] = [
        {"temperature": (0.0, 0.7, 1.3)[n % 3], "top_k": (None, 9)[n % 2], "top_p": (1.0, 0.6)[n // 6 % 2]}
        for n in range(24)
    ]
    jobs = []
    for n, fields in enumerate(wanted):
        jobs.append(desk.job(ids("x" * (7 * n % 31)), seed=n, max_new_tokens=3 + 5 * n % 29, **fields))
        desk.engine.submit([jobs[-1][0]])
    for job, pieces in jobs:
        reply = generate(model, [job.prompt], job.sampling, tokenizer=TOKENIZER).texts[0]
        assert texts(job, pieces) == {0: reply}
    # Each continues from the cached state of its own row.
    read = desk.value("read_tokens_total")
    for job, _ in jobs[4:12]:
        written = generate(model, [job.prompt], job.sampling, stop=TOKENIZER.eot).tokens[0]
        more = [*job.prompt, *written, 65]
        assert desk.ask(more, max_new_tokens=4)[0] == alone(model, more, max_new_tokens=4)
    assert desk.value("read_tokens_total") <= read + 2 * 8
    assert desk.value("step_rows_sum") > 2 * desk.value("step_rows_count")


def test_a_long_prompt_is_read_in_pieces_while_others_write(
    model: FFTNet, desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "PIECE", 128)
    desk = desks(model)
    short, pieces = desk.job(ids("a"), max_new_tokens=40, temperature=0.0)
    long_prompt = ids("The owl sings. " * 100)
    long, long_pieces = desk.job(long_prompt, max_new_tokens=5, seed=3)
    desk.engine.submit([short])
    desk.engine.submit([long])
    texts(short, pieces)
    assert texts(long, long_pieces) == {0: alone(model, long_prompt, max_new_tokens=5, seed=3)}
    assert desk.value("first_token_seconds_count") == 2
    assert desk.value("read_tokens_total") == len(long_prompt) + 2
    # Its beginning is cached, up to the last whole piece that another text shares.
    other = [*long_prompt[:1000], 0, 1, 2]
    assert desk.ask(other, seed=4, max_new_tokens=5) == {0: alone(model, other, seed=4, max_new_tokens=5)}
    assert desk.value("cached_tokens_total") == 896


@pytest.mark.parametrize(
    ("length", "ends"), [(1, [1]), (512, [512]), (575, [575]), (576, [512, 576]), (1080, [512, 1080])]
)
def test_pieces_end_at_multiples_and_none_is_tiny(length: int, ends: list[int]) -> None:
    found = [0]
    while found[-1] < length:
        found.append(batch_module._piece_end(found[-1], length))
    assert found[1:] == ends


def test_a_conversation_reads_only_its_new_tokens(model: FFTNet, desks: Any) -> None:
    desk = desks(model)
    first = prompt = ids("user:\nHello\n\nassistant:\n")
    fields: dict[str, Any] = {"seed": 1, "max_new_tokens": 12}
    read = known = 0
    for _ in range(3):
        assert desk.ask(prompt, **fields)[0] == alone(model, prompt, **fields)
        read += len(prompt) - known
        assert desk.value("read_tokens_total") == read
        written = generate(model, [prompt], SamplingConfig(**fields), stop=TOKENIZER.eot).tokens[0]
        # The last token that was drawn has not been read, whether text or end of text.
        known = len(prompt) + min(len(written), 11)
        prompt = [*prompt, *written, *TOKENIZER.encode("\n\nuser:\nMore\n\nassistant:\n")]
    # The same prompt again is not read at all.
    assert desk.ask(first, **fields)[0] == alone(model, first, **fields)
    assert desk.value("read_tokens_total") == read


def test_without_memory_for_states_replies_are_the_same(model: FFTNet, desks: Any) -> None:
    desk = desks(model, cache_bytes=0)
    for _ in range(2):
        assert desk.ask(ids("ab"), max_new_tokens=5)[0] == alone(model, ids("ab"), max_new_tokens=5)
    assert desk.value("read_tokens_total") == 6
    assert desk.value("cache_states") == 0


def test_the_cache_drops_the_least_recently_used_states() -> None:
    model = make_model()
    state = model.init_state(1)
    size = Prefix(1, state).num_bytes
    cache = PrefixCache(3 * size + 1)
    for number in range(3):
        cache.put([number], Prefix(1, state))
    assert cache.longest([0, 9]) is not None
    cache.put([3, 3], Prefix(2, state))
    assert (len(cache), cache.num_bytes) == (3, 3 * size)
    assert cache.longest([1, 9]) is None
    found = [cache.longest([number, number, 9]) for number in (0, 2, 3)]
    assert [prefix.length for prefix in found if prefix is not None] == [1, 1, 2]
    # A whole text needs logits: the state alone does not give the next token.
    assert cache.longest([0]) is None
    cache.put([0], Prefix(1, state, torch.zeros(1, 5)))
    assert cache.longest([0]) is not None
    assert cache.num_bytes <= cache.max_bytes


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], ("one ", True)),
        ("aab aaab", ["aaab"], ("aab ", True)),
        ("abcabd", ["abd", "xx"], ("abc", True)),
        ("one tw", ["two"], ("one tw", False)),
        ("plain", [], ("plain", False)),
    ],
)
def test_text_ends_before_a_stop_in_pieces_of_any_size(
    size: int, text: str, stops: list[str], expected: tuple[str, bool]
) -> None:
    final = held = ""
    stopped = False
    for start in range(0, len(text), size):
        held += text[start : start + size]
        length, stopped = final_length(held, stops)
        final += held[:length]
        held = held[length:]
        assert not any(stop in final for stop in stops)
        if stopped:
            break
    assert (final if stopped else final + held, stopped) == expected


def test_overdue_jobs_end_with_a_sentence_waiting_or_writing(desks: Any) -> None:
    desk = desks(make_model(), max_rows=1)
    # The model does not write the end-of-text token: these texts do not end before.
    soon = time.monotonic() + 0.3
    jobs = [desk.job(ids("a"), max_new_tokens=10**6, temperature=0.0, deadline=soon) for _ in range(2)]
    for job, _ in jobs:
        desk.engine.submit([job])
    for job, pieces in jobs:
        with pytest.raises(Refusal, match="the request took longer than 300 seconds: ask for fewer"):
            texts(job, pieces)
    assert len(desk.ask(ids("a"), max_new_tokens=2)) == 1


GUILTY = 0.123
"""Temperature of the job that fails."""


def failing(function: Callable[..., Any], guilty: Callable[..., bool]) -> Callable[..., Any]:
    def call(*args: Any, **fields: Any) -> Any:
        if guilty(*args):
            raise RuntimeError("in a test")
        return function(*args, **fields)

    return call


def fail(patch: pytest.MonkeyPatch, model: FFTNet, place: str) -> None:
    """Let the guilty job fail in one place; only this job has token 7."""
    draw = batch_module.sample

    def sample(logits: torch.Tensor, config: SamplingConfig, generators: Any) -> torch.Tensor:
        if place == "sampling" and config.temperature == GUILTY:
            raise RuntimeError("in a test")
        drawn = draw(logits, config, generators)
        return torch.full_like(drawn, 7) if config.temperature == GUILTY else drawn.where(drawn != 7, 8)

    patch.setattr(batch_module, "sample", sample)
    if place in ("prefill", "step"):
        run = failing(getattr(model, place), lambda tokens, *_: 7 in tokens)
        patch.setattr(model, place, run)
    elif place == "decoding":
        take = failing(Reply.take, lambda reply, *_: reply.job.sampling.temperature == GUILTY)
        patch.setattr(Reply, "take", take)


@pytest.mark.parametrize("place", ["prefill", "sampling", "step", "decoding", "sending"])
def test_a_failure_inside_one_request_ends_this_request_only(
    place: str, desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    fields: list[dict[str, Any]] = [
        {"seed": n, "max_new_tokens": 30, "top_k": 4 * (n % 2) or None} for n in range(4)
    ]
    expected = [alone(model, ids("ab"), **own) for own in fields]
    assert "\7" not in "".join(expected)
    desk = desks(model)
    others = [desk.job(ids("ab"), **own) for own in fields]
    bad, pieces = desk.job(ids("\7"), temperature=GUILTY, max_new_tokens=50, choices=range(2))
    if place == "sending":

        def emit(piece: Piece | Refusal) -> None:
            pieces.put(piece)
            raise RuntimeError("emit")

        bad.emit = emit
    fail(monkeypatch, model, place)
    # All join in one step: the guilty rows are between the others.
    desk.engine.submit([*[job for job, _ in others[:2]], bad, *[job for job, _ in others[2:]]])
    with pytest.raises(Refusal, match=r"the model failed \(RuntimeError\): see the server's log"):
        texts(bad, pieces)
    assert [texts(*job)[0] for job in others] == expected
    assert desk.ask(ids("ab"), **fields[1])[0] == expected[1]


@pytest.mark.parametrize("extreme", [{"temperature": 1e-40}, {"temperature": 1e-300}, {"top_p": 1e-300}])
def test_extreme_sampling_is_greedy_and_disturbs_nobody(desks: Any, extreme: dict[str, float]) -> None:
    model = make_model()
    desk = desks(model)
    greedy = alone(model, ids("ab"), temperature=0.0, max_new_tokens=20)
    jobs = [
        desk.job(ids("ab"), max_new_tokens=20, top_logprobs=3, **extreme),
        desk.job(ids("cd"), seed=2, max_new_tokens=20),
    ]
    desk.engine.submit([job for job, _ in jobs])
    assert texts(*jobs[0])[0] == greedy
    assert texts(*jobs[1])[0] == alone(model, ids("cd"), seed=2, max_new_tokens=20)


@pytest.mark.parametrize("stops", [(), ("zz",)])
def test_offsets_count_characters_whole_and_streamed(stops: tuple[str, ...]) -> None:
    job = Job(prompt=[1], sampling=SamplingConfig(), emit=print, stops=stops, top_logprobs=1)
    reply = Reply(job, 0, TOKENIZER, torch.device("cpu"))
    tokens = [*"aé漢z🙂b".encode(), 0xE2, *b"cz", TOKENIZER.eot]
    pieces = [reply.take(token, torch.zeros(TOKENIZER.vocab_size)) for token in tokens]
    expected = [0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8]
    answer = CompletionAnswer("m", TOKENIZER, [job])
    sent = [piece for piece in pieces if piece is not None]
    chunks = [answer.chunk(piece)["choices"][0] for piece in sent]
    streamed = [offset for chunk in chunks for offset in chunk["logprobs"]["text_offset"]]
    (choice,) = answer.body(sent)["choices"]
    assert choice["text"] == "aé漢z🙂b\N{REPLACEMENT CHARACTER}cz"
    assert choice["logprobs"]["text_offset"] == streamed == expected


def test_damaged_weights_end_in_a_sentence(desks: Any) -> None:
    model = make_model()
    with torch.no_grad():
        model.embedding.weight[7] = float("nan")
    with pytest.raises(Refusal, match="the logits are not finite: the model's weights are damaged"):
        desks(model).ask(ids("a"), max_new_tokens=5)


def test_the_ids_of_a_chat_begin_with_those_of_the_chat_before() -> None:
    tokenizer = load_tokenizer("bpe", corpus=["user:\n ab ab!\n\nassistant:\n" * 20], vocab_size=280)
    config = ServeConfig(chat_template="{role}: {content}\\n")
    messages = [("user", "Ab ab"), ("assistant", "!ab ab ab"), ("user", " ab?")]

    def encoded(count: int) -> list[int]:
        return [token for part in config.chat_parts(messages[:count]) for token in tokenizer.encode(part)]

    assert tokenizer.decode(encoded(3)) == "user: Ab ab\nassistant: !ab ab ab\nuser:  ab?\nassistant: "
    assert encoded(3)[: len(encoded(1))] == encoded(1)
    assert config.chat_stop == "\nuser: "


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"max_queue": -1}, "max_queue must be 0 or more, got -1"),
        ({"max_seconds": float("nan")}, "max_seconds must be a finite number, got nan"),
        ({"request_seconds": 0.0}, "request_seconds must be above 0, got 0.0"),
        ({"port": 65536}, "port must be at most 65535, got 65536"),
        ({"name": ""}, "name must not be empty"),
        ({"api_key": ""}, "api_key must be printable ASCII characters without spaces, at least one"),
        ({"chat_template": "hello"}, r"chat_template must hold \{content\} once, .* got 'hello'"),
        ({"chat_template": "{content}\n"}, r"chat_template must hold \{content\} once, and something before"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ServeConfig(**fields)
