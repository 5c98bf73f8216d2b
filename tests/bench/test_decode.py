from __future__ import annotations

import random
import stat

import pytest

from local_worker.bench.decode import (
    BatchedBench,
    Decoded,
    Size,
    batched_bench_speed,
    cells_of,
    difference,
    measure,
    most_tokens,
    prompts,
)
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.llama_cpp.engine import LlamaCppEngine
from local_worker.errors import BenchError
from local_worker.types import EngineSeconds, EngineStats

pytestmark = pytest.mark.anyio

TABLE = """
llama_context: n_ctx = 4096
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   128 |     32 |    8 |   1280 |    5.000 |   204.80 |    4.000 |    64.50 |    9.000 |   142.22 |
"""


def test_every_sequence_gets_a_prompt_of_its_own():
    found = prompts(Size(3, 40), 500, random.Random(1))
    assert [len(ids) for ids in found] == [40, 40, 40]
    assert len({ids[0] for ids in found}) == 3
    assert all(0 <= token < 500 for ids in found for token in ids)
    assert [len(ids) for ids in prompts(Size(2, 0), 500, random.Random(1))] == [1, 1]


def test_cells_for_the_whole_run():
    assert cells_of(Size(1, 0), 10) == 1 + most_tokens(Size(1, 0), 10)
    assert cells_of(Size(32, 256), 48) >= 32 * (256 + 48)


def test_the_difference_of_two_readings():
    before = EngineStats(
        steps=5, output_tokens=100, padding_rows=2, threads=2, seconds=EngineSeconds(1, 1, 1, 1)
    )
    after = EngineStats(
        steps=15, output_tokens=180, padding_rows=7, threads=1, seconds=EngineSeconds(1, 3, 2, 2)
    )
    assert difference(before, after) == Decoded(
        20.0, EngineSeconds(0, 200_000, 100_000, 100_000), 1, 0.5
    )


def test_an_engine_that_does_not_say():
    with pytest.raises(BenchError, match="does not say"):
        difference(EngineStats(), EngineStats(steps=3))


def test_the_speed_in_llama_batched_bench_s_table():
    assert batched_bench_speed(TABLE.splitlines()) == 64.5
    assert batched_bench_speed(TABLE.splitlines()[:4]) is None
    assert batched_bench_speed([]) is None


@pytest.fixture
async def llama_engine(demo_gguf):
    config = LlamaConfig(str(demo_gguf), 8192, 4096, max_num_seqs=8, threads=1, prompt_lookup=False)
    engine = LlamaCppEngine(config)
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.mark.llama
async def test_steps_of_a_real_engine(llama_engine):
    found = await measure(llama_engine, Size(4, 100), 20, random.Random(1))
    assert found.microseconds is not None
    parts = found.microseconds
    step = parts.compute + parts.sample + parts.schedule + parts.send
    assert found.tokens_per_s == pytest.approx(4e6 / step, rel=0.01)
    assert found.threads
    # The sequences were given up: there is room again, and nothing of them is in the way.
    again = await measure(llama_engine, Size(8, 0), 20, random.Random(1))
    assert again.tokens_per_s > 0


@pytest.mark.llama
async def test_more_sequences_than_the_engine_computes(llama_engine):
    with pytest.raises(BenchError, match="at a time"):
        await measure(llama_engine, Size(1000, 0), 5, random.Random(1))


@pytest.fixture
def program(tmp_path):
    """A stand-in for llama.cpp's tool."""

    def write(script):
        path = tmp_path / "batched-bench"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return BatchedBench(str(path), "model.gguf", 2)

    return write


async def test_the_peer_gets_the_same_size(program, tmp_path):
    peer = program(f'echo "$@" > {tmp_path}/asked; cat <<END{TABLE}END')
    peer.check()
    assert await peer.measure(Size(8, 128), 32) == Decoded(64.5)
    asked = (tmp_path / "asked").read_text()
    for part in ("-npp 128", "-ntg 32", "-npl 8", "-t 2", "-c 1280", "-m model.gguf"):
        assert part in asked


async def test_a_small_size_leaves_the_peer_room_to_warm_up(program, tmp_path):
    await program(f'echo "$@" > {tmp_path}/asked; cat <<END{TABLE}END').measure(Size(1, 0), 8)
    assert "-c 64" in (tmp_path / "asked").read_text()


async def test_a_peer_that_fails_or_is_not_there(program, tmp_path):
    with pytest.raises(BenchError, match="status 3: no such model"):
        await program("echo no such model >&2; exit 3").measure(Size(1, 0), 4)
    with pytest.raises(BenchError, match="ended with status 0"):
        await program("echo hello").measure(Size(1, 0), 4)
    with pytest.raises(BenchError, match="--llama-batched-bench"):
        BatchedBench(str(tmp_path / "nothing"), "model.gguf", 1).check()
