"""Tiny random models of other architectures: sliding windows, recurrent state, experts."""

from __future__ import annotations

import asyncio

import gguf_shapes
import make_random_gguf
import pytest

from local_worker.types import FinishReason, GenerationRequest, SamplingParams

pytestmark = [pytest.mark.anyio, pytest.mark.llama]

TINY = sorted(name for name in gguf_shapes.SHAPES if name.startswith("tiny-"))


@pytest.mark.parametrize("shape", TINY)
async def test_every_family_is_served(shape, running_llama, tmp_path):
    pytest.importorskip("gguf", reason="writes a model file")
    path = tmp_path / f"{shape}.gguf"
    make_random_gguf.make(shape, path, vocab=None)
    options = {"model_path": str(path), "max_tokens_per_step": 32, "max_num_seqs": 4}
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
