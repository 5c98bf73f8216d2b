from __future__ import annotations

import math

import pytest

from local_worker.bench.scenario import Goal
from local_worker.bench.stats import Timed, percentile, ratio, summarise


def timed(sent, *chunks, tokens=None, cached=0):
    return Timed(sent, chunks, tokens or len(chunks), 10, cached)


def test_percentiles_are_values_that_were_seen():
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([3.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_a_run_in_figures():
    requests = [timed(0.0, 1.0, 1.5, 2.0), timed(0.0, 3.0, 3.5, 4.0, cached=6)]
    found = summarise(requests, seconds=4.0)
    assert (found.tokens_per_s, found.requests_per_s) == (1.5, 0.5)
    assert (found.ttft_p50, found.ttft_p99) == (1.0, 3.0)
    assert (found.itl_p50, found.itl_p99) == (0.5, 0.5)
    assert (found.e2e_p50, found.e2e_p99) == (2.0, 4.0)
    assert (found.prompt_tokens, found.cached_tokens) == (20, 6)
    assert (found.goodput, found.beside) == (None, None)


def test_tokens_are_those_the_server_counts():
    assert summarise([timed(0.0, 1.0, tokens=7)], seconds=1.0).tokens_per_s == 7


def test_goodput_counts_who_met_the_goal():
    requests = [timed(0.0, 0.5, 0.6), timed(0.0, 2.0, 2.1), timed(0.0, 0.5, 1.6)]
    assert summarise(requests, 2.0, Goal(ttft=1.0, itl=0.2)).goodput == 0.5


def test_gaps_beside_a_long_prompt_stand_apart():
    streams = [timed(0.0, 1.0, 1.1, 1.2, 2.2, 3.4, 3.5)]
    found = summarise(streams, 4.0, intruder=timed(1.25, 3.4))
    assert found.beside == pytest.approx(1.2)
    assert found.itl_p99 == pytest.approx(0.1)


def test_ratios_are_of_pairs():
    found = ratio([2.0, 3.0, 4.0], [1.0, 2.0, 2.0])
    assert (found.median, found.lowest, found.highest) == (2.0, 1.5, 2.0)
    assert not found.is_noisy
    assert ratio([1.0, 2.0], [1.0, 1.0]).is_noisy
