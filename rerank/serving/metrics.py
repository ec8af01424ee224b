"""What a server counts, as Prometheus reads it: one registry for each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from ranklens.rerank.serving.jobs import Answer

if TYPE_CHECKING:
    from ranklens.rerank.kv.cache import DocumentCache

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_JOBS = (1, 2, 4, 8, 16, 32)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server.

    ranklens_requests_total{path,status}   answered; path "other" stands for unknown ones
    ranklens_request_seconds{path}         from the first byte read to the answer
    ranklens_rejected_total{reason}        overload, too_large, unauthorised, unavailable
    ranklens_gone_total                    requests whose client left before the answer
    ranklens_waiting                       requests accepted and not begun
    ranklens_held_bytes                    bodies in memory
    ranklens_pass_requests                 requests that shared a forward pass
    ranklens_documents_total, ranklens_tokens_total       ranked; tokens without those cut
    ranklens_tokens_cut_total, ranklens_documents_cut_total
    ranklens_kept_documents_total{source}  memory, disk, computed: of the cache of documents
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "ranklens_requests", "Requests answered.", ["path", "status"], registry=r
        )
        self.seconds = Histogram(
            "ranklens_request_seconds",
            "Seconds to the answer.",
            ["path"],
            buckets=_SECONDS,
            registry=r,
        )
        self.rejected = Counter(
            "ranklens_rejected", "Requests turned away.", ["reason"], registry=r
        )
        self.gone = Counter("ranklens_gone", "Clients that left before the answer.", registry=r)
        self.waiting = Gauge("ranklens_waiting", "Requests accepted, not begun.", registry=r)
        self.held_bytes = Gauge("ranklens_held_bytes", "Bytes of bodies in memory.", registry=r)
        self.passes = Histogram(
            "ranklens_pass_requests", "Requests in a forward pass.", buckets=_JOBS, registry=r
        )
        self.documents = Counter("ranklens_documents", "Documents ranked.", registry=r)
        self.tokens = Counter("ranklens_tokens", "Tokens ranked.", registry=r)
        self.tokens_cut = Counter("ranklens_tokens_cut", "Tokens not read.", registry=r)
        self.documents_cut = Counter("ranklens_documents_cut", "Documents shortened.", registry=r)

    def answered(self, documents: int, answer: Answer) -> None:
        """Count an answer."""
        self.documents.inc(documents)
        self.tokens.inc(answer.tokens)
        self.tokens_cut.inc(answer.tokens_cut)
        self.documents_cut.inc(answer.documents_cut)

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        """Show the length of a line when asked."""
        self.waiting.set_function(waiting)

    def watch_cache(self, cache: DocumentCache) -> None:
        """Show the counts of a cache of documents when asked."""
        self.registry.register(_CacheCounts(cache))

    def page(self) -> bytes:
        """Return all as Prometheus's text format."""
        return generate_latest(self.registry)


class _CacheCounts(Collector):
    def __init__(self, cache: DocumentCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "ranklens_kept_documents", "Documents by where they came from.", labels=["source"]
        )
        for source in ("memory", "disk", "computed"):
            family.add_metric([source], getattr(self._cache.counts, source))
        yield family
