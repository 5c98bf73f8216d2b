from __future__ import annotations

import shutil

import pytest

from local_worker.catalog.load import load
from local_worker.catalog.plan import Wish
from local_worker.catalog.store import Store
from local_worker.errors import (
    CatalogError,
    DoesNotFitError,
    EngineStartError,
    ModelFileError,
)
from local_worker.probe.hardware import Cpu, Hardware, Memory, Software
from local_worker.serve.resolve import Machine, Overrides, Resolver

GB = 10**9


@pytest.fixture
def resolve(tmp_path):
    def run(model=None, overrides=None, *, memory=32 * GB, llama="0.3.36"):
        cpu = Cpu("a processor", "x86_64", logical_cores=8, usable_cores=8.0)
        hardware = Hardware("linux", "Debian", cpu, Memory(memory, memory))
        machine = Machine(hardware, Software(llama_cpp=llama))
        resolver = Resolver(machine, load(), Store(tmp_path))
        return resolver.resolve(model, overrides or Overrides())

    return run


def test_without_a_name_it_is_the_embedded_model(resolve, demo_gguf):
    resolved = resolve()
    assert resolved.card.names[0] == "demo"
    assert resolved.config.model_path == str(demo_gguf)
    assert (resolved.config.threads, resolved.config.max_num_seqs) == (1, 32)
    assert any("processor" in reason for reason in resolved.reasons)


def test_what_the_user_sets_stands(resolve):
    wish = Wish(context=2048, max_num_seqs=4, kv_type="q8_0", load_mode="mmap")
    config = resolve("demo", Overrides(wish, threads=3, max_tokens_per_step=64)).config
    assert (config.max_model_len, config.max_num_seqs, config.threads) == (2048, 4, 3)
    assert (config.kv_type, config.load_mode, config.max_tokens_per_step) == ("q8_0", "mmap", 64)


def test_a_file_by_path_thinks_as_its_template_says(resolve, demo_gguf, tmp_path):
    path = tmp_path / "mine.gguf"
    shutil.copy(demo_gguf, path)
    resolved = resolve(str(path))
    assert resolved.card.names == ("mine",)
    assert resolved.card.thinking is not None
    assert resolved.card.thinking.start == "<think>"
    assert resolved.config.threads == 7  # one of eight cores stays with the API


def test_too_little_memory_names_the_nearest_thing_that_fits(resolve):
    with pytest.raises(DoesNotFitError, match="gemma-4-26b cannot be loaded") as caught:
        resolve("gemma-4-26b", memory=6 * GB)
    assert "\n" not in str(caught.value)
    assert "ministral" in str(caught.value) or "qwen" in str(caught.value)


def test_weights_that_are_not_here_are_not_fetched_without_leave(resolve):
    with pytest.raises(ModelFileError, match="models pull gemma-4-26b"):
        resolve("gemma-4-26b")


def test_an_unknown_name_gets_near_ones(resolve):
    with pytest.raises(CatalogError, match="gemma-4-26b"):
        resolve("gema-4-26b")


def test_without_llama_cpp_it_says_what_to_install(resolve):
    with pytest.raises(EngineStartError, match="pip install"):
        resolve(llama=None)
