"""Prometheus metrics of the server."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest


class Metrics:
    """Metrics of one server: the engine and the application update them, ``/metrics`` shows them."""

    def __init__(self) -> None:
        # Not the global registry: tests run several servers in one process.
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.requests = counter("fftnet_requests", "Answered requests by path and status", ["path", "status"])
        self.hang_ups = counter("fftnet_hang_ups", "Requests whose client left before the end")
        self.prompt_tokens = counter("fftnet_prompt_tokens", "Tokens of all prompts")
        self.read_tokens = counter("fftnet_read_tokens", "Prompt tokens read by the model")
        self.cached_tokens = counter("fftnet_cached_tokens", "Prompt tokens covered by a cached state")
        self.written_tokens = counter("fftnet_written_tokens", "Tokens written")
        self.cache_hits = counter("fftnet_cache_hits", "Prompts continued from a cached state")
        self.cache_misses = counter("fftnet_cache_misses", "Prompts read from the first token")
        self.cache_bytes = gauge("fftnet_cache_bytes", "Memory of the cached states, bytes")
        self.cache_states = gauge("fftnet_cache_states", "Number of cached states")
        self.waiting = gauge("fftnet_waiting", "Prompts in the queue")
        self.reading = gauge("fftnet_reading", "Prompts that are being read")
        self.writing = gauge("fftnet_writing", "Replies that are being written")
        rows = [2**n for n in range(9)]
        self.step_rows = histogram("fftnet_step_rows", "Batch size of a decode step", buckets=rows)
        seconds = partial(
            histogram, buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
        )
        self.first_seconds = seconds("fftnet_first_token_seconds", "Time from a request to its first token")
        self.request_seconds = seconds("fftnet_request_seconds", "Time from a request to its last token")

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
