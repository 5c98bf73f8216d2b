from __future__ import annotations

import asyncio

import pytest

from local_worker.engines.llama_cpp.lookup import LONGEST, PAUSE, PRIOR, PromptLookup
from local_worker.types import (
    GenerationRequest,
    Grammar,
    GrammarKind,
    PromptSegment,
    SamplingParams,
    ThinkingParams,
    ThinkingTokens,
)

TEXT = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def sure():
    lookup = PromptLookup()
    lookup.rate = 1.0
    return lookup


def test_what_followed_the_last_tokens_before_is_guessed():
    assert sure().guess([*TEXT, 2, 3, 4], 3, 0.1) == (5, 6, 7)


def test_fewer_tokens_alike_are_no_reason_for_a_guess():
    assert sure().guess([*TEXT, 3, 4], 3, 0.1) == ()


def test_the_last_of_several_places_counts():
    assert sure().guess([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, 0.1) == (5,)


def test_tokens_that_come_later_are_found_too():
    lookup = sure()
    ids = [1, 2, 3, 4]
    assert lookup.guess(ids, 3, 0.1) == ()
    ids += [5, 6, 2, 3, 4]
    assert lookup.guess(ids, 2, 0.1) == (5, 6)


def test_there_is_no_guess_without_room():
    assert sure().guess([*TEXT, 2, 3, 4], 0, 0.1) == ()


def test_a_guess_is_as_long_as_its_last_token_is_likely_enough():
    ids = [*range(1, 40), 1, 2, 3]
    lengths = {rate: _with(rate, ids, price=0.3) for rate in (0.2, 0.4, PRIOR, 0.9, 1.0)}
    assert lengths == {0.2: 0, 0.4: 1, PRIOR: 2, 0.9: 11, 1.0: LONGEST}
    assert _with(0.9, ids, price=0.6) == 4
    assert _with(1.0, ids, price=1.0) == 0, "a row that costs a step cannot pay"


def _with(rate, ids, price):
    lookup = PromptLookup()
    lookup.rate = rate
    return len(lookup.guess(ids, LONGEST, price))


def test_right_guesses_make_longer_ones_and_wrong_ones_end_them_for_a_while():
    lookup, ids = PromptLookup(), [*range(1, 40), 1, 2, 3]
    before = len(lookup.guess(ids, LONGEST, 0.3))
    lookup.judge(before, before, len(ids), 0.3)
    assert len(lookup.guess(ids, LONGEST, 0.3)) > before
    wrong = 0
    while lookup.guess(ids, LONGEST, 0.3):
        lookup.judge(1, 0, len(ids), 0.3)
        wrong += 1
    assert wrong < 10
    ids += range(100, 100 + PAUSE - 3)
    assert lookup.guess([*ids[:-3], 1, 2, 3], 9, 0.3) == ()
    ids += [1, 2, 3]
    assert len(lookup.guess(ids, 9, 0.3)) == 1, "one is tried again"


def test_each_pause_without_a_right_guess_is_longer():
    lookup, length, pauses = PromptLookup(), 100, []
    for _ in range(4):
        lookup.rate = 0.3
        lookup.judge(1, 0, length, 0.3)
        pauses.append(lookup._wakes_at - length)
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE]
    lookup.judge(1, 1, length, 0.01)
    lookup.rate = 0.2
    lookup.judge(1, 0, length, 0.3)
    assert lookup._wakes_at - length == PAUSE


# -- in the engine ---------------------------------------------------------------------------

COPY = (
    "<|im_start|>user\nExtract name, city and item as JSON.\nAnna Berg from Oslo ordered 12 lamps "
    "on Friday.<|im_end|>\n<|im_start|>assistant\n"
)
REPEATED = "the name is Anna Berg\nthe city is Oslo\nthe item is lamps\n"


async def outputs_of(engine, count, **fields):
    """Texts and finishes of several sequences side by side."""
    prompt = await engine.tokenize([PromptSegment(COPY + "<think>\n" + REPEATED * 3)])
    thinking = fields.pop("thinking", None)

    async def one(index):
        sampling = SamplingParams(**{"seed": index, **fields.get("sampling", {})})
        more = {k: v for k, v in fields.items() if k != "sampling"}
        request = GenerationRequest(f"r{index}", prompt, 120, sampling, thinking=thinking, **more)
        outputs = [output async for output in engine.generate(request)]
        last = outputs[-1]
        text = "".join(d.text for o in outputs for d in o.deltas)
        return text, last.num_tokens, last.num_reasoning_tokens, last.finish.reason

    return await asyncio.gather(*(one(i) for i in range(count)))


async def thinking_of(engine, budget):
    async def ids(text):
        return await engine.tokenize([PromptSegment(text)])

    tokens = ThinkingTokens(
        await ids("<think>"), await ids("</think>"), await ids("\n</think>\n\n"),
        await ids("</think>\n\n"),
    )  # fmt: skip
    return ThinkingParams(tokens, budget, starts_inside=True)


SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


@pytest.mark.llama
@pytest.mark.anyio
@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": {"temperature": 0}},
        {"sampling": {"temperature": 0, "frequency_penalty": 0.3, "logprobs": 2}},
        {"sampling": {"temperature": 0.8, "top_p": 0.9}},
        {"sampling": {"temperature": 0}, "stop": ("Oslo\nthe",)},
        {"sampling": {"temperature": 0}, "budget": 17},
        {
            "sampling": {"temperature": 0},
            "budget": 30,
            "grammar": Grammar(GrammarKind.JSON_SCHEMA, SCHEMA, "x"),
        },
    ],
)
async def test_guessing_changes_nothing_but_the_number_of_steps(running_llama, fields):
    """One sequence at a time: in larger batches sums are rounded in another order."""
    found, guessed, steps = [], [], []
    for on in (True, False):
        async with running_llama(prompt_lookup=on, kv_layout="unified", max_num_seqs=1) as engine:
            given = dict(fields)
            if (budget := given.pop("budget", None)) is not None:
                given["thinking"] = await thinking_of(engine, budget)
            found.append(await outputs_of(engine, 3, **given))
            stats = engine.stats()
            guessed.append((stats.guessed_tokens, stats.right_guesses))
            steps.append(stats.steps)
    assert found[0] == found[1]
    assert guessed[1] == (0, 0)
    assert guessed[0][0] >= guessed[0][1] > 0
    assert steps[0] < steps[1]


@pytest.mark.llama
@pytest.mark.anyio
async def test_many_sequences_guess_beside_each_other(running_llama):
    async with running_llama() as engine:
        found = await outputs_of(engine, 8, sampling={"temperature": 0.7})
        assert {reason for *_, reason in found} <= {"stop", "length"}
        assert engine.stats().right_guesses > 0
        again = await outputs_of(engine, 2, sampling={"temperature": 0})
        assert again[0] == again[1], "what wrong guesses left behind is gone"
