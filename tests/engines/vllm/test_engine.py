"""What is vLLM's own: several processes, phases, and folders it cannot load."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal

import psutil
import pytest

from local_worker.demo import gguf_path
from local_worker.errors import EngineDiedError, EngineStartError
from local_worker.types import GenerationRequest, PromptSegment, SamplingParams

pytestmark = [pytest.mark.anyio, pytest.mark.vllm, pytest.mark.timeout(400)]

CHAT = (
    "<|im_start|>user\nAdd up this invoice.\npens 3x14\ncups 2x9<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n"
)


async def request_for(engine, request_id="r", max_tokens=30, **sampling):
    prompt = await engine.tokenize([PromptSegment(CHAT)])
    sampling.setdefault("temperature", 0)
    return GenerationRequest(request_id, prompt, max_tokens, SamplingParams(**sampling))


async def text(engine, request):
    outputs = [output async for output in engine.generate(request)]
    return "".join(d.text for o in outputs for d in o.deltas)


def core_of(engine):
    """The process that vLLM computes in."""
    children = psutil.Process(engine._child.process.pid).children(recursive=True)
    return next(child for child in children if "EngineCore" in "".join(child.cmdline()))


async def test_a_killed_core_is_rebuilt_and_only_what_was_shown_is_lost(vllm_engine):
    engine = vllm_engine
    expected = await text(engine, await request_for(engine))
    before = engine.stats().restarts
    begun = engine.generate(await request_for(engine, "begun", 3000, ignore_eos=True))
    async for output in begun:
        if output.deltas:
            break
    core_of(engine).send_signal(signal.SIGKILL)
    silent = asyncio.create_task(text(engine, await request_for(engine, "silent")))
    with pytest.raises(EngineDiedError, match="in the middle"):
        async for _ in begun:
            pass
    assert not engine.ready
    assert await silent == expected
    assert engine.ready
    assert engine.stats().restarts == before + 1


async def test_nothing_outlives_the_engine(running_vllm):
    async with running_vllm() as engine:
        worker = psutil.Process(engine._child.process.pid)
        family = [worker, *worker.children(recursive=True)]
        assert len(family) > 1
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


async def test_two_ranks_of_tensor_parallel_give_the_same_answer(vllm_engine, running_vllm):
    alone = await text(vllm_engine, await request_for(vllm_engine))
    args = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    async with running_vllm(engine_args=args) as engine:
        assert await text(engine, await request_for(engine)) == alone


async def test_a_dead_client_leaves_no_sequence_behind(vllm_engine):
    """Leaving while a sequence waits for its turn, which the contract cannot time."""
    requests = [await request_for(vllm_engine, f"r{i}", 2000, ignore_eos=True) for i in range(12)]
    tasks = [asyncio.create_task(text(vllm_engine, request)) for request in requests]
    for _ in range(500):
        if vllm_engine.stats().waiting == 4:
            break
        await asyncio.sleep(0.02)
    assert (vllm_engine.stats().running, vllm_engine.stats().waiting) == (8, 4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(500):
        if vllm_engine.stats().running == 0:
            break
        await asyncio.sleep(0.02)
    stats = vllm_engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)


def folder_with(tmp_path, *, without=(), **config):
    folder = tmp_path / "model"
    shutil.copytree(gguf_path().parent, folder, ignore=shutil.ignore_patterns("*.gguf", *without))
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


async def test_an_unknown_architecture_is_one_clear_line(tmp_path, running_vllm):
    folder = folder_with(tmp_path, architectures=["NoSuchForCausalLM"], model_type="nosuch")
    with pytest.raises(EngineStartError, match="architecture") as caught:
        async with running_vllm(model_path=str(folder)):
            pass
    assert "\n" not in str(caught.value)


async def test_too_little_memory_for_the_cache_is_one_clear_line(running_vllm):
    with pytest.raises(EngineStartError, match="--context") as caught:
        async with running_vllm(engine_args={"kv_cache_memory_bytes": 1 << 16}):
            pass
    assert "\n" not in str(caught.value)


async def test_a_term_signal_to_the_process_is_not_for_it(vllm_engine):
    before = vllm_engine.stats().restarts
    os.kill(vllm_engine._child.process.pid, signal.SIGTERM)
    assert await text(vllm_engine, await request_for(vllm_engine))
    assert vllm_engine.stats().restarts == before
