"""What every engine must do. A new engine joins by a parameter of the `engine` fixture."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from local_worker.api.early_exit import EarlyExits
from local_worker.errors import InvalidParameterError
from local_worker.rules import EarlyExit
from local_worker.types import (
    Channel,
    ClosedBy,
    FinishReason,
    GenerationRequest,
    PromptSegment,
    SamplingParams,
    ThinkingParams,
    ThinkingTokens,
)

pytestmark = pytest.mark.anyio

CHAT = (
    "<|im_start|>user\nAdd up this invoice.\npens 3x14\ncups 2x9\nlamps 4x5<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n"
)


async def request_for(engine, request_id="r", text=CHAT, max_tokens=40, **fields):
    prompt = await engine.tokenize([PromptSegment(text)])
    fields.setdefault("sampling", SamplingParams(temperature=0))
    return GenerationRequest(request_id, prompt, max_tokens, **fields)


async def thinking(engine, budget):
    async def ids(text):
        return await engine.tokenize([PromptSegment(text)])

    tokens = ThinkingTokens(
        await ids("<think>"), await ids("</think>"), await ids("\n</think>\n\n"),
        await ids("</think>\n\n"), await ids("<tool_call>"), await ids("</tool_call>"),
    )  # fmt: skip
    return ThinkingParams(tokens, budget, starts_inside=True)


async def outputs_of(engine, request):
    return [output async for output in engine.generate(request)]


def text_of(outputs, channel=Channel.CONTENT):
    return "".join(d.text for o in outputs for d in o.deltas if d.channel is channel)


async def test_info_is_complete(engine):
    info = engine.info
    assert engine.ready
    assert info.vocab_size > 0
    assert "<|im_start|>" in info.chat_template
    assert "<|im_end|>" in info.control_tokens
    assert 0 < info.max_model_len <= info.kv_capacity


@pytest.mark.parametrize("text", ["Add up", "  two  spaces\n\n", "grün 😀", "x" * 3000])
async def test_text_survives_the_tokenizer(engine, text):
    ids = await engine.tokenize([PromptSegment(text)])
    assert await engine.detokenize(ids) == text


async def test_control_tokens_are_recognised_only_where_asked(engine):
    as_token = await engine.tokenize([PromptSegment("<|im_end|>")])
    as_text = await engine.tokenize([PromptSegment("<|im_end|>", special=False)])
    assert len(as_token) == 1
    assert len(as_text) > 1


async def test_an_id_outside_the_vocabulary_is_refused(engine):
    for wrong in (-1, engine.info.vocab_size):
        with pytest.raises(InvalidParameterError):
            await engine.detokenize([wrong])


async def test_exactly_one_terminal_output(engine):
    outputs = await outputs_of(engine, await request_for(engine))
    assert [o.finish is not None for o in outputs] == [False] * (len(outputs) - 1) + [True]


async def test_max_tokens_is_exact(engine):
    request = await request_for(
        engine, max_tokens=7, sampling=SamplingParams(temperature=0, ignore_eos=True)
    )
    outputs = await outputs_of(engine, request)
    assert outputs[-1].num_tokens == 7
    assert outputs[-1].finish.reason is FinishReason.LENGTH


async def test_a_stop_string_ends_the_text_before_it(engine):
    whole = text_of(await outputs_of(engine, await request_for(engine, max_tokens=30)))
    stop = whole[4:7]
    outputs = await outputs_of(engine, await request_for(engine, max_tokens=30, stop=(stop,)))
    assert text_of(outputs) == whole[: whole.index(stop)]
    assert outputs[-1].finish.reason is FinishReason.STOP
    assert outputs[-1].finish.stop == stop


@pytest.mark.parametrize("budget", [0, 1, 3, 5])
async def test_the_budget_holds_and_delimiters_stay_out(engine, budget):
    request = await request_for(
        engine,
        max_tokens=60,
        thinking=await thinking(engine, budget),
        sampling=SamplingParams(temperature=0, min_tokens=12),
    )
    outputs = await outputs_of(engine, request)
    last = outputs[-1]
    assert last.num_reasoning_tokens <= budget
    assert last.finish.closed_by in (ClosedBy.BUDGET, ClosedBy.SOFT)
    assert "think>" not in text_of(outputs) + text_of(outputs, Channel.REASONING)


async def test_an_unbounded_thought_is_the_models_own(engine):
    request = await request_for(engine, max_tokens=400, thinking=await thinking(engine, None))
    outputs = await outputs_of(engine, request)
    assert text_of(outputs, Channel.REASONING)
    assert text_of(outputs)
    assert outputs[-1].finish.closed_by is ClosedBy.MODEL


async def test_many_at_a_time_are_the_same_as_one_by_one(engine):
    alone = text_of(await outputs_of(engine, await request_for(engine)))
    requests = [await request_for(engine, f"r{i}") for i in range(20)]
    together = await asyncio.gather(*(outputs_of(engine, r) for r in requests))
    assert {text_of(outputs) for outputs in together} == {alone}


async def test_logprobs_come_with_every_content_token(engine):
    request = await request_for(
        engine, max_tokens=5, sampling=SamplingParams(temperature=0, logprobs=1, ignore_eos=True)
    )
    logprobs = [lp for o in await outputs_of(engine, request) for lp in o.logprobs]
    assert len(logprobs) == 5
    assert all(lp.logprob <= 0 for lp in logprobs)
    assert all(lp.top[0][0] == lp.token for lp in logprobs)  # greedy: the best is the chosen


async def text_with(engine, max_tokens=30, text=CHAT, **sampling):
    request = await request_for(
        engine, text=text, max_tokens=max_tokens, sampling=SamplingParams(**sampling)
    )
    return text_of(await outputs_of(engine, request))


async def test_the_same_seed_gives_the_same_text(sampling_engine):
    hot = {"temperature": 2.0, "max_tokens": 40}
    found = [
        {await text_with(sampling_engine, seed=seed, **hot) for _ in range(3)} for seed in range(4)
    ]
    # Batches of another shape round differently, and a mixture of experts can make a difference of
    # that: the first one computes the prompt, and the others find it.
    assert sum(len(alike) == 1 for alike in found) >= 2
    assert len(set().union(*found)) >= 4


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.5, "top_k": 1},
        {"temperature": 1.5, "top_p": 1e-6},
        {"temperature": 1.5, "min_p": 1.0},
    ],
)
async def test_each_filter_can_leave_the_best_token_alone(sampling_engine, sampling):
    greedy = await text_with(sampling_engine, temperature=0)
    assert await text_with(sampling_engine, **sampling) == greedy


async def test_logit_bias_forces_and_forbids(sampling_engine):
    (token,) = await sampling_engine.tokenize([PromptSegment("7")])
    forced = {"temperature": 0, "logit_bias": ((token, 100.0),), "ignore_eos": True}
    assert await text_with(sampling_engine, max_tokens=4, **forced) == "7777"
    forbidden = await text_with(sampling_engine, temperature=0, logit_bias=((token, -100.0),))
    assert "7" not in forbidden


async def test_a_penalty_wears_a_favourite_out(sampling_engine):
    (seven,) = await sampling_engine.tokenize([PromptSegment("7")])
    (eight,) = await sampling_engine.tokenize([PromptSegment("8")])
    bias = ((seven, 100.0), (eight, 60.0))
    favoured = {"temperature": 0, "logit_bias": bias, "ignore_eos": True, "max_tokens": 80}
    assert await text_with(sampling_engine, **favoured) == "7" * 80
    assert "8" in await text_with(sampling_engine, **favoured, frequency_penalty=2.0)


async def test_min_tokens_holds_the_end_off(sampling_engine):
    request = await request_for(
        sampling_engine, max_tokens=200, sampling=SamplingParams(temperature=0, min_tokens=150)
    )
    outputs = await outputs_of(sampling_engine, request)
    assert outputs[-1].num_tokens >= 150


async def test_an_answer_after_a_forced_closer_is_what_its_own_prompt_gives(sampling_engine):
    """What follows the closer is the model's answer to prompt, thought and closer, no other."""
    thought = await thinking(sampling_engine, 5)
    request = await request_for(sampling_engine, max_tokens=40, thinking=thought)
    cut = await outputs_of(sampling_engine, request)
    assert cut[-1].finish.closed_by is ClosedBy.BUDGET
    again = CHAT + text_of(cut, Channel.REASONING) + "\n</think>\n\n"
    whole = await outputs_of(sampling_engine, await request_for(sampling_engine, text=again))
    assert text_of(cut).strip() == text_of(whole).strip()


async def test_leaving_early_frees_the_sequence(engine):
    request = await request_for(
        engine, max_tokens=2000, sampling=SamplingParams(temperature=0, ignore_eos=True)
    )
    async with aclosing(engine.generate(request)) as outputs:
        async for _ in outputs:
            break
    for _ in range(100):
        if engine.stats().running == 0:
            break
        await asyncio.sleep(0.02)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)


async def test_a_prompt_that_came_before_is_not_computed_again(sampling_engine):
    """Unless another tenant sent it."""
    text = CHAT.replace("invoice", "long invoice " * 20)

    async def cached(request_id, salt):
        request = await request_for(
            sampling_engine, request_id, text, max_tokens=3, cache_salt=salt
        )
        outputs = await outputs_of(sampling_engine, request)
        return outputs[-1].finish.cached_tokens, len(request.prompt_token_ids)

    assert (await cached("first", "tenant 1"))[0] == 0
    assert (await cached("other", "tenant 2"))[0] == 0
    count, length = await cached("again", "tenant 1")
    assert length - 32 <= count < length  # vLLM knows whole blocks only


async def test_requests_that_come_together_share_their_prompt(sampling_engine):
    text = CHAT.replace("invoice", "very long invoice " * 20)
    requests = [
        await request_for(sampling_engine, f"r{i}", text, max_tokens=3, cache_salt="together")
        for i in range(6)
    ]
    runs = await asyncio.gather(*(outputs_of(sampling_engine, r) for r in requests))
    counts = [outputs[-1].finish.cached_tokens for outputs in runs]
    if sampling_engine.info.engine == "llama.cpp":  # vLLM computes what comes in one step
        assert sorted(count > 0 for count in counts) == [False] + [True] * 5
    assert len({text_of(outputs) for outputs in runs}) == 1


async def test_what_was_computed_is_known_by_request_when_it_ends(engine):
    requests = [await request_for(engine, f"r{i}", max_tokens=8 * (i + 1)) for i in range(3)]
    engine.take_work()
    await asyncio.gather(*(outputs_of(engine, request) for request in requests))
    work = engine.take_work()
    assert set(work) == {"r0", "r1", "r2"}
    assert all(seconds > 0 for seconds in work.values())
    assert engine.take_work() == {}, "it is told once"


async def test_a_traced_request_tells_its_tokens_and_how_it_began(engine):
    request = await request_for(engine, max_tokens=12, traced=True)
    outputs = await outputs_of(engine, request)
    traces = [output.trace for output in outputs if output.trace is not None]
    ids = [i for trace in traces for i in trace.token_ids]
    assert len(ids) == outputs[-1].num_tokens
    assert b"".join(trace.piece for trace in traces).decode().startswith(text_of(outputs))
    first, *later = outputs
    assert first.trace is not None
    assert first.trace.start is not None
    assert all(output.trace is None or output.trace.start is None for output in later)
    plain = await outputs_of(engine, await request_for(engine, "p", max_tokens=12))
    assert not any(output.trace for output in plain)


async def test_a_thought_in_parts_is_the_thought(sampling_engine):
    """An answer is tried at every line and never taken: the rest is as if nothing had been."""
    lines = EarlyExit(markers=("",), confidence=1.0)
    same, parts = 0, 0
    for number in range(6):
        text = CHAT.replace("4x5", f"{2 + number}x5")
        budget = await thinking(sampling_engine, 64)
        request = await request_for(sampling_engine, f"w{number}", text, 90, thinking=budget)
        plain = await outputs_of(sampling_engine, request)
        outputs = await outputs_of(EarlyExits(sampling_engine, lines), request)
        finish = outputs[-1].finish
        assert finish is not None
        parts += finish.trial_tokens > 0
        assert outputs[-1].num_reasoning_tokens <= 64
        same += all(text_of(outputs, c) == text_of(plain, c) for c in Channel)
    assert parts == 6
    assert same >= 4, "rounding may flip a token where other rows are computed beside it"
