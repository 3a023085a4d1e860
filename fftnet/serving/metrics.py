"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; the engine and the application write them, ``/metrics`` shows them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "fftnet_requests", "Requests answered, by path and status.", ["path", "status"], registry=registry
        )
        self.hang_ups = Counter(
            "fftnet_hang_ups", "Requests whose client left before the end.", registry=registry
        )
        self.prompt_tokens = Counter(
            "fftnet_prompt_tokens", "Tokens of the prompts that were begun.", registry=registry
        )
        self.read_tokens = Counter(
            "fftnet_read_tokens", "Tokens of prompts that the model has read.", registry=registry
        )
        self.cached_tokens = Counter(
            "fftnet_cached_tokens", "Tokens of prompts behind which a state was there.", registry=registry
        )
        self.written_tokens = Counter("fftnet_written_tokens", "Tokens written.", registry=registry)
        self.cache_hits = Counter(
            "fftnet_cache_hits", "Prompts that went on from a state.", registry=registry
        )
        self.cache_misses = Counter(
            "fftnet_cache_misses", "Prompts that were read from their first token.", registry=registry
        )
        self.cache_bytes = Gauge("fftnet_cache_bytes", "Memory of the states kept.", registry=registry)
        self.cache_states = Gauge("fftnet_cache_states", "States kept.", registry=registry)
        self.waiting = Gauge("fftnet_waiting", "Prompts that wait for their turn.", registry=registry)
        self.reading = Gauge("fftnet_reading", "Prompts that are being read.", registry=registry)
        self.writing = Gauge("fftnet_writing", "Replies that are being written.", registry=registry)
        self.step_rows = Histogram(
            "fftnet_step_rows", "Replies in a decode step.", buckets=ROWS, registry=registry
        )
        self.first_seconds = Histogram(
            "fftnet_first_token_seconds",
            "Time from a request to the first token of a reply.",
            buckets=SECONDS,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "fftnet_request_seconds",
            "Time from a request to its last token.",
            buckets=SECONDS,
            registry=registry,
        )

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self._registry)
