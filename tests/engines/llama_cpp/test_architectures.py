"""Tiny random models of other architectures: sliding windows, recurrent state, experts."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import gguf_shapes
import make_random_gguf
import pytest

from local_worker.engines.llama_cpp.config import LLAMA_CPP, OWN
from local_worker.types import FinishReason, GenerationRequest, SamplingParams

pytestmark = [pytest.mark.anyio, pytest.mark.llama]

TINY = sorted(name for name in gguf_shapes.SHAPES if name.startswith("tiny-"))
DENSE = [name for name in TINY if "expert_count" not in gguf_shapes.SHAPES[name][1]]
"""Experts are chosen by rounding, too, and other batches round differently."""

MOVE = ("tiny-mistral3", "tiny-qwen3moe")
"""Those whose layout changes: they keep every token."""


@pytest.fixture(scope="module", params=TINY)
def model(request, tmp_path_factory):
    """A model file of each shape."""
    pytest.importorskip("gguf", reason="writes a model file")
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    make_random_gguf.make(request.param, path, vocab=None)
    return path


async def test_every_family_is_served(model, running_llama):
    options = {"model_path": str(model), "max_tokens_per_step": 32, "max_num_seqs": 4}
    async with running_llama(**options) as engine:
        requests = [
            GenerationRequest(
                f"r{n}",
                tuple(range(3, 3 + 7 * n)),
                10 + n,
                SamplingParams(temperature=1, seed=n, ignore_eos=True),
            )
            for n in range(1, 8)
        ]

        async def last(request):
            return [output async for output in engine.generate(request)][-1]

        ends = await asyncio.gather(*map(last, requests))
        assert [end.num_tokens for end in ends] == [10 + n for n in range(1, 8)]
        assert {end.finish.reason for end in ends} == {FinishReason.LENGTH}
        stats = engine.stats()
        assert (stats.running, stats.kv_used, stats.restarts) == (0, 0, 0)


END = 258
"""The byte vocabulary's end of a message: a border."""

SYSTEM = (*(3 + i * 7 % 190 for i in range(150)), END)
"""Longer than the window of the shape that has one."""


def jobs(count, *, salt=""):
    """Prompts that share a system text, and, two by two, the beginning of what follows."""
    for n in range(count):
        own = (20 + n // 2, 30, 40, *range(100, 100 + 5 * (n % 2)), 50 + n, END)
        request = GenerationRequest(
            f"job-{n}", (*SYSTEM, *own), 12,
            SamplingParams(temperature=0, ignore_eos=True, logprobs=2), cache_salt=salt,
        )  # fmt: skip
        yield request


async def answer(engine, request):
    """The tokens' logprobs, and how many tokens of the prompt were not computed."""
    outputs = [output async for output in engine.generate(request)]
    return [lp for o in outputs for lp in o.logprobs], outputs[-1].finish.cached_tokens


@pytest.fixture
def run_jobs(model, running_llama):
    async def run(requests, *, at_once=False, **options):
        options = {"model_path": str(model), "max_tokens_per_step": 64} | options
        async with running_llama(**options) as engine:
            if at_once:
                return await asyncio.gather(*(answer(engine, r) for r in requests))
            return [await answer(engine, request) for request in requests]

    return run


TIE = 0.02
"""Batches of another shape change a logprob by 0.005 or less, and one in a hundred by more."""


def is_same(found, expected):
    """Token by token the same; up to where the two best ones are so close that rounding decides."""
    for a, b in zip(found, expected, strict=True):
        if a.token_id != b.token_id:
            return all(x.top[0][1] - x.top[1][1] < TIE for x in (a, b))
        if abs(a.logprob - b.logprob) > TIE:
            return False
    return True


def check_same(found, expected, model, kernels=OWN):
    """Nearly all answers are the same, of a model with experts or with llama.cpp's kernels most.

    Wrong memory would spoil them all.
    """
    same = [is_same(a, b) for (a, _), (b, _) in zip(found, expected, strict=True)]
    alike = 0.9 if model.stem in DENSE and kernels == OWN else 0.6
    assert sum(same) >= int(len(same) * alike), same


async def test_a_cached_prefix_changes_no_token(run_jobs, model):
    """Whatever the memory: full, windowed, recurrent."""
    plain = await run_jobs(jobs(6), cache_slots=0)
    cached = await run_jobs(jobs(6), cache_slots=8)
    check_same(cached, plain, model)
    assert {count for _, count in plain} == {0}
    assert cached[0][1] == 0
    assert all(count >= len(SYSTEM) - 1 for _, count in cached[1:])


async def test_jobs_that_come_together_share_and_change_no_token(run_jobs, model):
    plain = await run_jobs(jobs(8), cache_slots=0)
    together = await run_jobs(jobs(8), at_once=True, cache_slots=8)
    check_same(together, plain, model)
    assert sum(count >= len(SYSTEM) - 1 for _, count in together) == 7


async def test_the_same_prompt_again_and_the_next_turn(run_jobs, model):
    (first,) = jobs(1)
    answered = (*first.prompt_token_ids, 60, 61, 62, END, 70, 71)
    requests = [first, first, replace(first, prompt_token_ids=answered)]
    plain = await run_jobs(requests, cache_slots=0)
    cached = await run_jobs(requests, cache_slots=8)
    check_same(cached, plain, model)
    length = len(first.prompt_token_ids)
    assert cached[1][1] == length - 1
    assert cached[2][1] >= length - 1


async def test_what_a_question_has_computed_is_taken_over(run_jobs, model):
    """`auto` asks the model about a prompt that the request itself then begins with."""
    (job, *_) = jobs(1)
    prompt = job.prompt_token_ids
    alike = len(prompt) - 3
    question = replace(
        job,
        request_id="question",
        prompt_token_ids=(*prompt[:alike], 7, 9, 11, 13, 15, 17, 19),
        max_tokens=1,
        continues_at=alike,
    )
    plain = await run_jobs([job], cache_slots=0)
    _, found = await run_jobs([question, job], cache_slots=8)
    assert found[1] == alike
    check_same([found], plain, model)


async def test_another_salt_shares_nothing(run_jobs):
    requests = [*jobs(1, salt="a"), *jobs(1, salt="b"), *jobs(1, salt="a")]
    counts = [count for _, count in await run_jobs(requests, cache_slots=8)]
    assert counts[:2] == [0, 0]
    assert counts[2] > 0


@pytest.mark.parametrize("model", DENSE, indirect=True)
async def test_a_cache_without_room_still_changes_no_token(run_jobs, model):
    options = {"kv_capacity": 256, "max_model_len": 256, "max_num_seqs": 2}
    plain = await run_jobs(jobs(8), cache_slots=0, **options)
    tight = await run_jobs(jobs(8), at_once=True, cache_slots=1, **options)
    check_same(tight, plain, model)


async def test_prompts_that_share_little_are_all_kept(run_jobs):
    """A few tokens in common, of which windows and states can lend nothing."""
    header = SYSTEM[:3]
    texts = [(*header, *range(start, start + 90), END) for start in (3, 60, 100)]
    (job,) = jobs(1)
    requests = [replace(job, prompt_token_ids=text) for text in (*texts, *texts)]
    counts = [count for _, count in await run_jobs(requests, cache_slots=8)]
    assert all(count <= len(header) for count in counts[:3])
    assert all(count == len(texts[0]) - 1 for count in counts[3:])


async def test_a_prompt_is_not_continued_from_where_another_one_has_got_to(model, running_llama):
    """The second request comes while the first one, whose prompt it begins with, is decoding."""
    (first,) = jobs(1)
    first = replace(first, max_tokens=60)
    second = replace(
        first, request_id="next", max_tokens=12,
        prompt_token_ids=(*first.prompt_token_ids, 60, 61, 62, END),
    )  # fmt: skip

    options = {"model_path": str(model), "max_tokens_per_step": 64}
    async with running_llama(**options, cache_slots=0) as engine:
        plain, _ = await answer(engine, second)
    async with running_llama(**options, cache_slots=8) as engine:
        stream = engine.generate(first)
        for _ in range(20):
            await anext(stream)
        beside, count = await answer(engine, second)
        await stream.aclose()
    if model.stem in DENSE:
        assert is_same(beside, plain)
    assert count >= len(SYSTEM) - 1


@pytest.mark.parametrize("model", ["tiny-gemma4-dense"], indirect=True)
async def test_the_pool_of_windows_is_never_shared_away(model, running_llama):
    """Prompts of several windows, for which the pool has just enough room."""
    (job,) = jobs(1)
    long = tuple(3 + i * 11 % 180 for i in range(480))
    requests = [
        replace(job, request_id=f"r{i}", prompt_token_ids=(*long, 3 + i), max_tokens=40)
        for i in range(4)
    ]
    options = {"max_num_seqs": 2, "cache_slots": 2, "max_tokens_per_step": 64}
    async with running_llama(model_path=str(model), **options) as engine:

        async def outputs_of(request):
            return [output async for output in engine.generate(request)]

        runs = await asyncio.gather(*map(outputs_of, requests))
    assert {outputs[-1].finish.reason for outputs in runs} == {FinishReason.LENGTH}


async def test_what_was_evicted_comes_back_and_changes_no_token(run_jobs, model):
    """Two system texts in turns, where there is room for little more than one of them."""
    texts = [(*(3 + i * step % 180 for i in range(300)), END) for step in (7, 11)]
    mixed = [
        replace(job, prompt_token_ids=(*text, *job.prompt_token_ids[len(SYSTEM) :]))
        for job in jobs(4)
        for text in texts
    ]
    plain = await run_jobs(mixed, cache_slots=0)
    options = {"cache_slots": 12, "cheap_cells": 16, "max_num_seqs": 1, "kv_capacity": 512}
    kept = await run_jobs(mixed, **options, max_model_len=384)
    check_same(kept, plain, model)
    assert sum(count >= 300 for _, count in kept) >= 4


async def test_a_restart_keeps_what_others_began_with(run_jobs, model, tmp_path):
    plain = await run_jobs(jobs(6), cache_slots=0)
    options = {"cache_slots": 8, "cache_dir": str(tmp_path), "max_kept_bytes": 10**9}
    before = await run_jobs(list(jobs(6))[:3], **options)
    assert list(tmp_path.glob("*.kv"))
    after = await run_jobs(list(jobs(6))[3:], **options)
    check_same([*before, *after], plain, model)
    assert after[0][1] >= len(SYSTEM) - 1


async def test_cells_of_their_own_change_no_token(model, running_llama):
    """Many prompts at once that share nothing; of various lengths, so that slots fall free."""
    requests = [
        GenerationRequest(
            f"r{n}",
            (END, *((3 + n * 5 + i * (n % 7 + 1)) % 190 for i in range(20 + n % 50))),
            5 + n % 20,
            SamplingParams(temperature=0, ignore_eos=True, logprobs=2),
        )
        for n in range(80)
    ]
    options = {"model_path": str(model), "max_num_seqs": 16, "max_tokens_per_step": 64}
    if model.stem in MOVE:
        options["kernels"] = LLAMA_CPP  # with our own, one buffer is never slower

    async def answers(engine):
        return await asyncio.gather(*(answer(engine, request) for request in requests))

    async with running_llama(**options, kv_layout="unified", cache_slots=0) as engine:
        plain = await answers(engine)
    async with running_llama(**options) as engine:
        found = await answers(engine)
        separate = engine.stats().kv_separate
        jobs_after = await asyncio.gather(*(answer(engine, job) for job in jobs(40)))
        assert not engine.stats().kv_separate
        assert engine.stats().restarts == 0
    check_same(found, plain, model, options.get("kernels", OWN))
    assert separate == (model.stem in MOVE)
    assert any(count for _, count in jobs_after)


async def test_the_cells_change_under_those_that_run(model, running_llama):
    def one(n, tokens):
        prompt = (END, *((3 + n * 11 + i * (n % 9 + 1)) % 190 for i in range(30 + n)))
        params = SamplingParams(temperature=0, ignore_eos=True, logprobs=2)
        return GenerationRequest(f"m{n}", prompt, tokens, params)

    long, short = [one(n, 200) for n in range(4)], [one(n, 8) for n in range(4, 40)]
    options = {"model_path": str(model), "max_num_seqs": 16, "max_tokens_per_step": 64}
    if model.stem in MOVE:
        options["kernels"] = LLAMA_CPP  # with our own, one buffer is never slower

    async def answers(engine):
        running = [asyncio.create_task(answer(engine, request)) for request in long]
        while engine.stats().output_tokens < 40:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.002)
        others = await asyncio.gather(*(answer(engine, request) for request in short))
        return await asyncio.gather(*running), others

    async with running_llama(**options, kv_layout="unified", cache_slots=0) as engine:
        plain, _ = await answers(engine)
    async with running_llama(**options) as engine:
        found, _ = await answers(engine)
        assert engine.stats().restarts == 0
        assert engine.stats().kv_separate == (model.stem in MOVE)
    check_same(found, plain, model, options.get("kernels", OWN))


async def test_a_pinned_prompt_is_there_for_everybody_and_after_a_restart(model, running_llama):
    pinned = GenerationRequest("pin", SYSTEM, 1, SamplingParams(temperature=0), pinned=True)
    async with running_llama(model_path=str(model)) as engine:
        await answer(engine, pinned)
        first, second = (next(jobs(1, salt=salt)) for salt in ("a", "b"))
        assert (await answer(engine, first))[1] >= len(SYSTEM) - 1
        os.kill(engine._child.process.pid, signal.SIGKILL)
        for n in range(3):  # the pin is computed beside these, as soon as there is a process
            await answer(engine, replace(first, request_id=f"{n}", prompt_token_ids=(5, 6, 7, n)))
        assert (await answer(engine, second))[1] >= len(SYSTEM) - 1


async def test_guessing_changes_no_token(model, running_llama):
    """What random models say goes round in circles, which is easy to guess."""
    found, right = [], []
    for on in (True, False):
        options = {"model_path": str(model), "prompt_lookup": on, "kv_layout": "unified"}
        async with running_llama(**options, max_num_seqs=1) as engine:
            prompt = (*SYSTEM, *range(20, 60), *range(20, 60))
            request = GenerationRequest(
                "r", prompt, 160, SamplingParams(temperature=0, ignore_eos=True), traced=True
            )
            outputs = [output async for output in engine.generate(request)]
            found.append([i for o in outputs if o.trace for i in o.trace.token_ids])
            right.append(engine.stats().right_guesses)
    assert len(found[0]) == 160
    assert found[0] == found[1]
    assert right[1] == 0


async def test_with_attention_that_passes_over_cells_they_stay_shared(model, running_llama, kernel):
    requests = [
        GenerationRequest(
            f"r{n}",
            (END, *((3 + n * 5 + i * (n % 7 + 1)) % 190 for i in range(40))),
            40,
            SamplingParams(temperature=0, ignore_eos=True),
        )
        for n in range(40)
    ]
    del kernel
    async with running_llama(model_path=str(model), max_num_seqs=16) as engine:
        await asyncio.gather(*(answer(engine, request) for request in requests))
        assert not engine.stats().kv_separate
