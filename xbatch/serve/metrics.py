"""What the server counts, for Prometheus and for the page.

Format: Prometheus' text exposition format.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xbatch.rows.outcome import Usage
from xbatch.rows.request import ENDPOINTS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Totals:
    """Counts since the server began."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Figures:
    """Counts of what was answered online, and other metrics, whose values are looked at when somebody asks."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.totals = Totals()
        self.registry = CollectorRegistry()
        self.requests = Counter("xbatch_requests", "HTTP requests.", ["route", "status"], registry=self.registry)
        self.tokens = Counter("xbatch_tokens", "Tokens of online answers.", ["kind"], registry=self.registry)
        self.first_token_s = Histogram(
            "xbatch_time_to_first_token_seconds", "Of streams.", buckets=_SECONDS, registry=self.registry
        )
        self.duration_s = Histogram(
            "xbatch_request_duration_seconds",
            "Time to the end of an answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def count_request(self, route: str, status: int, duration_s: float) -> None:
        """Count an HTTP request that was answered."""
        self.requests.labels(route, str(status)).inc()
        self.duration_s.labels(route).observe(duration_s)
        if route in ENDPOINTS:
            if status < 400:
                self.totals.completed += 1
            else:
                self.totals.failed += 1

    def count_tokens(self, usage: Usage) -> None:
        """Count the tokens of an answer."""
        self.totals.prompt_tokens += usage.prompt_tokens
        self.totals.completion_tokens += usage.completion_tokens
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)

    def gauge(self, name: str, text: str, label: str, look: Callable[[], dict[str, float]]) -> None:
        """Add a gauge with one label; `look` gives its values by the label's."""
        self.registry.register(_Seen(GaugeMetricFamily, name, text, label, look))

    def counter(self, name: str, text: str, label: str, look: Callable[[], dict[str, float]]) -> None:
        """Add a counter with one label; `look` gives its values by the label's, and they never fall."""
        self.registry.register(_Seen(CounterMetricFamily, name, text, label, look))

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


_Family: TypeAlias = type[GaugeMetricFamily] | type[CounterMetricFamily]


class _Seen(Collector):
    """A metric whose values are looked at when somebody asks."""

    def __init__(self, family: _Family, name: str, text: str, label: str, look: Callable[[], dict[str, float]]) -> None:
        self._make = partial(family, name, text, labels=[label])
        self._look = look

    def describe(self) -> Iterator[Metric]:
        yield self._make()

    def collect(self) -> Iterator[Metric]:
        family = self._make()
        for label, value in self._look().items():
            family.add_metric([label], value)
        yield family
