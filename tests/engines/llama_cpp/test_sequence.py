from __future__ import annotations

import pytest

from local_worker.engines.llama_cpp.sequence import CachedSequence
from local_worker.engines.process.sequence import Status
from local_worker.types import (
    Channel,
    FinishReason,
    GenerationRequest,
    TextDelta,
    ThinkingParams,
    ThinkingTokens,
)

TOKENS = ThinkingTokens(start=(1,), end=(2,), close=(3, 2), close_after_newline=(2,))


def started(**fields):
    sequence = CachedSequence(GenerationRequest("r", (9, 8), 10, **fields), now=1.0)
    sequence.start_in(slot=0, num_cached_tokens=0, now=3.0)
    sequence.num_computed_tokens = sequence.num_tokens
    return sequence


def take(sequence, piece, now=4.0, **options):
    return sequence.take(50, piece, ends=options.get("ends", False), logprob=None, now=now)


def test_a_sampled_token_is_what_is_missing_next():
    sequence = started()
    taken, output = take(sequence, b"Li")
    assert taken == (50,)
    assert output.deltas == (TextDelta(Channel.CONTENT, "Li"),)
    assert (sequence.num_pending_tokens, sequence.token_ids) == (1, [9, 8, 50])


def test_forced_tokens_follow_the_sampled_one():
    sequence = started(thinking=ThinkingParams(TOKENS, 1, starts_inside=True))
    taken, _ = take(sequence, b"x")
    assert taken == (50, 3, 2)
    assert sequence.num_pending_tokens == 3


def test_a_refused_token_never_becomes_part_of_the_sequence():
    sequence = started(thinking=ThinkingParams(TOKENS, 1, starts_inside=True))
    taken, output = take(sequence, "€".encode()[:1])
    assert taken == (3, 2)
    assert output.num_reasoning_tokens == 0


def test_a_closed_thought_of_the_template_is_prefilled_with_the_prompt():
    sequence = CachedSequence(
        GenerationRequest("r", (9, 8), 10, thinking=ThinkingParams(TOKENS, 0, True)), now=0.0
    )
    assert sequence.token_ids == [9, 8, 3, 2]


def test_the_end_carries_its_times():
    sequence = started()
    take(sequence, b"Li", now=4.0)
    _, output = take(sequence, b"", now=9.0, ends=True)
    finish = output.finish
    assert (finish.reason, finish.queued, finish.prefill, finish.decode) == (
        FinishReason.STOP, 2.0, 1.0, 5.0,
    )  # fmt: skip
    assert sequence.status is Status.FINISHED


def test_a_finished_sequence_takes_nothing():
    sequence = started()
    sequence.end(FinishReason.ABORT, now=5.0)
    with pytest.raises(AssertionError):
        take(sequence, b"x")
    with pytest.raises(AssertionError):
        sequence.end(FinishReason.ABORT, now=5.0)


def test_it_reserves_its_prompt_and_its_longest_output():
    assert started().reserved_cells == 12
