from __future__ import annotations

import itertools
import random

import pytest

from local_worker.engines.llama_cpp import kept, prefix_cache
from local_worker.engines.llama_cpp.filling import MULTIPLE, Beside
from local_worker.engines.llama_cpp.kept import Drop, Keep, KeptPrefixes, Load
from local_worker.engines.llama_cpp.layout import Layout, LayoutChooser
from local_worker.engines.llama_cpp.prefix_cache import Cut, Room, Share
from local_worker.engines.llama_cpp.radix import RECURRENT
from local_worker.engines.llama_cpp.scheduler import PATIENCE, Scheduler
from local_worker.engines.llama_cpp.sequence import CachedSequence, borders
from local_worker.engines.process.sequence import Status
from local_worker.types import FinishReason, GenerationRequest

SYSTEM = tuple(range(1000, 1040))
_own = itertools.count(10_000, 1000)


def sequence(
    name, prompt=10, max_tokens=5, *, shares=(), salt="", checkpoints=(), background=False,
    goes_on=False,
):  # fmt: skip
    """A prompt of that many tokens of its own, after those that it shares."""
    start = next(_own)
    ids = (*shares, *range(start, start + prompt))
    request = GenerationRequest(name, ids, max_tokens, cache_salt=salt, background=background,
                                goes_on=goes_on)  # fmt: skip
    return CachedSequence(request, 0.0, checkpoints)


def scheduler(
    *sequences,
    seqs=4,
    cells=100,
    budget=16,
    slots=4,
    window=None,
    target_itl=0.0,
    cheap=None,
    kept=None,
    layouts=None,
):
    s = Scheduler(
        Room(seqs, slots, cells, cells // 2, cheap or cells // 2, window),
        budget,
        target_itl,
        kept,
        layouts,
    )
    for one in sequences:
        s.add(one)
    return s


def step(s, now=1.0):
    """Plans a step and applies it; every chunk that samples gets a token of its own."""
    plan = s.plan(now)
    operations = list(plan.operations)
    for chunk in plan.chunks:
        s.computed(chunk)
        if chunk.samples:
            chunk.sequence.take(next(_own), b"x", ends=False, logprob=None, now=now)
            if chunk.sequence.status is Status.FINISHED:
                operations += s.remove(chunk.sequence)
    operations += s.slim() if s.has_work else slim(s)
    chunks = [
        (c.sequence.request.request_id, c.start, len(c.token_ids), c.samples) for c in plan.chunks
    ]
    return operations, chunks


def run(s):
    return step(s)[1]


def finish(s):
    while s.has_work:
        run(s)


def slim(s):
    """As the loop does when nothing runs. What was copied out of the way."""
    operations = []
    while found := s.slim():
        operations += found
    return operations


def test_a_prompt_is_cut_into_chunks_of_the_budget():
    s = scheduler(sequence("a", prompt=40))
    assert [run(s) for _ in range(4)] == [
        [("a", 0, 16, False)],
        [("a", 16, 16, False)],
        [("a", 32, 8, True)],
        [("a", 40, 1, True)],
    ]


def test_running_sequences_come_before_prompts():
    s = scheduler(sequence("a"))
    run(s)
    s.add(sequence("b", prompt=40))
    assert run(s) == [("a", 10, 1, True), ("b", 0, 15, False)]


def test_the_oldest_prompt_comes_first():
    s = scheduler(sequence("a", 12), sequence("b", 12), sequence("c", 12))
    assert run(s) == [("a", 0, 12, True), ("b", 0, 4, False)]


def test_admission_reserves_what_a_sequence_needs_at_its_longest():
    s = scheduler(sequence("a", 50, 30), sequence("b", 10, 20), sequence("c", 1, 1))
    run(s)
    assert [r.request.request_id for r in s.running] == ["a"]
    assert [w.request.request_id for w in s.waiting] == ["b", "c"]  # nobody overtakes


def test_running_sequences_are_the_other_limit():
    s = scheduler(*(sequence(str(i), 1, 1) for i in range(5)), seqs=2)
    run(s)
    assert len(s.waiting) == 3  # the two that ran have finished
    run(s)
    assert len(s.waiting) == 1


def test_a_finished_sequence_is_kept_until_its_cells_are_needed():
    s = scheduler(sequence("a", 10, 1))
    run(s)
    assert (s.running, s.cached_cells, s.has_work) == ([], 10, False)
    s.add(sequence("b", 90, 5))
    operations, _ = step(s)
    assert len(operations) == 1
    assert operations[0].length == 0  # the slot is emptied
    assert s.cached_cells == 0


def test_without_slots_for_it_nothing_is_kept():
    s = scheduler(sequence("a", 10, 1), sequence("b", 10, 1), slots=0)
    finish(s)
    assert s.cached_cells == 0


def test_a_waiting_sequence_can_be_forgotten():
    waiting = sequence("b", 90, 10)
    s = scheduler(sequence("a", 50, 30), waiting)
    run(s)
    assert s.find("b") is waiting
    waiting.end(FinishReason.ABORT, now=1.0)
    assert s.remove(waiting) == ()
    assert not s.waiting


def test_a_long_forced_stretch_leaves_everybody_a_token():
    a, b = sequence("a", 4, 40), sequence("b", 4, 40)
    s = scheduler(a, b)
    run(s)
    a.token_ids.extend(range(30))
    assert run(s) == [("a", 4, 15, False), ("b", 4, 1, True)]


def test_a_step_has_room_for_every_sequence():
    with pytest.raises(ValueError, match="one token"):
        Scheduler(Room(8, 0, 100, 0, 0), 4)


def test_a_prompt_that_begins_like_a_finished_one_computes_the_rest():
    s = scheduler(sequence("a", 4, 1, shares=SYSTEM), budget=64)
    finish(s)
    b = sequence("b", 6, shares=SYSTEM)
    s.add(b)
    operations, chunks = step(s)
    assert [(type(o), o.length) for o in operations] == [(Share, len(SYSTEM))]
    assert chunks == [("b", len(SYSTEM), 6, True)]
    assert b.num_cached_tokens == len(SYSTEM)


def test_prompts_that_come_together_compute_what_they_share_once():
    names = "abcd"
    s = scheduler(*(sequence(n, 4, 3, shares=SYSTEM) for n in names), cells=200)
    assert run(s) == [("a", 0, 16, False)]
    assert run(s) == [("a", 16, 16, False)]
    assert run(s) == [("a", 32, 12, True)]  # the first one's own tokens are in this chunk
    operations, chunks = step(s)
    assert [(o.slot != o.source, o.length) for o in operations] == [(True, len(SYSTEM))] * 3
    assert chunks == [
        ("a", 44, 1, True), ("b", 40, 4, True), ("c", 40, 4, True), ("d", 40, 4, True)
    ]  # fmt: skip


def test_the_same_prompt_again_computes_its_last_token():
    s = scheduler(sequence("a", 0, 1, shares=SYSTEM), budget=64)
    finish(s)
    s.add(sequence("b", 0, 1, shares=SYSTEM))
    assert run(s) == [("b", len(SYSTEM) - 1, 1, True)]


def test_who_waits_for_a_prefix_holds_nobody_up():
    s = scheduler(
        sequence("a", 4, shares=SYSTEM), sequence("b", 4, shares=SYSTEM), sequence("c", 2)
    )
    assert [name for name, *_ in run(s)] == ["a", "c"]
    assert [w.request.request_id for w in s.waiting] == ["b"]


def test_who_waits_for_a_prefix_whose_owner_leaves_computes_it_itself():
    a = sequence("a", 4, shares=SYSTEM)
    s = scheduler(a, sequence("b", 4, shares=SYSTEM))
    run(s)
    a.end(FinishReason.ABORT, now=1.0)
    s.remove(a)
    assert run(s) == [("b", 16, 16, False)]  # from what the other one has left behind


def test_another_tenant_computes_it_again():
    s = scheduler(sequence("a", 4, 1, shares=SYSTEM, salt="x"), budget=64)
    finish(s)
    s.add(sequence("b", 4, shares=SYSTEM, salt="y"))
    assert run(s)[0][:2] == ("b", 0)


def test_shared_cells_are_reserved_once():
    """Four of 45 tokens fit 100 cells, since 40 of them are the same."""
    s = scheduler(*(sequence(n, 4, 1, shares=SYSTEM) for n in "abcd"), cells=100, budget=64)
    run(s)
    run(s)
    assert not s.waiting


def test_the_least_recently_used_is_evicted_first():
    s = scheduler(cells=100, budget=64)
    for name in "ab":
        s.add(sequence(name, 10, 1, shares=range(ord(name), ord(name) + 10)))
        finish(s)
    s.add(sequence("again", 5, 1, shares=range(ord("a"), ord("a") + 10)))
    finish(s)
    s.add(sequence("big", 70, 1))
    finish(s)
    s.add(sequence("a", 1, 1, shares=range(ord("a"), ord("a") + 10)))
    assert run(s)[0][1] == 10


def test_a_lender_that_is_in_the_way_itself_gives_way():
    s = scheduler(sequence("a", 30, 20, shares=SYSTEM), cells=100, budget=128)
    finish(s)
    s.add(sequence("b", 50, 10, shares=SYSTEM))
    assert run(s)[0][1] in (0, len(SYSTEM))
    assert not s.waiting


def test_the_cache_keeps_to_its_share():
    s = scheduler(cells=100, budget=64)
    for name in "abcdef":
        s.add(sequence(name, 20, 1))
        finish(s)
        assert s.cached_cells <= 50


def test_what_a_longer_one_holds_needs_no_slot_of_its_own():
    s = scheduler(slots=2, budget=64)
    for length in (10, 20, 40):
        s.add(sequence(str(length), 0, 1, shares=SYSTEM[:length]))
        finish(s)
    assert s.cached_cells == 40
    assert len(s._cache.cached_slots) == 1


def test_a_window_keeps_what_it_is_about_to_leave_behind():
    """At the end of the shared text, which a request that waits has shown."""
    s = scheduler(
        sequence("a", 8, 3, shares=SYSTEM), sequence("b", 8, 3, shares=SYSTEM),
        budget=64, cells=200, window=16,
    )  # fmt: skip
    assert run(s) == [("a", 0, 40, False)]
    operations, chunks = step(s)
    snapshot, share = operations
    assert (snapshot.length, share.length) == (40, 40)
    assert share.source in (snapshot.source, snapshot.slot)
    assert chunks == [("a", 40, 8, True), ("b", 40, 8, True)]


def test_a_window_that_is_not_full_yet_needs_no_snapshot():
    s = scheduler(
        sequence("a", 8, 3, shares=SYSTEM), sequence("b", 8, 3, shares=SYSTEM),
        budget=64, cells=200, window=100,
    )  # fmt: skip
    assert run(s) == [("a", 0, 48, True)]
    operations, _ = step(s)
    assert [o.length for o in operations] == [40]


def test_a_state_is_kept_at_every_border():
    s = scheduler(
        sequence("a", 10, 3, shares=SYSTEM, checkpoints=(40, 49)),
        budget=64, cells=200, window=RECURRENT,
    )  # fmt: skip
    assert [run(s) for _ in range(3)] == [
        [("a", 0, 40, False)], [("a", 40, 9, False)], [("a", 49, 1, True)]
    ]  # fmt: skip
    finish(s)
    s.add(sequence("b", 4, shares=SYSTEM))
    assert run(s) == [("b", 40, 4, True)]


def test_borders_are_where_texts_end():
    control = {1, 2}
    #         <s> text </s> <u> text    </u> <a>
    prompt = (1, 50, 51, 2, 1, 60, 61, 62, 2, 1)
    assert borders(prompt, control) == (3, 8, 9)
    assert borders((50, 51), control) == (1,)
    assert borders((50,), control) == ()


class Buffer:
    """What a unified KV buffer would hold: cells of a token each, with the slots that share it.

    A windowed or recurrent memory stands where its slot was computed to, and only there.
    """

    def __init__(self, window):
        self.cells = {}
        self.reached = {}
        self.kept = {}
        self.loaded = {}
        self.dropped = []
        self._window = window
        self._ids = itertools.count()

    def settle(self):
        self.loaded.clear()
        for key in self.dropped:
            del self.kept[key]
        self.dropped.clear()

    def arrange(self, operations, stored=lambda *_: ()):
        for o in operations:
            if isinstance(o, Keep):
                self._keep(o)
                self.arrange(stored(o.key, len(o.prefix.token_ids)))
            elif isinstance(o, Load):
                self._load(o)
            elif isinstance(o, Drop):
                self.dropped.append(o.key)
            else:
                self._move(o)

    def _keep(self, o):
        length, stands = len(o.prefix.token_ids), self.reached[o.slot]
        assert self._window is None or stands == length or stands < self._window
        assert self.positions(o.slot)[:length] == list(range(length))
        self.kept[o.key] = o.prefix

    def _load(self, o):
        prefix = self.kept[o.key]
        assert self._window is None or o.length == len(prefix.token_ids)
        assert not self.positions(o.slot)
        self.compute(o.slot, 0, o.length)
        self.loaded[o.slot] = prefix, o.length

    def _move(self, o):
        if isinstance(o, Share):
            stands = self.reached[o.source]
            assert self._window is None or stands == o.length or stands < self._window
            self.reached[o.slot] = o.length
        else:
            assert o.length == 0 or self._window is None or self.reached[o.slot] < self._window
            self.reached[o.slot] = o.length
        for key, (position, slots) in list(self.cells.items()):
            if isinstance(o, Share) and o.source in slots and position < o.length:
                slots.add(o.slot)
            elif isinstance(o, Cut) and o.slot in slots and position >= o.length:
                slots.discard(o.slot)
                if not slots:
                    del self.cells[key]

    def compute(self, slot, start, count):
        self.reached[slot] = start + count
        for position in range(start, start + count):
            self.cells[next(self._ids)] = (position, {slot})

    def positions(self, slot):
        return sorted(position for position, slots in self.cells.values() if slot in slots)

    def shared(self):
        return sum(len(slots) > 1 for _, slots in self.cells.values())


def any_prompt(rng, name, seen, window):
    """New, or like one that was there before, or the next turn of it."""
    old = rng.choice(seen) if seen and rng.random() < 0.6 else ()
    kept = old[: rng.choice([len(old), rng.randint(0, len(old))])]
    s = sequence(
        name, rng.randint(0 if kept else 1, 40), rng.randint(1, 40), shares=kept[:60],
        salt=rng.choice(["", "", "x"]),
        checkpoints=(7,) if window is not None and rng.random() < 0.5 else (),
    )  # fmt: skip
    seen.append(s.request.prompt_token_ids)
    return s


@pytest.fixture
def eager(monkeypatch):
    """Prefixes are copied out and back although they are short."""
    for name, value in {"WORTH_KEEPING": 6, "HEAD": 3}.items():
        monkeypatch.setattr(kept, name, value)
    monkeypatch.setattr(prefix_cache, "WORTH_KEEPING", 6)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_nothing_is_missing_and_nothing_overflows(seed):
    rng = random.Random(seed)
    window, slots = rng.choice([None, 24, RECURRENT]), rng.choice([0, 1, 5])
    outside = KeptPrefixes(
        rng.choice([0, 100, 10_000]), whole=window is not None, unlent=rng.choice([6, 9])
    )
    s = scheduler(cells=160, seqs=4, slots=slots, budget=32, window=window, kept=outside)
    buffer, seen, pending, steps, loads = Buffer(window), [SYSTEM], 60, 0, 0
    while pending or s.has_work:
        for _ in range(min(pending, rng.randint(0, 3))):
            pending -= 1
            s.add(any_prompt(rng, str(pending), seen, window))
        steps += 1
        assert steps < 20_000, "somebody waits for ever"
        plan = s.plan(0.0)
        buffer.settle()
        buffer.arrange(plan.operations, s.stored)
        for one in s.running:
            prefix, length = buffer.loaded.get(one.slot, (None, 0))
            assert length == 0 or prefix.salt == one.request.cache_salt
            assert length == 0 or prefix.token_ids[:length] == tuple(one.token_ids[:length])
        loads += len(buffer.loaded)
        for chunk in plan.chunks:
            slot = chunk.sequence.slot
            assert buffer.positions(slot) == list(range(chunk.start)), "a hole, or too much"
            buffer.compute(slot, chunk.start, len(chunk.token_ids))
            s.computed(chunk)
        assert len(buffer.cells) <= 160
        assert not window or buffer.shared() <= window * slots
        for chunk in plan.chunks:
            if chunk.samples:
                chunk.sequence.take(rng.randint(0, 3), b"x", ends=False, logprob=None, now=0.0)
            if chunk.sequence.status is Status.FINISHED:
                buffer.arrange(s.remove(chunk.sequence, keep=rng.random() < 0.9), s.stored)
            elif rng.random() < 0.02:
                chunk.sequence.end(FinishReason.ABORT, 0.0)
                buffer.arrange(s.remove(chunk.sequence), s.stored)
        assert len(buffer.cells) >= s._cache.cells
    assert loads or seed != 14, "this load brings some of what was copied out back in"


def test_a_short_prompt_is_not_stuck_behind_a_long_one():
    s = scheduler(sequence("long", 70), sequence("short", 6), budget=16)
    assert run(s) == [("long", 0, 10, False), ("short", 0, 6, True)]


def test_many_short_prompts_do_not_hold_a_long_one_up():
    s = scheduler(sequence("long", 60), *(sequence(n, 8, 1) for n in "abc"), budget=16, cells=200)
    assert run(s) == [("long", 0, 8, False), ("a", 0, 8, True)]


def test_prompts_leave_the_streams_their_pace():
    s = scheduler(sequence("a", 8, 30), budget=64, cells=200, target_itl=0.1)
    run(s)
    s.pace.observe(1, 0, 0.05)
    s.pace.observe(0, 100, 0.1)
    s.add(sequence("b", 100))
    # 0.05 s are left, enough for 50 tokens; the kernels like 16, 32 and 48 rows, each tried in turn
    assert run(s) == [("a", 8, 1, True), ("b", 0, 15, False)]
    s.pace.observe(1, 15, 0.07)
    assert run(s) == [("a", 9, 1, True), ("b", 15, 31, False)]


def test_where_each_is_computed_apart_the_shortest_and_the_oldest_prompt_take_turns():
    slots = 2
    layouts = LayoutChooser(Layout.SEPARATE, slots, 2 * 256, fixed=True)
    room = Room(slots, 0, 2 * 256, 0, 0)
    s = Scheduler(room, 20, None, None, layouts)
    s.add(sequence("long", 50))
    s.add(sequence("short", 30))
    assert run(s) == [("short", 0, 20, False)]
    assert run(s) == [("long", 0, 20, False)]
    assert run(s) == [("long", 20, 10, False), ("short", 20, 10, True)]


def test_who_is_in_no_hurry_is_admitted_last():
    s = scheduler(
        sequence("slow", 5, background=True), sequence("a", 5), sequence("b", 5), seqs=2, budget=32
    )
    assert [name for name, *_ in run(s)] == ["a", "b"]
    assert [w.request.request_id for w in s.waiting] == ["slow"]


def test_who_is_in_no_hurry_never_starves():
    s = scheduler(sequence("slow", 5, background=True), sequence("a", 5), seqs=1, budget=32)
    _, chunks = step(s, now=PATIENCE + 1)
    assert [name for name, *_ in chunks] == ["slow"]


def test_all_that_is_cached_can_be_given_up():
    s = scheduler(sequence("a", 10, 1), sequence("b", 10, 9), budget=32)
    run(s)
    operations = s.clear_cache()
    assert [o.length for o in operations] == [0]
    assert s.cached_cells == 0
    finish(s)


def test_a_few_tokens_in_common_are_no_reason_to_stop_for():
    s = scheduler(
        sequence("a", 30, 3, shares=SYSTEM[:3]), sequence("b", 30, 3, shares=SYSTEM[:3]),
        budget=64, cells=200, window=RECURRENT,
    )  # fmt: skip
    assert [count for _, _, count, _ in run(s)] == [33, 31]
    assert s.cached_cells == 0


def test_a_prompt_that_only_begins_like_a_cached_one_is_cached_as_well():
    s = scheduler(budget=64, cells=200, window=RECURRENT)
    for name in "ab":
        s.add(sequence(name, 20, 1, shares=SYSTEM[:3]))
        finish(s)
    again = sequence(
        "c", 5, 1, shares=s._cache._tree._held[s._cache.cached_slots[-1]].node.token_ids
    )
    s.add(again)
    run(s)
    assert again.num_cached_tokens == 23


def test_what_running_ones_hold_is_not_evicted_in_vain():
    s = scheduler(sequence("a", 20, 1), budget=64, cells=100)
    finish(s)
    s.add(sequence("big", 10, 60))
    s.add(sequence("next", 10, 60))
    run(s)
    assert [w.request.request_id for w in s.waiting] == ["next"]
    assert s.cached_cells == 20


def test_more_than_the_pool_of_windows_holds_is_not_shared():
    s = scheduler(
        sequence("a", 8, 3, shares=SYSTEM), sequence("b", 8, 3, shares=SYSTEM),
        budget=64, cells=200, window=16, slots=2,
    )  # fmt: skip
    finish(s)
    c = sequence("c", 8, 3, shares=SYSTEM)
    s.add(c)
    run(s)
    assert c.num_cached_tokens == 0


def test_what_costs_little_stays_and_the_newest_one_beside_it():
    s = scheduler(budget=64, cells=200, cheap=30)
    for name in "abc":
        s.add(sequence(name, 12, 1))
        finish(s)
    assert s.cached_cells == 24
    s.add(sequence("conversation", 60, 1))
    finish(s)
    assert s.cached_cells == 60
    s.add(sequence("d", 12, 2))
    run(s)
    assert s.cached_cells == 0, "it would slow `d` down"
    finish(s)
    assert s.cached_cells == 13


def test_those_that_have_to_go_go_one_by_one():
    s = scheduler(budget=128, cells=400, cheap=20)
    for name in "abc":
        s.add(sequence(name, 30, 1))
    s.add(sequence("stream", 30, 9))
    left = []
    for _ in range(3):
        run(s)
        left.append(s.cached_cells)
    assert left == [60, 30, 0]


def test_what_running_sequences_share_costs_nothing_and_stays():
    s = scheduler(budget=64, cells=200, cheap=30)
    for name in "ab":
        s.add(sequence(name, 12, 1, shares=SYSTEM))
        finish(s)
    s.add(sequence("c", 12, 40, shares=SYSTEM))
    run(s)
    s.add(sequence("d", 12, 9))
    run(s)
    assert s.cached_cells == 12, "what `b` had of its own"


def test_a_shared_prefix_outlives_the_jobs_that_share_it():
    s = scheduler(budget=64, cells=200, cheap=60)
    for name in "abcdef":
        s.add(sequence(name, 12, 1, shares=SYSTEM))
        finish(s)
    assert s.cached_cells == len(SYSTEM) + 12
    last = sequence("g", 12, 1, shares=SYSTEM)
    s.add(last)
    finish(s)
    assert last.num_cached_tokens == len(SYSTEM)


def test_the_layout_changes_under_those_that_run_and_everybody_gets_on():
    layouts = LayoutChooser(Layout.UNIFIED, 16, 16 * 256)
    s = scheduler(seqs=16, cells=16 * 256, budget=64, layouts=layouts, target_itl=None)
    for n in range(80):
        s.add(sequence(str(n), 60, 20))
        if n == 4:
            run(s)
    seen, most, moved = [], 0, 0
    s.pace.observe(1, 0, 0.1)
    while s.has_work:
        plan = s.plan(0.0)
        if plan.layout is not None:
            assert not plan.chunks
            before = [one.slot for one in s.running]
            assert s.laid_out(plan.layout) == list(zip(before, s.running, strict=True))
            moved = len({one.slot for one in s.running})
            assert moved == len(before)
        seen.append(s.layout)
        slots = [chunk.sequence.slot for chunk in plan.chunks]
        assert slots == sorted(slots)
        most = max(most, len(s.running))
        for chunk in plan.chunks:
            s.computed(chunk)
            if chunk.samples:
                chunk.sequence.take(3, b"x", ends=False, logprob=None, now=0.0)
            if chunk.sequence.status is Status.FINISHED:
                s.remove(chunk.sequence)
    assert seen[-1] is Layout.SEPARATE
    assert s.pace.decode_seconds(1) is None, "what was learnt was of the other layout"
    s.pace.observe(8, 0, 0.1)
    s.pace.observe(0, 100, 0.2)
    apart = s.pace.prompt_tokens(Beside(8, 8, 1, 1000), 64)
    assert apart % MULTIPLE == 1, "all but a chunk's first token are computed apart"
    assert most == 16
    assert moved, "some were running"


def test_cells_of_their_own_share_nothing_and_keep_nothing():
    layouts = LayoutChooser(Layout.SEPARATE, 4, 4 * 256, fixed=True)
    s = scheduler(seqs=4, cells=4 * 256, layouts=layouts, budget=64)
    s.laid_out(Layout.SEPARATE)
    first = sequence("a", 5, shares=SYSTEM)
    s.add(first)
    s.add(sequence("b", 5, shares=SYSTEM))
    found = run(s)
    assert [start for _, start, *_ in found] == [0, 0]
    slot = first.slot
    assert s.remove(first) == (Cut(slot),)
    assert s.cached_cells == 0


def kept_state(*prefixes):
    outside = KeptPrefixes(10**6)
    for prefix in prefixes:
        outside.stored(outside.add(prefix), 1)
    return outside


def test_a_state_is_loaded_where_there_is_room_for_all_of_it():
    long = (*SYSTEM, *range(500))
    outside = kept_state(kept.Prefix(long, ""))
    roomy = scheduler(cells=600, kept=outside)
    roomy.add(sequence("a", 10, shares=long[:100]))
    assert roomy.plan(0.0).operations == (Load(1, 0, 100),)
    tight = scheduler(cells=500, kept=outside)
    tight.add(sequence("a", 10, shares=long[:100]))
    plan = tight.plan(0.0)
    assert plan.operations == ()
    assert [chunk.start for chunk in plan.chunks] == [0]


@pytest.mark.usefixtures("eager")
def test_what_is_about_to_be_copied_out_cannot_be_loaded_in_the_same_step():
    outside = KeptPrefixes(10**6, unlent=6, fetch=lambda _: pytest.fail("it is not there yet"))
    s = scheduler(cells=200, seqs=2, kept=outside)
    first = sequence("first", 5, shares=SYSTEM)
    s.add(first)
    while first.is_prefilling:
        run(s)
    first.end(FinishReason.ABORT, 0.0)
    s.remove(first)
    s.add(sequence("large", 170))
    s.add(sequence("like the first", 5, shares=SYSTEM))
    operations = s.plan(0.0).operations
    assert [o for o in operations if isinstance(o, Keep)]
    assert not [o for o in operations if isinstance(o, Load)]


def test_a_sequence_too_long_for_cells_of_its_own_waits_for_shared_ones():
    layouts = LayoutChooser(Layout.SEPARATE, 4, 4 * 256)
    s = scheduler(seqs=4, cells=4 * 256, budget=1024, layouts=layouts)
    s.laid_out(Layout.SEPARATE)
    s.add(sequence("running", 10, 240))
    run(s)
    s.add(sequence("small", 10, 240))
    s.add(sequence("long", 300, 5))
    run(s)
    assert "long" not in [one.request.request_id for one in s.running]


def test_what_goes_on_waits_for_no_newcomer():
    running, first, second = (sequence(name) for name in "abc")
    s = scheduler(running, seqs=1)
    step(s)
    rest = sequence("rest", goes_on=True)
    for one in (first, second, rest):
        s.add(one)
    s.remove(running, keep=False)
    step(s)
    assert [one.request.request_id for one in s.running] == ["rest"]
