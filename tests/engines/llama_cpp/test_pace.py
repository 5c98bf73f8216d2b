from __future__ import annotations

import pytest

from local_worker.engines.llama_cpp.pace import DEFAULT_SLOWDOWN, LEAST_TOKENS, Pace


def learnt(target=None, *, decode=0.1, per_token=0.002):
    pace = Pace(target)
    pace.observe(8, 0, decode)
    pace.observe(0, 100, 100 * per_token)
    return pace


def test_nobody_decodes_so_nobody_waits():
    assert learnt().prompt_tokens(0, 512) == 512


def test_without_a_word_a_step_takes_a_multiple_of_a_decode_step():
    extra = (DEFAULT_SLOWDOWN - 1) * 0.1
    assert learnt().prompt_tokens(8, 512) == pytest.approx(extra / 0.002, abs=1)


def test_a_target_is_what_the_whole_step_may_take():
    assert learnt(0.3).prompt_tokens(8, 512) == pytest.approx(0.2 / 0.002, abs=1)


def test_no_target_is_no_limit():
    assert learnt(0).prompt_tokens(8, 512) == 512


def test_a_prompt_always_gets_on():
    assert learnt(0.05).prompt_tokens(8, 512) == LEAST_TOKENS
    assert learnt(0.05).prompt_tokens(8, 3) == 3


def test_before_anything_is_known_it_finds_out_gently():
    assert Pace().prompt_tokens(8, 512) == 4 * LEAST_TOKENS
    assert Pace().prompt_tokens(8, 10) == 10


def test_what_decoding_costs_is_not_charged_to_the_prompt():
    pace = learnt()
    for _ in range(50):
        pace.observe(8, 100, 0.1 + 100 * 0.001)
    assert pace.prompt_tokens(8, 512) == pytest.approx(0.1 / 0.001, rel=0.05)


def test_a_step_that_was_held_up_from_outside_changes_little():
    pace = learnt()
    before = pace.prompt_tokens(8, 512)
    pace.observe(0, 100, 60.0)
    assert pace.prompt_tokens(8, 512) > before / 2


def test_it_follows_a_machine_that_becomes_slower():
    pace = learnt()
    for _ in range(50):
        pace.observe(8, 0, 0.3)
    assert pace.prompt_tokens(8, 512) == pytest.approx(0.3 / 0.002, rel=0.05)


def test_a_step_of_more_sequences_is_another_step():
    pace = Pace()
    pace.observe(1, 0, 0.05)
    assert pace.decode_seconds(4) == pytest.approx(0.2)
    pace.observe(9, 0, 0.13)
    assert [pace.decode_seconds(n) for n in (1, 5, 9, 18)] == pytest.approx(
        [0.05, 0.09, 0.13, 0.26]
    )


def test_fewer_sequences_than_were_seen_are_as_slow():
    assert learnt().decode_seconds(2) == 0.1
    assert Pace().decode_seconds(2) is None
