from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from local_worker.api.early_exit import MOST_TRIALS, EarlyExits, may_exit
from local_worker.config import ServerConfig
from local_worker.engines.fake import FakeEngine, Script, encode
from local_worker.rules import EarlyExit
from local_worker.types import (
    Channel,
    ClosedBy,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    ThinkingParams,
    ThinkingTokens,
)
from tests.api.conftest import SPEC
from tests.api.test_chat import events

pytestmark = pytest.mark.anyio

THOUGHT = "2+2=4\ncheck 4\nso 4"
TOKENS = ThinkingTokens(
    tuple(encode("<think>")), tuple(encode("</think>")), tuple(encode("\n</think>\n\n")),
    tuple(encode("</think>\n\n")), tuple(encode("<tool_call>")), tuple(encode("</tool_call>")),
)  # fmt: skip
SURE, NEVER = EarlyExit(markers=("check",)), EarlyExit(markers=("check",), confidence=1)


def reply(prompt):
    """Goes on wherever the prompt has stopped, and answers after a closed thought."""
    said = prompt.rpartition("<think>\n")[2]
    if "</think>" in said:
        return "Four."
    return THOUGHT[len(said) :] + "\n</think>\n\nFour."


def request(**fields):
    fields.setdefault("thinking", ThinkingParams(TOKENS, 64, starts_inside=True))
    fields.setdefault("max_tokens", 60)
    prompt = tuple(encode("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n"))
    return GenerationRequest("r", prompt, **fields)


@pytest.fixture
async def engine():
    engine = FakeEngine(Script(reply=reply))
    await engine.start()
    return engine


async def run(engine, spec, asked):
    return [output async for output in EarlyExits(engine, spec).generate(asked)]


def text(outputs, channel):
    return "".join(d.text for o in outputs for d in o.deltas if d.channel is channel)


async def test_a_thought_whose_answer_is_settled_ends(engine):
    outputs = await run(engine, SURE, request())
    assert text(outputs, Channel.REASONING) == "2+2=4\nchec"
    assert text(outputs, Channel.CONTENT) == "Four."
    last = outputs[-1]
    assert {o.request_id for o in outputs} == {"r"}
    assert sum(o.finish is not None for o in outputs) == 1
    assert last.finish.closed_by is ClosedBy.EARLY
    assert last.finish.reason is FinishReason.STOP
    assert last.finish.trial_tokens == 0, "the trial is the answer"
    used = len("2+2=4\ncheck")
    assert last.num_reasoning_tokens == used
    assert last.num_tokens == used + len(TOKENS.close_after_newline) + len("Four.") + 1
    assert not any(o.logprobs for o in outputs), "nobody asked for them"
    counts = [o.num_tokens for o in outputs]
    assert counts == sorted(counts)


async def test_a_thought_whose_answer_is_not_goes_on_as_if_nothing_had_been(engine):
    plain = [o async for o in engine.generate(request())]
    outputs = await run(engine, NEVER, request())
    for channel in Channel:
        assert text(outputs, channel) == text(plain, channel)
    last, expected = outputs[-1], plain[-1]
    assert last.num_tokens == expected.num_tokens
    assert last.num_reasoning_tokens == expected.num_reasoning_tokens
    assert last.finish.closed_by is ClosedBy.MODEL
    assert last.finish.trial_tokens == len(TOKENS.close_after_newline) + len("Four.") + 1


async def test_the_bounds_hold_over_all_parts(engine):
    for budget in range(1, 24):
        for most in (14, 20, 60):
            asked = request(
                thinking=ThinkingParams(TOKENS, budget, starts_inside=True), max_tokens=most
            )
            for spec in (SURE, NEVER):
                last = (await run(engine, spec, asked))[-1]
                assert last.num_reasoning_tokens <= budget
                assert last.num_tokens <= most


async def test_every_part_goes_on_where_the_last_one_was(engine):
    await run(engine, NEVER, request())
    whole, tried, rest = engine.requests
    assert not whole.goes_on
    assert tried.goes_on
    assert rest.goes_on
    prompt = whole.prompt_token_ids
    assert tried.prompt_token_ids == (*prompt, *encode("2+2=4\n"), *TOKENS.close_after_newline)
    assert rest.prompt_token_ids == (*prompt, *encode("2+2=4\ncheck"))
    assert (rest.thinking.budget, rest.thinking.used) == (64, len("2+2=4\ncheck"))
    assert rest.max_tokens == 60 - len("2+2=4\ncheck")


async def test_only_so_many_answers_are_tried():
    engine = FakeEngine(Script(reply=lambda p: "Four." if "</think>" in p else "check\n" * 30))
    await engine.start()
    asked = request(max_tokens=300, thinking=ThinkingParams(TOKENS, 200, starts_inside=True))
    await run(engine, NEVER, asked)
    assert sum(".t" in r.request_id for r in engine.requests) == MOST_TRIALS


async def test_logprobs_that_were_asked_for_come_with_the_answer(engine):
    asked = request(sampling=SamplingParams(logprobs=0))
    outputs = await run(engine, SURE, asked)
    content = [logprob for o in outputs for logprob in o.logprobs]
    assert b"".join(one.token for one in content) == b"Four."
    assert all(one.top == () for one in content)


async def test_an_answer_that_is_cut_is_cut(engine):
    asked = request(max_tokens=len("2+2=4\ncheck") + len(TOKENS.close_after_newline) + 8,
                    stop=("ur",))  # fmt: skip
    last = (await run(engine, SURE, asked))[-1]
    assert last.finish.stop == "ur"
    assert last.finish.closed_by is ClosedBy.EARLY


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": None},
        {"thinking": ThinkingParams(TOKENS, 0)},
        {"sampling": SamplingParams(min_tokens=5)},
        {"sampling": SamplingParams(ignore_eos=True)},
        {"sampling": SamplingParams(presence_penalty=0.5)},
        {"sampling": SamplingParams(frequency_penalty=0.5)},
    ],
)
async def test_who_would_notice_is_left_alone(engine, fields):
    asked = request(**fields)
    assert not may_exit(asked)
    await run(engine, SURE, asked)
    assert engine.requests == [asked]


async def test_leaving_early_ends_whatever_runs(engine):
    engine.script.token_delay = 0.001
    generation: Any = EarlyExits(engine, SURE).generate(request())
    async for output in generation:
        if text([output], Channel.CONTENT):
            break
    await generation.aclose()
    await asyncio.sleep(0)
    assert engine.running == 0


async def test_white_space_between_two_parts_is_not_lost(engine):
    """A marker with a space at its end: the part that ends there has not shown it."""
    spec = NEVER.model_copy(update={"markers": ("check ",)})
    outputs = await run(engine, spec, request())
    assert len(engine.requests) == 3
    assert text(outputs, Channel.REASONING) == THOUGHT


QUESTION = "One word."


@pytest.fixture
def exit_api(make_api):
    def make(pays, **options):
        thinking = SPEC.model_copy(
            update={
                "default_effort": "auto",
                "early_exit": EarlyExit(markers=("check",), pays=pays),
                "probe": SPEC.probe.model_copy(update={"question": QUESTION}),
            }
        )
        return make_api(thinking=thinking, **options)

    return make


def answers(prompt):
    return "medium" if QUESTION in prompt else reply(prompt)


async def test_auto_may_end_a_thought_and_says_so(exit_api):
    async with exit_api(pays=True) as api:
        api.engine.script = Script(reply=answers)
        body = (await api.chat()).json()
        assert body["reasoning"]["closed_by"] == "early"
        assert body["choices"][0]["message"]["content"] == "Four."
        assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 11
        chunks, done = events((await api.chat(stream=True, n=2)).text)
        assert done
        contents = [
            "".join(
                c["choices"][0]["delta"].get("content") or ""
                for c in chunks
                if c["choices"] and c["choices"][0]["index"] == index
            )
            for index in range(2)
        ]
        assert contents == ["Four.", "Four."]
        api.state.books.settle()
        assert b'finish_reason="stop"' in api.state.metrics.text()


async def test_a_level_that_somebody_names_is_thought_through(exit_api):
    async with exit_api(pays=True) as api:
        api.engine.script = Script(reply=answers)
        body = (await api.chat(reasoning_effort="medium")).json()
        assert body["reasoning"]["closed_by"] == "model"


@pytest.mark.parametrize(("pays", "option", "closed"), [
    (False, None, "model"), (False, True, "early"), (True, False, "model"),
])  # fmt: skip
async def test_it_is_on_where_it_pays_or_somebody_says_so(exit_api, pays, option, closed):
    async with exit_api(pays, config=ServerConfig(early_exit=option)) as api:
        api.engine.script = Script(reply=answers)
        assert (await api.chat()).json()["reasoning"]["closed_by"] == closed


async def test_what_trials_took_is_counted(exit_api):
    async with exit_api(pays=True) as api:
        api.engine.script = Script(reply=answers)
        api.state.loaded = replace(api.state.loaded, early_exit=NEVER)
        body = (await api.chat()).json()
        auto = body["reasoning"]["auto"]["router_tokens"]
        tried = len(TOKENS.close_after_newline) + len("Four.") + 1
        assert body["usage"]["router_tokens"] == auto + tried
        assert body["reasoning"]["closed_by"] == "model"


@pytest.mark.parametrize(
    ("pays", "fields", "closed"),
    [
        (True, {"early_exit": False}, "model"),
        (False, {"early_exit": True}, "early"),
        (False, {"early_exit": True, "reasoning_effort": "high"}, "early"),
    ],
)
async def test_a_request_can_say_so_itself(exit_api, pays, fields, closed):
    async with exit_api(pays) as api:
        api.engine.script = Script(reply=answers)
        assert (await api.chat(**fields)).json()["reasoning"]["closed_by"] == closed


async def test_a_rejected_trial_leaves_the_soft_landing_where_it_was():
    lines = "aaaa\n" * 11 + "cccc\ncccc\ncccc"
    said = lambda p: p.rpartition("<think>\n")[2]  # noqa: E731
    engine = FakeEngine(Script(reply=lambda p: "So." if "</think>" in p else lines[len(said(p)) :]))
    await engine.start()
    asked = request(max_tokens=200)
    plain = [o async for o in engine.generate(asked)]
    spec = EarlyExit(markers=("cc",), confidence=1)
    parts = await run(engine, spec, asked)
    assert [o.finish.closed_by for o in plain if o.finish] == [ClosedBy.SOFT]
    assert [o.finish.closed_by for o in parts if o.finish] == [ClosedBy.SOFT]
    assert text(parts, Channel.REASONING) == text(plain, Channel.REASONING)
    assert parts[-1].num_reasoning_tokens == plain[-1].num_reasoning_tokens


async def test_a_character_that_is_not_whole_is_not_cut():
    thought = "2+2=4\nöl 4\n\u3000so 4"
    data = thought.encode()
    engine = FakeEngine(Script(reply=lambda _: ""))
    await engine.start()

    def rest(prompt):
        done = prompt.rpartition("<think>\n")[2].encode()
        return "So." if "</think>" in prompt else data[len(done) :].decode() + "\n</think>\n\nSo."

    engine.script = Script(reply=rest)
    outputs = await run(engine, EarlyExit(markers=("",), confidence=1), request(max_tokens=200))
    assert text(outputs, Channel.REASONING) == thought


async def test_no_part_repeats_the_draws_of_another(engine):
    asked = request(sampling=SamplingParams(temperature=1.0, seed=5))
    await run(engine, NEVER, asked)
    seeds = [one.sampling.seed for one in engine.requests]
    assert seeds[0] == 5
    assert len(set(seeds)) == len(seeds) == 3


async def test_where_others_wait_nothing_is_tried(engine):
    crowded = EarlyExits(engine, SURE, lambda: False)
    outputs = [output async for output in crowded.generate(request())]
    assert len(engine.requests) == 1
    assert [o.finish.closed_by for o in outputs if o.finish] == [ClosedBy.MODEL]
