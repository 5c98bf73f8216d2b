from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from local_worker.engines.fake import FakeEngine
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.llama_cpp.engine import LlamaCppEngine


def llama_config(path, **changes):
    values = {"kv_capacity": 8192, "max_model_len": 4096, "max_num_seqs": 8, "threads": 1}
    return LlamaConfig(str(path), **(values | changes))


@pytest.fixture
def running_llama(demo_gguf):
    @asynccontextmanager
    async def run(**changes):
        path = changes.pop("model_path", demo_gguf)
        engine = LlamaCppEngine(llama_config(path, **changes))
        await engine.start()
        try:
            yield engine
        finally:
            await engine.aclose()

    return run


@pytest.fixture(params=["fake", pytest.param("llama_cpp", marks=pytest.mark.llama)])
async def engine(request, running_llama):
    if request.param == "fake":
        fake = FakeEngine()
        await fake.start()
        yield fake
        return
    async with running_llama() as llama:
        yield llama
