"""The metrics of both processes, as one table of Prometheus collectors. No label ever holds an address or a secret."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
"""Seconds."""

REPLIES = Counter("plunk_smtp_replies_total", "Final replies to DATA, by reply code", ["code"])
AUTH_RESULTS = Counter("plunk_smtp_auth_total", "AUTH exchanges by reply code", ["code"])
CONNECTIONS = Gauge("plunk_smtp_connections", "Open SMTP connections", multiprocess_mode="livesum")
BYTES_IN_FLIGHT = Gauge(
    "plunk_smtp_message_bytes_in_flight", "Bytes of messages held before their 250", multiprocess_mode="livesum"
)
PREFLIGHT_SECONDS = Histogram(
    "plunk_smtp_preflight_seconds", "Seconds a preflight took, retries included", buckets=LATENCY_BUCKETS
)
ACCEPT_SECONDS = Histogram(
    "plunk_smtp_accept_seconds", "Seconds from the end of data to the reply", buckets=LATENCY_BUCKETS
)
COMMIT_SECONDS = Histogram(
    "plunk_smtp_queue_commit_seconds", "Seconds one hand-over to Redis took", buckets=LATENCY_BUCKETS
)

VERDICTS = Counter("plunk_smtp_verdicts_total", "Judged API answers, by verdict", ["verdict"])
FORWARD_SECONDS = Histogram("plunk_smtp_forward_seconds", "Seconds one API call took", buckets=LATENCY_BUCKETS)
DELIVERY_SECONDS = Histogram(
    "plunk_smtp_delivery_seconds",
    "Seconds from acceptance to the API's 2xx",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400),
)


@functools.cache
def by_code(counter: Counter, code: int) -> Counter:
    """``counter`` for one reply code, of which there are few: to find it by its label costs as much as three counts."""
    return counter.labels(code=code)


QUEUE_GAUGES: Final = {
    "plunk_smtp_queue_waiting": "Messages in their lanes",
    "plunk_smtp_queue_sending": "Messages that a job has in hand",
    "plunk_smtp_queue_retries": "Messages waiting for their next attempt",
    "plunk_smtp_queue_dead": "Dead letters",
    "plunk_smtp_queue_oldest_seconds": "Age of the oldest undelivered message, in seconds",
}
"""What the forwarder's parent reads from the store whenever it is asked, beside its workers' own counts."""


class QueueCollector(Collector):
    """The queue's gauges as ``read`` finds them now: name → value. None while Redis does not answer."""

    def __init__(self, read: Callable[[], Mapping[str, float] | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in (self._read() or {}).items():
            yield GaugeMetricFamily(name, QUEUE_GAUGES[name], value=value)
