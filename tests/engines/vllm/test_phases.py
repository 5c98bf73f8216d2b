from __future__ import annotations

import json

import pytest

from local_worker.engines.vllm.phases import phase_params
from local_worker.guidance import ONE_LINE
from local_worker.types import (
    GenerationRequest,
    Grammar,
    GrammarKind,
    SamplingParams,
    ThinkingParams,
    ThinkingTokens,
)

END = (7, 9)


def params(output_ids=(), number=0, max_tokens=20, **sampling):
    request = GenerationRequest("r", (1, 2, 3), max_tokens, SamplingParams(**sampling))
    return phase_params(request, output_ids, number, END)


def test_the_first_phase_may_fill_the_request():
    found = params(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repeat_penalty=1.1, logprobs=2)
    expected = {
        "max_tokens": 20, "min_tokens": 0, "temperature": 0.5, "top_k": 3, "top_p": 0.9,
        "min_p": 0.1, "repetition_penalty": 1.1, "logprobs": 2, "logit_bias": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_only_the_turn_decides_what_ends_a_generation():
    found = params()
    assert found["stop_token_ids"] == [7, 9]
    assert found["ignore_eos"] is True
    assert "stop" not in found


def test_later_phases_have_the_room_that_is_left():
    found = params(output_ids=(4,) * 12, number=1, min_tokens=15)
    assert (found["max_tokens"], found["min_tokens"]) == (8, 3)


def test_min_tokens_never_exceeds_what_vllm_allows():
    assert params(max_tokens=5, min_tokens=50)["min_tokens"] == 5
    assert params(output_ids=(4,) * 12, number=1, min_tokens=3)["min_tokens"] == 0


def test_an_end_token_is_banned_for_as_long_as_it_is_ignored():
    assert params(output_ids=(4,) * 12, number=1, ignore_eos=True)["min_tokens"] == 8


def test_each_phase_draws_from_a_stream_of_its_own():
    seeds = [params(seed=5, number=number)["seed"] for number in range(3)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert seeds == [params(seed=5, number=number)["seed"] for number in range(3)]


def test_without_a_seed_vllm_may_draw_as_it_likes():
    assert params(number=3)["seed"] is None


def test_what_earlier_phases_put_out_is_still_penalised():
    found = params(
        output_ids=(4, 4, 5),
        number=1,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias=((4, 2.0), (6, 1.0)),
    )
    assert found["logit_bias"] == {4: 1.0, 5: -0.75, 6: 1.0}


def test_without_output_there_is_nothing_to_penalise():
    assert params(presence_penalty=0.5)["logit_bias"] is None


def test_no_more_tokens_are_biased_than_vllm_survives():
    """A client's own come first, then what weighs most."""
    output = tuple(range(100, 2000)) + (150,) * 3
    found = params(output, 1, 5000, frequency_penalty=0.5, logit_bias=((7, 0.1), (8, 0.0)))
    assert len(found["logit_bias"]) == 1024
    assert found["logit_bias"][7] == 0.1
    assert found["logit_bias"][150] == -2.0


def test_beside_speculation_there_is_no_bias():
    request = GenerationRequest("r", (1,), 20, SamplingParams(presence_penalty=1.0))
    assert phase_params(request, (4, 5), 1, END, biases=False)["logit_bias"] is None


def test_a_bias_stays_inside_what_vllm_takes():
    found = params((4,) * 60, 1, 100, frequency_penalty=2.0, logit_bias=((5, 100.0),))
    assert found["logit_bias"] == {4: -100.0, 5: 100.0}


def test_a_full_sequence_has_no_next_phase():
    with pytest.raises(AssertionError):
        params(output_ids=(4,) * 20, number=1)


TOKENS = ThinkingTokens(start=(1,), end=(5,), close=(6, 5), close_after_newline=(5,))


def form(kind, source, thinking=None, **more):
    grammar = Grammar(kind, source, "x")
    request = GenerationRequest("r", (1, 2, 3), 20, thinking=thinking, grammar=grammar)
    return phase_params(request, (), 0, END, **more)


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        (GrammarKind.REGEX, "a+", {"regex": "a+"}),
        (GrammarKind.CHOICE, '["a", "b"]', {"regex": "a|b"}),
        (GrammarKind.GRAMMAR, 'start: "a"', {"grammar": 'start: "a"'}),
    ],
)
def test_the_phase_of_the_answer_has_the_grammar(kind, source, expected):
    assert form(kind, source, follows_grammar=True)["structured_outputs"] == expected


def test_a_schema_is_given_as_the_other_engine_reads_it():
    found = form(GrammarKind.JSON_SCHEMA, '{"type": "object"}', follows_grammar=True)
    schema = json.loads(found["structured_outputs"]["json"])
    assert schema == {"type": "object", "x-guidance": ONE_LINE}


def test_a_phase_before_the_answer_is_free_and_ends_with_the_thought():
    found = form(GrammarKind.REGEX, "a+", ThinkingParams(TOKENS, None))
    assert found["structured_outputs"] is None
    assert found["stop_token_ids"] == [7, 9, 5]


def test_without_a_grammar_a_thought_and_its_answer_may_be_one_phase():
    request = GenerationRequest("r", (1,), 20, thinking=ThinkingParams(TOKENS, None))
    found = phase_params(request, (), 0, END)
    assert found["stop_token_ids"] == [7, 9]
    assert found["structured_outputs"] is None
