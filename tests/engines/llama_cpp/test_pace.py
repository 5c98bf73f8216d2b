from __future__ import annotations

import pytest

from local_worker.engines.llama_cpp.filling import LEAST_TOKENS, MULTIPLE, TIMES, Beside
from local_worker.engines.llama_cpp.pace import (
    DEFAULT_SLOWDOWN,
    LOOK,
    LOOK_AGAIN,
    RARELY,
    UNNOTICED,
    USUAL_PRICE,
    Pace,
)

LONG = 1 << 20
"""Tokens: more than any step has."""

NOBODY = Beside(0, 0, 1, LONG)


def beside(prompts=1, streams=8):
    """So many long prompts wait beside streams."""
    return Beside(streams, streams, prompts, LONG)


def filled(tokens):
    """Of so many for which there is time, those that fill up the kernels' rows beside eight."""
    return max(n for n in (MULTIPLE * times - 8 for times in TIMES) if n <= tokens + 0.01)


def learnt(target=None, *, decode=0.1, per_token=0.002):
    pace = Pace(target)
    pace.observe(8, 0, decode)
    pace.observe(0, 100, 100 * per_token)
    return pace


def alone(seconds, steps=60, most=512):
    """Sizes of steps that nobody decodes in, where each takes what `seconds` says."""
    pace, sizes = Pace(), []
    for _ in range(steps):
        sizes.append(pace.prompt_tokens(NOBODY, most))
        pace.observe(0, sizes[-1], seconds(sizes[-1]))
    return sizes


def test_every_size_of_step_is_tried_first():
    assert alone(lambda tokens: tokens, 3) == [128, 256, 512]


def test_where_nobody_decodes_a_step_is_no_larger_than_it_pays():
    sizes = alone(lambda tokens: 0.005 * tokens)
    assert sizes.count(128) > 50
    assert {256, 512} <= set(sizes[3:]), "now and then the others are tried again"


def test_and_as_large_as_it_pays():
    """Experts want many rows: each of them gets few of a step's tokens."""
    assert alone(lambda tokens: 0.5 + 0.002 * tokens).count(512) > 50
    assert alone(lambda tokens: 0.03 + 0.002 * tokens).count(256) > 50


def test_another_machine_than_it_was_gets_other_steps():
    pace = Pace()
    for seconds in (lambda tokens: tokens, lambda tokens: 300 + tokens):
        for _ in range(200):
            tokens = pace.prompt_tokens(NOBODY, 512)
            pace.observe(0, tokens, seconds(tokens))
    assert [pace.prompt_tokens(NOBODY, 512) for _ in range(3)] == [512] * 3


def test_little_is_tried_while_others_wait_for_their_first_tokens():
    pace, several = Pace(), Beside(0, 0, 2, LONG)
    assert pace.prompt_tokens(several, 512) == 128
    pace.observe(0, 256, 256 * 0.004)
    assert pace.prompt_tokens(several, 512) == 256, "all that is known"
    pace.observe(0, 128, 128 * 0.004)
    assert [pace.prompt_tokens(several, 512) for _ in range(9)] == [128] * 9


def test_but_what_is_faster_is_found_though_somebody_always_waits():
    pace, sizes = Pace(), []
    for _ in range(4 * RARELY):
        sizes.append(pace.prompt_tokens(Beside(0, 0, 5, LONG), 512))
        pace.observe(0, sizes[-1], 0.03 + 0.0001 * sizes[-1])
    assert sizes[: RARELY - 1] == [128] * (RARELY - 1)
    assert sizes[-RARELY:].count(512) > RARELY / 2


def test_a_step_is_never_larger_than_it_may_be():
    assert alone(lambda tokens: 100 + tokens, most=300).count(256) > 50
    assert set(alone(lambda tokens: tokens, most=40)) == {40}


def test_a_step_that_is_not_quite_full_is_as_good():
    pace = Pace()
    for tokens in (112, 240, 400):
        pace.observe(0, tokens, 1.0 * tokens)
    assert pace.prompt_tokens(NOBODY, 512) == 128


def test_without_a_word_a_step_takes_a_multiple_of_a_decode_step():
    extra = (DEFAULT_SLOWDOWN - 1) * 0.1
    assert learnt().prompt_tokens(beside(), 512) == filled(extra / 0.002) == 40


def test_a_few_streams_do_not_hold_up_many_prompts():
    for prompts, tokens in ((1, 50), (9, 100), (33, 250)):
        found = learnt().prompt_tokens(beside(prompts), 512)
        assert found == filled(tokens)
    assert learnt(0.3).prompt_tokens(beside(33), 512) == filled(100)


def test_a_target_is_what_the_whole_step_may_take():
    assert learnt(0.3).prompt_tokens(beside(), 512) == filled(0.2 / 0.002)


def test_where_steps_take_no_time_a_prompt_is_computed_at_once():
    pace = learnt(decode=0.001, per_token=0.0001)
    assert pace.prompt_tokens(beside(), 512) == filled((UNNOTICED - 0.001) / 0.0001) == 56


def test_no_target_is_no_limit():
    assert learnt(0).prompt_tokens(beside(), 512) == 512


def test_a_prompt_always_gets_on():
    assert learnt(0.05).prompt_tokens(beside(), 512) == LEAST_TOKENS
    assert learnt(0.05).prompt_tokens(beside(), 3) == 3


def test_the_least_is_as_much_as_fills_up_the_rows():
    """Nine beside seven are faster than eight, whatever the rule thinks of both."""
    pace = learnt(0.051, decode=0.05)
    assert pace.prompt_tokens(Beside(7, 7, 1, LONG), 512) == 9
    assert pace.prompt_tokens(Beside(1, 1, 1, LONG), 512) == LEAST_TOKENS


def test_before_anything_is_known_it_finds_out_gently():
    assert Pace().prompt_tokens(beside(), 512) == 4 * LEAST_TOKENS
    assert Pace().prompt_tokens(beside(), 10) == 10


def test_in_another_layout_steps_are_learnt_anew():
    pace = learnt()
    pace.laid_out(separate=True)
    assert pace.decode_seconds(8) is None
    assert pace.costs(0) == (0.002, None), "prompts are not computed otherwise"


def test_rows_of_streams_are_told_from_a_prompts_tokens():
    pace = learnt(0.3)
    tokens = pace.prompt_tokens(Beside(8, 11, 1, LONG), 512)
    pace.observe(8, tokens, 0.29, rows=11)
    assert (11 + tokens) % MULTIPLE == 0
    assert pace.prompt_tokens(Beside(8, 11, 1, LONG), 512) == tokens


def test_what_decoding_costs_is_not_charged_to_the_prompt():
    pace = learnt()
    for _ in range(50):
        pace.observe(8, 100, 0.1 + 100 * 0.001)
    assert pace.prompt_tokens(beside(), 512) == filled(0.1 / 0.001)


def test_a_step_that_takes_longer_than_it_may_is_not_taken_again():
    """A chunk costs 0.2 s whatever its length: what was learnt from prompts alone is too little."""
    pace, seconds = learnt(0.5), []
    for _ in range(60):
        tokens = pace.prompt_tokens(beside(), 512)
        seconds.append(0.1 + 0.2 + tokens * 0.002)
        pace.observe(8, tokens, seconds[-1])
    assert tokens == filled(100)
    assert max(seconds[20:]) <= 0.5


def test_where_only_prompts_beside_streams_were_seen_it_knows_their_cost():
    pace = Pace()
    pace.observe(8, 0, 0.1)
    pace.observe(8, 50, 0.2)
    assert pace.prompt_tokens(beside(), 512) == filled(50)


def test_a_step_that_was_held_up_from_outside_changes_little():
    pace = learnt()
    before = pace.prompt_tokens(beside(), 512)
    pace.observe(0, 100, 60.0)
    assert pace.prompt_tokens(beside(), 512) >= before / 2


def test_it_follows_a_machine_that_becomes_slower():
    pace = learnt()
    for _ in range(50):
        pace.observe(8, 0, 0.3)
    assert pace.prompt_tokens(beside(), 512) == filled(0.3 / 0.002)


def cheap_and_quick(pending, *, separate=False):
    """Prompt tokens of steps beside seven streams, where nine of them are nearly free."""
    pace = learnt(0.15, decode=0.05)
    pace.laid_out(separate=separate)
    pace.observe(7, 0, 0.05)
    seen = []
    for _ in range(20):
        tokens = pace.prompt_tokens(Beside(7, 7, 1, pending), 512)
        pace.observe(7, tokens, 0.055 if tokens == 9 else 0.05 + 0.002 * tokens)
        seen.append(tokens)
    return seen


def test_a_short_prompt_fills_up_the_rows_that_are_nearly_free():
    assert cheap_and_quick(84)[-10:] == [9] * 10


def test_a_long_one_takes_all_the_time_that_the_streams_have():
    assert set(cheap_and_quick(1000)) == {41}


def test_where_chunks_are_computed_apart_those_are_filled_up():
    """All but their first token, which is computed with the streams."""
    assert {tokens % MULTIPLE for tokens in cheap_and_quick(84, separate=True)} == {1}


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


def test_what_tokens_cost_is_told_where_it_is_known():
    assert Pace().costs(8) == (None, None)
    assert learnt().costs(8) == pytest.approx((0.002, 0.1 / 8))
    assert learnt().costs(0) == (0.002, None)


def test_under_load_streams_are_computed_alone_now_and_then():
    """Where there are always prompts, nobody would ever know what a step of streams takes."""
    pace = Pace()
    alone = []
    for step in range(300):
        tokens = pace.prompt_tokens(beside(streams=27), 400)
        if tokens == 0:
            alone.append(step)
        pace.observe(27, tokens, 0.1 + 0.002 * tokens)
    assert alone == [LOOK, LOOK + LOOK_AGAIN + 1, LOOK + 2 * (LOOK_AGAIN + 1)]


def test_what_streams_take_is_looked_at_again_where_they_have_become_many():
    pace = Pace()
    pace.observe(2, 0, 0.02)
    for _ in range(LOOK):
        assert pace.prompt_tokens(beside(streams=24), 400) > 0
        pace.observe(24, 32, 0.2)
    assert pace.prompt_tokens(beside(streams=24), 400) == 0
    pace.observe(24, 0, 0.1)
    for _ in range(LOOK + 1):
        assert pace.prompt_tokens(beside(streams=30), 400) > 0
        pace.observe(30, 32, 0.2)


def test_a_step_that_took_less_than_its_streams_were_thought_to_is_not_the_end():
    """Fifteen together are thought to take 0.1 s, from what eight take."""
    pace = learnt(decode=0.1)
    for tokens in (8, 24, 40, 56):
        pace.observe(8, tokens, 0.05)
    assert pace.prompt_tokens(Beside(8, 8, 1, 40), 400) >= LEAST_TOKENS


def test_before_any_guess_a_row_costs_what_one_more_sequence_does():
    pace = Pace()
    assert pace.price(8) == USUAL_PRICE
    pace.observe(8, 0, 0.008)
    assert pace.price(8) == USUAL_PRICE, "of one size nothing is known about rows"
    pace.observe(16, 0, 0.012)
    assert pace.price(8) == pytest.approx(0.5), "half a millisecond, of one a token"
    assert pace.price(16) == pytest.approx(0.5 / 0.75)
    assert pace.price(32) == pytest.approx(0.5 / 0.75), "beyond them in proportion"


def test_what_guesses_took_counts_beside_about_as_many_streams():
    pace = Pace()
    pace.observe(2, 0, 0.010)
    pace.observe_more(2, 5, 0.015)
    assert pace.price(2) == pytest.approx(0.2)
    assert pace.price(30) == pytest.approx(0.2), "nothing better is known"
    pace.observe(16, 0, 0.024)
    pace.observe(32, 0, 0.040)
    assert pace.price(3) == pytest.approx(0.2)
    assert pace.price(30) == pytest.approx(0.001 / (0.038 / 30))


def test_a_row_is_never_for_nothing():
    pace = Pace()
    pace.observe(6, 0, 0.041)
    pace.observe(8, 0, 0.039)
    assert pace.price(7) == 0.02
    assert pace.price(0) == pace.price(1), "where there are only prompts"
