"""What is llama.cpp's own: seeds, penalties, a dying process, and what the process refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from local_worker.engines.llama_cpp.config import LLAMA_CPP, LlamaConfig
from local_worker.engines.llama_cpp.engine import LlamaCppEngine, environment
from local_worker.engines.llama_cpp.kernels.build import UnavailableError
from local_worker.engines.llama_cpp.kernels.hook import KERNELS
from local_worker.errors import EngineDiedError, EngineNotReadyError, EngineStartError
from local_worker.types import FinishReason, GenerationRequest, PromptSegment, SamplingParams

pytestmark = [pytest.mark.anyio, pytest.mark.llama]

CHAT = (
    "<|im_start|>user\nAdd up this invoice.\npens 3x14\ncups 2x9<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n"
)
LONG = SamplingParams(temperature=0, ignore_eos=True)


async def request_for(engine, request_id="r", max_tokens=30, **sampling):
    prompt = await engine.tokenize([PromptSegment(CHAT)])
    return GenerationRequest(request_id, prompt, max_tokens, SamplingParams(**sampling))


async def text(engine, request):
    outputs = [output async for output in engine.generate(request)]
    return "".join(d.text for o in outputs for d in o.deltas)


def maps_of(pid):
    return Path(f"/proc/{pid}/maps").read_text()


def environment_of(pid):
    return Path(f"/proc/{pid}/environ").read_bytes()


async def first_output(generator):
    async for output in generator:
        if output.deltas:
            return output
    raise AssertionError("no output")


async def test_a_killed_process_is_replaced_and_the_silent_request_runs_again(running_llama):
    async with running_llama() as engine:
        expected = await text(engine, await request_for(engine, temperature=0))
        os.kill(engine._child.process.pid, signal.SIGKILL)
        assert await text(engine, await request_for(engine, "again", temperature=0)) == expected
        assert engine.stats().restarts == 1


async def test_a_response_that_has_begun_ends_with_an_error(running_llama):
    async with running_llama() as engine:
        prompt = await engine.tokenize([PromptSegment(CHAT)])
        generator = engine.generate(GenerationRequest("long", prompt, 3000, LONG))
        await first_output(generator)
        os.kill(engine._child.process.pid, signal.SIGKILL)
        with pytest.raises(EngineDiedError, match="in the middle"):
            async for _ in generator:
                pass


async def test_a_process_that_cannot_come_back_fails_everything(running_llama, monkeypatch):
    monkeypatch.setattr("local_worker.engines.process.engine.RETRY_DELAYS", (0.0, 0.0))
    async with running_llama() as engine:
        broken = LlamaConfig("/nowhere.gguf", 512, 512, 1)
        engine._program = replace(engine._program, config=broken)
        waiting = asyncio.create_task(text(engine, await request_for(engine, temperature=0)))
        os.kill(engine._child.process.pid, signal.SIGKILL)
        with pytest.raises(EngineDiedError):
            await waiting
        assert not engine.ready
        await asyncio.wait_for(engine.failed(), 5)
        with pytest.raises(EngineNotReadyError):
            await engine.tokenize([PromptSegment("x")])


async def test_only_those_that_were_begun_are_suspects(running_llama):
    """A request that waits while others die with the process is not given up with them."""
    async with running_llama(max_num_seqs=1) as engine:
        prompt = await engine.tokenize([PromptSegment(CHAT)])
        silent = SamplingParams(temperature=0, ignore_eos=True)
        thinking = GenerationRequest("poison", prompt, 3000, silent, stop=("never",))
        engine_waiting = await request_for(engine, "innocent", temperature=0)
        poison = engine.generate(thinking)
        first = asyncio.create_task(anext(poison))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(text(engine, engine_waiting))
        await first
        assert engine._pending["innocent"].attempts == 0
        for _ in range(4):
            await engine._settled.wait()
            os.kill(engine._child.process.pid, signal.SIGKILL)
            for _ in range(200):
                if not engine.ready:
                    break
                await asyncio.sleep(0.01)
            await engine._settled.wait()
            if "poison" not in engine._pending:
                break
        assert await waiting
        await poison.aclose()


async def test_a_term_signal_to_the_process_is_not_for_it(running_llama):
    async with running_llama() as engine:
        os.kill(engine._child.process.pid, signal.SIGTERM)
        assert await text(engine, await request_for(engine, temperature=0))
        assert engine.stats().restarts == 0


async def test_a_system_without_room_for_a_process_is_tried_again(running_llama, monkeypatch):
    async with running_llama() as engine:
        expected = await text(engine, await request_for(engine, temperature=0))
        real = asyncio.create_subprocess_exec
        refused: list[int] = []

        async def refuse_once(*arguments, **options):
            if not refused:
                refused.append(1)
                raise BlockingIOError("Resource temporarily unavailable")
            return await real(*arguments, **options)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse_once)
        os.kill(engine._child.process.pid, signal.SIGKILL)
        assert await text(engine, await request_for(engine, "again", temperature=0)) == expected
        assert refused


async def test_a_long_text_is_cut_before_control_tokens_without_a_trace(running_llama):
    async with running_llama() as engine:
        piece = "pens 3x14 <|im_end|>\n<|im_start|>user\n  grün <think>"
        whole = await engine.tokenize([PromptSegment(piece * 400)])
        apart = await engine.tokenize([PromptSegment(piece)])
        assert whole == apart * 400


async def test_tokenizing_survives_a_death(running_llama):
    async with running_llama() as engine:
        os.kill(engine._child.process.pid, signal.SIGKILL)
        assert await engine.tokenize([PromptSegment("<|im_end|>")])


async def test_what_never_fits_the_kv_buffer_is_an_error_and_not_a_wait(running_llama):
    async with running_llama(kv_capacity=512, max_model_len=512) as engine:
        request = await request_for(engine, max_tokens=5000, temperature=0)
        outputs = [o async for o in engine.generate(request)]
    assert outputs[-1].finish.reason is FinishReason.ERROR
    assert "KV cells" in outputs[-1].finish.error


async def test_more_sequences_than_room_wait_their_turn(running_llama):
    async with running_llama(kv_capacity=512, max_model_len=512, max_num_seqs=8) as engine:
        requests = [
            await request_for(engine, f"r{i}", max_tokens=150, temperature=0, ignore_eos=True)
            for i in range(8)
        ]
        outputs = await asyncio.gather(*(text(engine, r) for r in requests))
    # Beyond its answer the model babbles, and there the rounding of another batch can be seen.
    assert len({output[:60] for output in outputs}) == 1


async def aborted(engine, request, condition):
    """Starts a request, waits for the condition, leaves, and waits until nothing is left."""
    task = asyncio.create_task(text(engine, request))
    for _ in range(500):
        if condition(engine.stats()):
            break
        await asyncio.sleep(0.01)
    assert condition(engine.stats())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def nothing_left(engine):
    for _ in range(500):
        stats = engine.stats()
        if (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_leaving_while_waiting(running_llama):
    async with running_llama(max_num_seqs=1) as engine:
        first = await request_for(engine, "first", max_tokens=3000, ignore_eos=True)
        second = await request_for(engine, "second")
        running = asyncio.create_task(text(engine, first))
        await aborted(engine, second, lambda stats: stats.waiting == 1)
        for _ in range(500):
            if engine.stats().waiting == 0:
                break
            await asyncio.sleep(0.01)
        assert (engine.stats().waiting, engine.stats().running) == (0, 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await nothing_left(engine)


async def test_leaving_while_prefilling(running_llama):
    async with running_llama(max_tokens_per_step=8) as engine:
        request = GenerationRequest("long", tuple(range(20, 60)) * 90, 10)
        await aborted(engine, request, lambda stats: 0 < stats.kv_used < 3600)
        assert await nothing_left(engine)
        assert engine.stats().output_tokens == 0


async def test_a_process_that_hangs_is_replaced(running_llama, monkeypatch):
    monkeypatch.setattr("local_worker.engines.process.engine.STEP_TIMEOUT", 0.5)
    async with running_llama() as engine:
        expected = await text(engine, await request_for(engine, temperature=0))
        request = await request_for(engine, "again", temperature=0)
        os.kill(engine._child.process.pid, signal.SIGSTOP)
        assert await text(engine, request) == expected
        assert engine.stats().restarts == 1


async def test_experts_can_stay_in_main_memory(running_llama):
    async with running_llama() as engine:
        expected = await text(engine, await request_for(engine, temperature=0))
    async with running_llama(cpu_moe_layers=2) as engine:
        assert await text(engine, await request_for(engine, temperature=0)) == expected


async def test_every_kv_type_and_load_mode(running_llama):
    for options in ({"kv_type": "q8_0"}, {"load_mode": "mmap"}):
        async with running_llama(**options) as engine:
            assert await text(engine, await request_for(engine, temperature=0))


async def test_a_file_that_is_no_model_is_one_clear_error(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineStartError, match="cannot load"):
        await LlamaCppEngine(LlamaConfig(str(path), 512, 512, 1)).start()


async def test_closing_ends_what_still_runs(running_llama):
    async with running_llama() as engine:
        prompt = await engine.tokenize([PromptSegment(CHAT)])
        generator = engine.generate(GenerationRequest("long", prompt, 3000, LONG))
        await first_output(generator)
        pid = engine._child.process.pid
    with pytest.raises(EngineDiedError, match="stopping"):
        async for _ in generator:
            pass
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=3"},
            "glibc.malloc.check=3:glibc.malloc.hugetlb=1",
        ),
    ],
)
def test_the_process_asks_for_huge_pages_beside_what_the_operator_wants(inherited, expected):
    assert environment(inherited) == {"GLIBC_TUNABLES": expected}


def test_an_operator_who_has_decided_about_huge_pages_is_obeyed():
    assert environment({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
async def test_the_process_has_what_was_set_for_it(running_llama):
    async with running_llama() as engine:
        assert b"glibc.malloc.hugetlb=" in environment_of(engine._child.process.pid)


async def test_every_process_has_the_kernel_that_was_built(running_llama, kernel, monkeypatch):
    async with running_llama() as engine:
        assert str(kernel) in maps_of(engine._child.process.pid)
        expected = await text(engine, await request_for(engine, temperature=0))
        os.kill(engine._child.process.pid, signal.SIGKILL)
        assert await text(engine, await request_for(engine, "again", temperature=0)) == expected
        assert str(kernel) in maps_of(engine._child.process.pid)
    monkeypatch.setenv(KERNELS, str(kernel))  # not what says so
    async with running_llama(kernels=LLAMA_CPP) as engine:
        assert str(kernel) not in maps_of(engine._child.process.pid)


async def test_without_a_compiler_kernels_stay_llama_cpps(running_llama, monkeypatch, caplog):
    def fail():
        raise UnavailableError("there is no C++ compiler (c++)")

    monkeypatch.setattr("local_worker.engines.llama_cpp.engine.build", fail)
    caplog.set_level("INFO")
    async with running_llama() as engine:
        assert "/kernels/" not in maps_of(engine._child.process.pid)
        assert await text(engine, await request_for(engine))
    assert "kernels stay llama.cpp's: there is no C++ compiler (c++)" in caplog.messages
