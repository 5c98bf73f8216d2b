from __future__ import annotations

import pytest

from local_worker.engines.llama_cpp.scheduler import Scheduler
from local_worker.engines.llama_cpp.sequence import CachedSequence
from local_worker.engines.process.sequence import Status
from local_worker.types import FinishReason, GenerationRequest


def sequence(name, prompt=10, max_tokens=5):
    return CachedSequence(GenerationRequest(name, tuple(range(prompt)), max_tokens), now=0.0)


def scheduler(*sequences, seqs=4, cells=100, budget=16):
    s = Scheduler(seqs, cells, budget)
    for one in sequences:
        s.add(one)
    return s


def run(s, now=1.0, token=7):
    """Plans a step and applies it: every chunk that samples gets `token`."""
    chunks = s.plan(now)
    for chunk in chunks:
        chunk.sequence.num_computed_tokens += len(chunk.token_ids)
        if chunk.samples:
            chunk.sequence.take(token, b"x", ends=False, logprob=None, now=now)
            if chunk.sequence.status is Status.FINISHED:
                s.remove(chunk.sequence)
    return [(c.sequence.request.request_id, c.start, len(c.token_ids), c.samples) for c in chunks]


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
    assert (len(s.running), s.reserved_cells) == (1, 80)
    assert [w.request.request_id for w in s.waiting] == ["b", "c"]  # nobody overtakes


def test_slots_are_the_other_limit():
    s = scheduler(*(sequence(str(i), 1, 1) for i in range(5)), seqs=2)
    run(s)
    assert len(s.waiting) == 3  # the two that ran have finished
    run(s)
    assert len(s.waiting) == 1


def test_a_finished_sequence_gives_slot_and_cells_back():
    s = scheduler(sequence("a", 10, 1))
    run(s)
    assert (s.running, s.reserved_cells, s.has_work) == ([], 0, False)


def test_a_waiting_sequence_can_be_forgotten():
    waiting = sequence("b", 90, 10)
    s = scheduler(sequence("a", 50, 30), waiting)
    run(s)
    assert s.find("b") is waiting
    waiting.end(FinishReason.ABORT, now=1.0)
    assert s.remove(waiting) is None
    assert not s.waiting


def test_a_long_forced_stretch_leaves_everybody_a_token():
    a, b = sequence("a", 4, 40), sequence("b", 4, 40)
    s = scheduler(a, b)
    run(s)
    a.token_ids.extend(range(30))
    assert run(s) == [("a", 4, 15, False), ("b", 4, 1, True)]


def test_a_step_has_room_for_every_sequence():
    with pytest.raises(ValueError, match="one token"):
        Scheduler(8, 100, 4)
