from __future__ import annotations

import importlib.util
import socket

import pytest

from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.llama_cpp.engine import LlamaCppEngine
from local_worker.engines.vllm.config import VllmConfig
from local_worker.engines.vllm.engine import VllmEngine, environment
from local_worker.errors import ConfigError, EngineStartError
from local_worker.serve.engines import check_ray, make_engine


@pytest.fixture
def ray_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def vllm_config(**changes):
    return VllmConfig("/folder", 4096, 8, **changes)


def test_each_configuration_has_its_engine():
    assert isinstance(make_engine(LlamaConfig("m.gguf", 512, 512, 1)), LlamaCppEngine)
    assert isinstance(make_engine(vllm_config()), VllmEngine)


def test_a_missing_ray_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineStartError, match="pip install ray"):
        make_engine(vllm_config(ray_address="auto"))


@pytest.mark.parametrize("address", ["here", "host:", ":6379", "host:port", ""])
def test_an_address_that_is_none(ray_installed, address):
    with pytest.raises(ConfigError, match="neither HOST:PORT nor auto"):
        check_ray(address)


def test_a_head_that_does_not_answer(ray_installed):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EngineStartError, match=f"ray start --head --port {port}"):
        check_ray(f"127.0.0.1:{port}")


def test_a_head_that_answers(ray_installed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        check_ray(f"127.0.0.1:{listener.getsockname()[1]}")
        check_ray(f"ray://127.0.0.1:{listener.getsockname()[1]}")


def test_vllm_reports_nothing_and_fetches_nothing():
    for config in (vllm_config(), vllm_config(on_gpu=True, ray_address="auto")):
        env = environment(config)
        assert env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == "1"
        assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == "1"
    assert env["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_the_user_set_for_vllm_stands_but_for_privacy(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    env = environment(vllm_config())
    assert (env["VLLM_LOGGING_LEVEL"], env["VLLM_CPU_OMP_THREADS_BIND"]) == ("DEBUG", "0")
    assert env["VLLM_NO_USAGE_STATS"] == "1"


def test_only_the_cpu_build_gets_threads():
    assert environment(vllm_config(threads=3))["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(vllm_config(on_gpu=True, threads=3))
