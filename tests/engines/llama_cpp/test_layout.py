from __future__ import annotations

import itertools

import pytest

from local_worker.engines.llama_cpp.layout import (
    ENOUGH,
    LATEST,
    MOVABLE,
    SOON,
    Job,
    Layout,
    LayoutChooser,
    advantage,
)
from local_worker.engines.llama_cpp.sequence import CachedSequence
from local_worker.types import GenerationRequest

SYSTEM = tuple(range(100))
_own = itertools.count(1000, 1000)


def job(own=50, *, shares=(), max_tokens=20, salt=""):
    start = next(_own)
    ids = (*shares, *range(start, start + own))
    return CachedSequence(GenerationRequest("r", ids, max_tokens, cache_salt=salt), 0.0)


def chooser(*jobs, together=32, layout=Layout.UNIFIED, slots=32, cells=32 * 256, fixed=False):
    found = LayoutChooser(layout, slots, cells, fixed=fixed)
    for one in jobs:
        found.observe(one, together)
    return found


UNLIKE = [job() for _ in range(ENOUGH)]
ALIKE = [job(shares=SYSTEM) for _ in range(ENOUGH)]


def test_many_prompts_that_share_nothing_get_cells_of_their_own():
    assert chooser(*UNLIKE).wanted([]) is Layout.SEPARATE


@pytest.mark.parametrize(
    "found",
    [
        chooser(*ALIKE),
        chooser(*UNLIKE[:-1]),
        chooser(*UNLIKE, together=4),
        chooser(*UNLIKE, slots=4),
        chooser(*UNLIKE, fixed=True),
    ],
    ids=["alike", "too early", "few", "few slots", "fixed"],
)
def test_else_they_share_cells(found):
    assert found.wanted([]) is Layout.UNIFIED


def test_prompts_of_different_tenants_share_nothing():
    salted = [job(shares=SYSTEM, salt=str(n)) for n in range(ENOUGH)]
    assert chooser(*salted).wanted([]) is Layout.SEPARATE


def test_a_request_too_long_for_cells_of_its_own_brings_them_together_again():
    found = chooser(*UNLIKE, layout=Layout.SEPARATE)
    assert found.wanted([job(), job(200, max_tokens=56)]) is Layout.SEPARATE
    long = job(200, max_tokens=57)
    assert found.wanted([job(), long]) is Layout.UNIFIED
    running = [job(5, max_tokens=SOON * 10)]
    assert found.drains(running, [long])  # it cannot be admitted anyway
    assert not found.drains(running, [job(), long])  # but who comes before it can


def test_so_do_prompts_that_begin_to_share():
    found = chooser(*UNLIKE, layout=Layout.SEPARATE)
    for one in (*ALIKE, *ALIKE)[:LATEST]:
        found.observe(one, 32)
    assert found.wanted([]) is Layout.UNIFIED


def test_a_change_back_takes_as_many_prompts_again():
    found = chooser(*UNLIKE, layout=Layout.SEPARATE)
    found.changed(Layout.UNIFIED)
    for _ in range(ENOUGH - 1):
        found.observe(job(), 32)
    assert found.wanted([]) is Layout.UNIFIED
    found.observe(job(), 32)
    assert found.wanted([]) is Layout.SEPARATE


@pytest.mark.parametrize(
    ("job", "saves"),
    [
        (Job(shared=20, own=80, output=64, together=8), True),
        (Job(shared=20, own=80, output=64, together=2), False),
        (Job(shared=520, own=20, output=32, together=16), False),
        (Job(shared=100, own=80, output=200, together=8), True),
        (Job(shared=100, own=80, output=64, together=8), False),
        (Job(shared=0, own=1, output=1, together=0), False),
    ],
    ids=["eight chats", "two", "a system prompt", "long answers", "short ones", "nothing"],
)
def test_cells_of_their_own_pay_where_many_compute_much_that_is_theirs_alone(job, saves):
    assert (advantage(job) > 0) is saves


def test_how_long_answers_are_is_seen_when_they_end():
    jobs = [job(80, shares=SYSTEM, max_tokens=1000) for _ in range(ENOUGH)]
    found = chooser(*jobs, together=8, cells=8 * 2048, slots=8)
    assert found.wanted([]) is Layout.UNIFIED
    for one in jobs:
        one.token_ids += range(400)
        found.ended(one)
    assert found.wanted([]) is Layout.SEPARATE


def test_those_that_were_given_up_say_nothing_about_answers():
    found = chooser(*UNLIKE)
    for one in UNLIKE:
        found.ended(one)
    assert found.wanted([]) is Layout.SEPARATE


def test_a_layout_that_costs_little_stays():
    """Between what is worth a change to it and what is worth one back."""
    even = [job(80, shares=SYSTEM[:30], max_tokens=64) for _ in range(ENOUGH)]
    for layout in Layout:
        assert chooser(*even, together=8, layout=layout, cells=32 * 512).wanted([]) is layout


def test_a_burst_counts_as_many_as_there_are_slots():
    found = chooser(*(job(80, max_tokens=64) for _ in range(9)), together=1, slots=8, cells=4096)
    for _ in range(3):
        found.observe(job(80, max_tokens=64), 60)
    assert found.wanted([]) is Layout.UNIFIED


def test_a_prompt_to_pin_brings_them_together():
    found = chooser(*UNLIKE, layout=Layout.SEPARATE)
    pin = CachedSequence(GenerationRequest("p", SYSTEM, 1, pinned=True), 0.0)
    assert found.wanted([pin]) is Layout.UNIFIED


def test_a_few_that_share_change_nothing():
    found = chooser(*UNLIKE, layout=Layout.SEPARATE)
    for one in ALIKE[:3]:
        found.observe(one, 32)
    assert found.wanted([]) is Layout.SEPARATE


def test_it_waits_only_for_those_that_are_done_soon():
    found = chooser(*UNLIKE)
    assert found.drains([], [])
    assert found.drains([job(50, max_tokens=SOON - 50)], [])
    assert not found.drains([job(50, max_tokens=SOON)], [])
    assert not chooser(*ALIKE).drains([], [])


def test_too_few_cells_to_give_each_its_own():
    assert chooser(*UNLIKE, cells=32 * 255).wanted([job()]) is Layout.UNIFIED


def test_what_runs_is_moved_unless_it_is_much_or_too_long():
    found = chooser(*UNLIKE)
    one, other = job(50), job(50)
    assert found.can_move([])
    one.num_computed_tokens = other.num_computed_tokens = MOVABLE // 2
    assert found.can_move([one, other])
    other.num_computed_tokens += 1
    assert not found.can_move([one, other])
    assert not found.can_move([job(50, max_tokens=100_000)]), "more than cells of its own"
    found.changed(Layout.SEPARATE)
    assert found.can_move([job(50, max_tokens=100_000)])
