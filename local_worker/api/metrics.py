"""What Prometheus sees. A registry per app, nothing global."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from local_worker.api.choices import Choice
    from local_worker.economics.books import Books
    from local_worker.economics.ledger import Row
    from local_worker.engine import Engine
    from local_worker.reasoning.routing import Decision

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters and histograms of the API, and the engine's own gauges."""

    def __init__(self, books: Books) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(books.engine))
        self._registry.register(_BooksCollector(books))
        self._requests = self._counter("requests", "Requests ended", "finish_reason")
        self._cost = self._counter("cost", "Electricity and hardware of requests", "currency")
        books.on_row = self._booked
        self._sequences = self._counter("sequences", "Sequences ended", "finish_reason")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of finished requests")
        self._output = self._counter("output_tokens", "Output tokens of finished requests")
        self._thinking = self._counter(
            "thinking_tokens", "Sampled thinking tokens", "effort", "closed_by"
        )
        self._routed = self._counter("auto_decisions", "Efforts that auto chose", "effort", "by")
        self._router = self._counter(
            "router_tokens", "Tokens that choosing efforts and trying answers took"
        )
        self._jumped = self._counter(
            "jumped_tokens", "Output tokens that a grammar left no choice about"
        )
        self._queued = self._histogram("queue_seconds", "Arrival to first computed token")
        self._first = self._histogram("time_to_first_token_seconds", "Arrival to first token")
        self._between = self._histogram("inter_token_seconds", "Mean time between output tokens")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"local_worker_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"local_worker_{name}", text, registry=self._registry, buckets=SECONDS)

    def finished(self, choice: Choice, effort: str) -> None:
        """A sequence has ended."""
        finish = choice.ended
        self._sequences.labels(str(finish.reason)).inc()
        self._output.inc(choice.num_tokens)
        self._thinking.labels(effort, str(finish.closed_by)).inc(choice.num_reasoning_tokens)
        self._router.inc(finish.trial_tokens)
        self._jumped.inc(finish.jumped_tokens)
        self._queued.observe(finish.queued)
        self._first.observe(finish.queued + finish.prefill)
        if choice.num_tokens > 1:
            self._between.observe(finish.decode / (choice.num_tokens - 1))

    def _booked(self, row: Row) -> None:
        """A request is over, and its row is on its way to the ledger, if there is one."""
        self._requests.labels(row.finish_reason).inc()
        self._cost.labels(row.currency).inc(row.cost)

    def routed(self, decision: Decision) -> None:
        """`auto` has come to a decision."""
        self._routed.labels(decision.effort, decision.by).inc()
        self._router.inc(decision.router_tokens)

    def prompted(self, tokens: int) -> None:
        """A prompt was taken."""
        self._prompt.inc(tokens)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        gauges = {
            "running_sequences": ("Sequences being computed", stats.running),
            "waiting_sequences": ("Sequences waiting in the engine", stats.waiting),
            "kv_cells_used": ("KV cells holding tokens", stats.kv_used),
            "kv_cells": ("KV cells there are", stats.kv_capacity),
            "kv_cells_separate": (
                "1 while each sequence has KV cells of its own",
                int(stats.kv_separate),
            ),
            "engine_threads": ("Threads that compute decode steps at present", stats.threads or 0),
            "ready": ("1 while the engine takes requests", int(self._engine.ready)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"local_worker_{name}", text, value)
        counters = {
            "engine_prompt_tokens": ("Prompt tokens computed by this process", stats.prompt_tokens),
            "engine_cached_tokens": ("Prompt tokens taken from the cache", stats.cached_tokens),
            "engine_padding_rows": ("Rows added to make a step faster", stats.padding_rows),
            "engine_guessed_tokens": ("Tokens computed on a guess", stats.guessed_tokens),
            "engine_right_guesses": ("Of those, that the model then chose", stats.right_guesses),
            "engine_steps": ("Decode steps of the present engine process", stats.steps),
            "engine_restarts": ("Times the engine process was restarted", stats.restarts),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"local_worker_{name}", text, value)
        if stats.seconds is not None:
            text = "What the engine process spends its time on"
            spent = CounterMetricFamily("local_worker_engine_seconds", text, labels=["part"])
            for part, seconds in asdict(stats.seconds).items():
                spent.add_metric([part], seconds)
            yield spent


class _BooksCollector(Collector):
    def __init__(self, books: Books) -> None:
        self._books = books

    def collect(self) -> Iterable[Metric]:
        meter, ledger = self._books.meter, self._books.ledger
        totals = meter.totals
        energy = CounterMetricFamily(
            "local_worker_energy_joules", f"Energy: {self._books.source.label}", labels=["of"]
        )
        for name in ("attributed", "other", "idle"):
            energy.add_metric([name], getattr(totals, name))
        yield energy
        text = "Seconds for which no energy is known"
        yield CounterMetricFamily("local_worker_energy_unknown_seconds", text, totals.unknown)
        text = "Power while nothing is computed, as of lately"
        yield GaugeMetricFamily("local_worker_idle_watts", text, meter.idle_watts or 0.0)
        if ledger is not None:
            text = "Requests written to the ledger"
            yield CounterMetricFamily("local_worker_ledger_rows", text, ledger.written)
            text = "Processor seconds of writing the ledger"
            yield CounterMetricFamily("local_worker_ledger_seconds", text, ledger.seconds)
            text = "Requests that are not written to the ledger yet"
            yield GaugeMetricFamily("local_worker_ledger_rows_waiting", text, ledger.waiting)
            text = "Requests that the ledger lacks, since it could not be written"
            yield CounterMetricFamily("local_worker_ledger_rows_dropped", text, ledger.dropped)
