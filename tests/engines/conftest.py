from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest

from local_worker.demo import gguf_path
from local_worker.engines.fake import FakeEngine
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.llama_cpp.engine import LlamaCppEngine
from local_worker.engines.llama_cpp.kernels.build import UnavailableError, build
from local_worker.engines.vllm.config import VllmConfig
from local_worker.engines.vllm.engine import VllmEngine

# The first test of a session waits for the engine, which imports torch first.
VLLM = (pytest.mark.vllm, pytest.mark.timeout(400))


def llama_config(path, **changes):
    values = {"kv_capacity": 8192, "max_model_len": 4096, "max_num_seqs": 8, "threads": 1}
    return LlamaConfig(str(path), **(values | changes))


@pytest.fixture(scope="session")
def kernel():
    """The file of the kernels that llama.cpp's process has on this machine."""
    try:
        return build()
    except UnavailableError as error:
        pytest.skip(f"no kernel for this machine: {error}")


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


@pytest.fixture
async def fake_engine():
    engine = FakeEngine()
    await engine.start()
    return engine


@pytest.fixture
async def llama_engine(running_llama):
    async with running_llama() as engine:
        yield engine


@pytest.fixture(
    params=[
        "fake",
        pytest.param("llama", marks=pytest.mark.llama),
        pytest.param("vllm", marks=VLLM),
    ]
)
def engine(request):
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture(
    params=[
        pytest.param("llama", marks=pytest.mark.llama),
        pytest.param("vllm", marks=VLLM),
    ]
)
def sampling_engine(request):
    """An engine that really samples, which the fake one does not."""
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture(
    params=[
        pytest.param("llama", marks=pytest.mark.llama),
        pytest.param("vllm", marks=VLLM),
    ]
)
def grammar_engine(request):
    """An engine that follows grammars."""
    return request.getfixturevalue(f"{request.param}_engine")


def vllm_config(**changes):
    args: dict[str, object] = {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "block_size": 32,  # the CPU's own is 128: short prompts would never share a block
        "kv_cache_memory_bytes": 128 << 20,
    }
    values: dict[str, Any] = {
        "model_path": str(gguf_path().parent),
        "max_model_len": 4096,
        "max_num_seqs": 8,
    }
    values |= changes
    args |= values.pop("engine_args", {})
    return VllmConfig(engine_args=args, **values)


@asynccontextmanager
async def run_vllm(**changes):
    engine = VllmEngine(vllm_config(**changes))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.fixture
def running_vllm():
    return run_vllm


@pytest.fixture(scope="session")
async def vllm_engine():
    """One for all tests: it takes half a minute to start. A test that kills it gets it back."""
    async with run_vllm() as engine:
        yield engine
