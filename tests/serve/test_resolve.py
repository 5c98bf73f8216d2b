from __future__ import annotations

import json
import shutil

import pytest

from local_worker.catalog.llama_parts import Wish
from local_worker.catalog.load import load
from local_worker.catalog.lora import LoraAdapter
from local_worker.catalog.store import Store
from local_worker.catalog.vllm_parts import Parallel, VllmWish
from local_worker.errors import (
    CatalogError,
    ConfigError,
    DoesNotFitError,
    EngineStartError,
    ModelFileError,
)
from local_worker.probe.hardware import Cpu, Gpu, Hardware, Memory, Nvidia, Software
from local_worker.serve.resolve import Resolver
from local_worker.serve.resolved import Machine, Overrides

GB = 10**9


@pytest.fixture
def resolve(tmp_path):
    def run(
        model=None,
        overrides=None,
        *,
        memory=32 * GB,
        llama="0.3.36",
        vllm="0.32.0+cpu",
        gpus=(),
        cores=8.0,
    ):
        cpu = Cpu("a processor", "x86_64", logical_cores=int(cores), usable_cores=cores)
        hardware = Hardware("linux", "Debian", cpu, Memory(memory, memory), Nvidia(gpus))
        machine = Machine(hardware, Software(llama_cpp=llama, vllm=vllm))
        resolver = Resolver(machine, load(), Store(tmp_path))
        return resolver.resolve(model, overrides or Overrides())

    return run


def test_without_a_name_it_is_the_embedded_model(resolve, demo_gguf):
    resolved = resolve()
    assert resolved.card.names[0] == "demo"
    assert resolved.config.model_path == str(demo_gguf)
    assert (resolved.config.threads, resolved.config.max_num_seqs) == (2, 32)
    assert any("processor" in reason for reason in resolved.reasons)


@pytest.mark.parametrize(("cores", "threads"), [(1.0, 1), (2.0, 1), (3.0, 2), (64.0, 2)])
def test_the_embedded_model_leaves_a_core_to_the_api(resolve, cores, threads):
    assert resolve(cores=cores).config.threads == threads


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
        resolve(llama=None, vllm=None)


def test_with_vllm_alone_it_serves_the_embedded_model(resolve, demo_gguf):
    assert resolve(llama=None).config.model_path == str(demo_gguf.parent)


@pytest.fixture
def folder(demo_gguf, tmp_path):
    target = tmp_path / "mine"
    shutil.copytree(demo_gguf.parent, target, ignore=shutil.ignore_patterns("*.gguf"))
    return target


def test_a_folder_is_vllms_and_thinks_as_its_template_says(resolve, folder):
    resolved = resolve(str(folder))
    assert resolved.card.names == ("mine",)
    assert resolved.card.thinking.start == "<think>"
    assert resolved.config.model_path == str(folder)
    assert (resolved.config.on_gpu, resolved.config.threads) == (False, 7)
    assert "vLLM" in resolved.reasons[0]


def test_the_embedded_model_by_the_other_engine(resolve, demo_gguf):
    resolved = resolve("demo", Overrides(engine="vllm"))
    assert resolved.card.names[0] == "demo"
    assert resolved.config.model_path == str(demo_gguf.parent)
    assert resolved.config.threads == 1


def test_what_the_user_sets_reaches_vllm(resolve, folder):
    wish = Wish(context=2048, max_num_seqs=4)
    args = {"seed": 7}
    overrides = Overrides(wish, threads=3, max_tokens_per_step=99, vllm=VllmWish(engine_args=args))
    config = resolve(str(folder), overrides).config
    assert (config.max_model_len, config.max_num_seqs, config.threads) == (2048, 4, 3)
    assert config.engine_args["seed"] == 7
    assert config.engine_args["max_num_batched_tokens"] == 99


def test_an_engine_that_does_not_load_such_a_thing(resolve, folder, demo_gguf):
    with pytest.raises(ConfigError, match="a folder, which --engine vllm loads"):
        resolve(str(folder), Overrides(engine="llama_cpp"))
    with pytest.raises(ConfigError, match="a GGUF file, which --engine llama_cpp loads"):
        resolve(str(demo_gguf), Overrides(engine="vllm"))


@pytest.mark.parametrize(
    "wish", [VllmWish(parallel=Parallel(tensor=2)), VllmWish(engine_args={"seed": 1})]
)
def test_options_of_vllm_do_nothing_for_llama_cpp(resolve, wish):
    with pytest.raises(ConfigError, match="are for vLLM"):
        resolve("demo", Overrides(vllm=wish))


@pytest.mark.parametrize("wish", [Wish(gpu_layers=3), Wish(load_mode="mmap")])
def test_options_of_llama_cpp_do_nothing_for_vllm(resolve, folder, wish):
    with pytest.raises(ConfigError, match=r"is llama\.cpp's"):
        resolve(str(folder), Overrides(wish))


def test_without_vllm_it_says_what_to_install(resolve, folder):
    with pytest.raises(EngineStartError, match="vLLM is not installed: pip install"):
        resolve(str(folder), vllm=None)


def test_what_does_not_fit_vllm_is_one_line(resolve, folder):
    with pytest.raises(DoesNotFitError, match="does not divide the model's 2 and 4 heads"):
        resolve(str(folder), Overrides(vllm=VllmWish(parallel=Parallel(tensor=3))))


def test_a_path_that_leads_nowhere(resolve):
    for path in ("/nowhere/model", "./nowhere.gguf"):
        with pytest.raises(ModelFileError, match="there is no file or folder"):
            resolve(path, llama=None, vllm=None)


def test_the_embedded_model_keeps_its_name(resolve):
    with pytest.raises(DoesNotFitError, match=r"^demo cannot be loaded with vLLM"):
        resolve("demo", Overrides(Wish(context=99_999), engine="vllm"))
    with pytest.raises(DoesNotFitError, match="there is no q8_0 for vLLM, only bf16"):
        resolve("demo", Overrides(Wish(quant="q8_0"), engine="vllm"))


def test_a_folder_that_is_no_model(resolve, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"has no config\.json"):
        resolve(str(tmp_path / "empty"))


H200 = (Gpu(0, "NVIDIA H200", (9, 0), 141 * GB, 140 * GB),)


def test_on_a_gpu_a_name_is_vllms_with_the_weights_for_the_card(resolve):
    with pytest.raises(ModelFileError) as caught:
        resolve("gemma-4-26b", gpus=H200, vllm="0.32.0")
    assert "RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic" in str(caught.value)
    assert "models pull gemma-4-26b --engine vllm --quant fp8" in str(caught.value)


@pytest.fixture
def pulled(demo_gguf, tmp_path):
    """Puts the embedded model's files under a repository's name: what counts is where they lie."""

    def pull(repo):
        folder = tmp_path / "models" / repo / ("a" * 40)
        shutil.copytree(demo_gguf.parent, folder, ignore=shutil.ignore_patterns("*.gguf", "*.md"))
        files = {path.name: path.stat().st_size for path in folder.iterdir()}
        (folder / "repo.json").write_text(json.dumps(list(files)))
        records = {name: {"bytes": size, "sha256": "0" * 64} for name, size in files.items()}
        (folder / "pulled.json").write_text(json.dumps(records))
        return folder

    return pull


GEMMA_FP8 = "RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic"


def test_what_was_pulled_for_vllm_is_served(resolve, pulled):
    folder = pulled(GEMMA_FP8)
    resolved = resolve("gemma-4-26b", gpus=H200, vllm="0.32.0")
    assert resolved.config.model_path == str(folder)
    assert resolved.config.on_gpu
    assert resolved.card.names[0] == "gemma-4-26b"
    assert resolved.plan.weights.exact
    assert "--speculate turns on" in resolved.reasons[-1]
    assert "speculative_config" not in resolved.config.engine_args
    assert resolved.config.engine_args["gpu_memory_utilization"] == 0.92


def test_speculation_is_the_recipes_with_its_draft_model_here(resolve, pulled):
    pulled(GEMMA_FP8)
    wish = Overrides(vllm=VllmWish(speculate=True))
    with pytest.raises(ModelFileError, match="draft model google/gemma-4-26B-A4B-it-assistant"):
        resolve("gemma-4-26b", wish, gpus=H200, vllm="0.32.0")
    draft = pulled("google/gemma-4-26B-A4B-it-assistant")
    resolved = resolve("gemma-4-26b", wish, gpus=H200, vllm="0.32.0")
    config = resolved.config.engine_args["speculative_config"]
    assert config == {"num_speculative_tokens": 4, "model": str(draft)}


def test_speculation_that_nobody_knows_is_refused(resolve, folder):
    with pytest.raises(ConfigError, match="knows no speculation for this model"):
        resolve(str(folder), Overrides(vllm=VllmWish(speculate=True)))


def test_adapters_reach_the_engine_and_cannot_take_the_models_name(resolve, folder):
    def lora(name):
        return Overrides(vllm=VllmWish(adapters=(LoraAdapter(name, "/x", 8),)))

    assert resolve(str(folder), lora("legal"), gpus=H200, vllm="0.32.0").config.adapters == (
        LoraAdapter("legal", "/x", 8),
    )
    with pytest.raises(ConfigError, match="that is the model's own name"):
        resolve(str(folder), lora(folder.name), gpus=H200, vllm="0.32.0")


def test_without_vllm_a_gpu_machine_says_what_is_missing(resolve):
    with pytest.raises(ModelFileError, match="models pull gemma-4-26b"):
        resolve("gemma-4-26b", gpus=H200, vllm=None)


def test_the_cpu_build_sees_no_gpu(resolve, folder):
    assert not resolve(str(folder), gpus=H200, vllm="0.32.0+cpu").config.on_gpu


def test_vllm_on_a_driver_that_is_too_old_is_said_before_loading(resolve, folder):
    old = (Gpu(0, "Tesla P100", (6, 0), 16 * GB, 16 * GB),)
    with pytest.raises(EngineStartError, match=r"needs compute capability 7\.5"):
        resolve(str(folder), gpus=old, vllm="0.32.0")
    with pytest.raises(EngineStartError, match="no NVIDIA GPU"):
        resolve(str(folder), vllm="0.32.0")
