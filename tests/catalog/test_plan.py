"""The planner, with machines and models as literals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_worker.catalog.gguf_facts import GgufFacts
from local_worker.catalog.llama_parts import LlamaPlan, Refusal, Wish
from local_worker.catalog.load import find, load
from local_worker.catalog.plan import plan
from local_worker.catalog.schema import KvLayers, Shape
from local_worker.probe.hardware import Apple, Cpu, Gpu, Hardware, Memory, Nvidia

CATALOG = load()
CPU = Cpu("some", "x86_64", 8, 8.0)


def machine(gigabytes: float, *, bandwidth: float | None = 22e9, **changes: Any) -> Hardware:
    size = int(gigabytes * 1e9)
    return Hardware("linux", "6", CPU, Memory(size, size, None, bandwidth), **changes)


def gpus(*free: float, bandwidth: float | None = 300e9) -> Nvidia:
    return Nvidia(
        tuple(
            Gpu(number, "gpu", (9, 0), int(size * 1e9), int(size * 1e9), memory_bandwidth=bandwidth)
            for number, size in enumerate(free)
        )
    )


def planned(hardware: Hardware, name: str, *, gpu: bool = False, **wish: Any) -> LlamaPlan:
    result = plan(hardware, find(CATALOG, name), Wish(**wish), threads=8, gpu=gpu)
    assert isinstance(result, LlamaPlan), result
    return result


def refused(hardware: Hardware, name: str, *, gpu: bool = False, **wish: Any) -> Refusal:
    result = plan(
        hardware, find(CATALOG, name), Wish(**wish), threads=8, gpu=gpu, others=CATALOG.models
    )
    assert isinstance(result, Refusal), result
    return result


def test_everything_in_main_memory():
    result = planned(machine(24), "gemma-4-26b")
    assert result.quant == "Q4_0-QAT"
    assert (result.n_gpu_layers, result.n_cpu_moe, result.threads) == (0, 0, 8)
    assert (result.load_mode, result.kv_type) == ("memory", "f16")
    assert (result.max_model_len, result.context, result.max_num_seqs) == (32_768, 131_072, 8)
    memory = result.memory
    assert memory.weights == 14_439_363_584
    # 5 full layers for every cell, 25 sliding ones for 8 + 2 * 4 windows and a micro-batch.
    assert result.cache_slots == 4
    assert memory.kv == 131_072 * 20_480 + (16 * 1024 + 512) * 204_800
    assert memory.recurrent == 0
    assert memory.compute == 4 * 512 * (262_144 + 8 * 2816) + 2 * 512 * 131_072
    assert memory.host == memory.weights + memory.kv + memory.compute + (64 << 20)
    assert memory.total == memory.host <= memory.host_available


def test_the_measured_speed_of_a_known_machine():
    """10.1 tokens/s were measured; the model says a little less at a kilobyte of context."""
    result = planned(machine(24, in_virtual_machine=True), "gemma-4-26b")
    assert result.load_mode == "memory"
    assert result.predicted_tokens_per_s == pytest.approx(10.1, rel=0.15)
    assert "weights are read into memory: they fit, and nothing can take them away" in (
        result.reasons
    )


def test_no_bandwidth_no_prediction():
    result = planned(machine(24, bandwidth=None), "gemma-4-26b")
    assert result.predicted_tokens_per_s is None
    assert "no speed is predicted" in result.reasons[-1]


def test_recurrent_state_counts_per_sequence():
    result = planned(machine(64), "qwen3.6-27b", max_num_seqs=4)
    assert result.memory.recurrent == (4 + 4) * 156_893_184


def test_kept_prefixes_are_given_up_before_anything_else():
    assert planned(machine(16.5), "gemma-4-26b").cache_slots == 0
    assert planned(machine(64), "gemma-4-26b", cache_slots=9).cache_slots == 9
    assert planned(machine(64), "qwen3-30b").cache_slots == 16


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"cache_slots": -1}, "cannot be negative"),
        ({"cache_slots": 200, "max_num_seqs": 57}, "256 slots for sequences and kept prefixes"),
    ],
)
def test_slots_that_llama_cpp_has_not(wish, words):
    assert words in refused(machine(64), "gemma-4-26b", **wish).line()


def test_q8_0_keys_and_values_when_that_makes_it_fit():
    result = planned(machine(24), "qwen3.6-27b", context=131_072)
    assert result.kv_type == "q8_0"
    assert result.memory.kv == 131_072 * 34_816
    assert "keys and values in q8_0, so that 131,072 tokens fit" in result.reasons


def test_smaller_weights_when_the_recommended_ones_do_not_fit():
    result = planned(machine(16.4, in_virtual_machine=True), "gemma-4-26b")
    assert result.quant == "UD-Q4_K_XL-QAT"
    assert "the recommended Q4_0-QAT does not fit" in result.reasons


def test_a_shorter_context_before_nothing_at_all():
    result = planned(machine(3.5, in_virtual_machine=True), "ministral-3-3b")
    assert 4_096 <= result.max_model_len < 32_768


@pytest.mark.parametrize("trap", ["in_virtual_machine", "in_container"])
def test_weights_are_mapped_unasked_only_where_the_page_cache_is_ours(trap):
    tight = 15.6
    result = planned(machine(tight), "gemma-4-26b", context=8192, max_num_seqs=1)
    assert result.load_mode == "mmap"
    assert any("with too little memory to spare" in reason for reason in result.reasons)
    refused(machine(tight, **{trap: True}), "gemma-4-26b", context=8192, max_num_seqs=1)


def test_weights_are_mapped_when_asked_for():
    result = planned(machine(8), "gemma-4-26b", load_mode="mmap")
    assert result.load_mode == "mmap"
    assert result.predicted_tokens_per_s is None
    assert any("0.44 instead of 10.1 tokens/s" in reason for reason in result.reasons)
    roomy = planned(machine(64, in_virtual_machine=True), "gemma-4-26b", load_mode="mmap")
    assert any("the page cache may be taken away" in reason for reason in roomy.reasons)
    bare = planned(machine(64), "gemma-4-26b", load_mode="mmap")
    assert "weights are mapped from the file because that was asked for" in bare.reasons


def test_all_on_the_gpu():
    result = planned(machine(64, nvidia=gpus(80)), "gemma-4-31b", gpu=True)
    assert (result.n_gpu_layers, result.n_cpu_moe) == (61, 0)
    assert result.memory.gpu <= result.memory.gpu_available
    assert result.predicted_tokens_per_s == pytest.approx(300e9 / 18.6e9, rel=0.02)


def test_a_build_without_gpu_leaves_the_gpu_alone():
    result = planned(machine(64, nvidia=gpus(80)), "gemma-4-31b")
    assert (result.n_gpu_layers, result.memory.gpu) == (0, 0)


def test_two_gpus_are_one_memory():
    result = planned(machine(64, nvidia=gpus(16, 16)), "gemma-4-31b", gpu=True)
    assert result.n_gpu_layers == 61


def test_experts_stay_in_main_memory_where_the_gpu_is_small():
    result = planned(machine(32, nvidia=gpus(12)), "gemma-4-26b", gpu=True)
    assert result.n_gpu_layers == 31
    assert 0 < result.n_cpu_moe < 30
    fewer = planned(machine(32, nvidia=gpus(14)), "gemma-4-26b", gpu=True)
    assert fewer.n_cpu_moe < result.n_cpu_moe
    assert result.predicted_tokens_per_s is not None
    assert fewer.predicted_tokens_per_s is not None
    assert fewer.predicted_tokens_per_s > result.predicted_tokens_per_s


def test_some_layers_of_a_dense_model_on_a_small_gpu():
    result = planned(machine(32, nvidia=gpus(12)), "gemma-4-31b", gpu=True)
    assert 0 < result.n_gpu_layers < 60
    assert result.memory.gpu <= result.memory.gpu_available
    assert result.memory.host <= result.memory.host_available


def test_gpu_layers_as_asked():
    hardware = machine(64, nvidia=gpus(80))
    assert planned(hardware, "gemma-4-31b", gpu=True, gpu_layers=10).n_gpu_layers == 10
    assert planned(hardware, "gemma-4-31b", gpu=True, gpu_layers=0).memory.gpu == 0
    assert planned(hardware, "gemma-4-31b", gpu=True, gpu_layers=999).n_gpu_layers == 61


def test_unified_memory_is_counted_once():
    apple = Apple("M", 40, int(48e9), 400e9)
    hardware = replace(machine(64), os="darwin", apple=apple)
    result = planned(hardware, "gemma-4-31b", gpu=True)
    assert result.n_gpu_layers == 61
    assert result.memory.gpu + result.memory.host <= result.memory.host_available
    spark = Gpu(0, "GB10", (12, 1), None, None, unified_memory=True, memory_bandwidth=273e9)
    result = planned(machine(120, nvidia=Nvidia((spark,))), "gpt-oss-120b", gpu=True)
    assert result.n_gpu_layers == 37
    assert result.predicted_tokens_per_s is not None


def test_the_demo_runs_on_half_a_gigabyte():
    result = planned(machine(0.6), "demo")
    assert (result.max_model_len, result.load_mode) == (4096, "memory")


def test_a_model_that_does_not_fit_names_what_does():
    result = refused(machine(8, in_virtual_machine=True), "gemma-4-26b")
    assert result.reasons[0].startswith("UD-Q4_K_XL-QAT needs 15.1 GB of memory (weights 14.2 GB,")
    assert result.reasons[0].endswith("and 7.2 GB can be used")
    assert result.nearest_plan is not None
    assert result.nearest_plan.memory.host <= result.nearest_plan.memory.host_available
    assert result.nearest == (
        "what fits is qwen3.5-9b in Q4_K_M with a context of 32,768 tokens for 4 sequences in q8_0"
    )
    assert result.line().startswith("gemma-4-26b cannot be loaded as asked: UD-Q4_K_XL-QAT needs")
    assert "\n" not in result.line()


def test_nothing_fits():
    result = refused(machine(0.4), "gemma-4-26b")
    assert (result.nearest, result.nearest_plan) == (None, None)


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"context": 300_000}, "a context of 300,000 is not between 1 and the model's 262,144"),
        ({"context": 0}, "a context of 0 is not between 1 and the model's 262,144"),
        ({"max_num_seqs": 0}, "at least one sequence is needed"),
        ({"quant": "Q2_K"}, "there is no Q2_K, only Q4_0-QAT, UD-Q4_K_XL-QAT, UD-Q4_K_XL,"),
        ({"kv_type": "q4_0"}, "keys and values can be f16 or q8_0, not q4_0"),
        ({"load_mode": "disk"}, "weights can be loaded by memory or mmap, not disk"),
        ({"gpu_layers": -1}, "the number of GPU layers cannot be negative"),
        ({"gpu_layers": 5}, "there is no GPU memory that this llama.cpp could use"),
    ],
)
def test_impossible_wishes_are_refused_and_not_bent(wish, reason):
    result = refused(machine(64), "gemma-4-26b", **wish)
    assert result.reasons[0].startswith(reason)
    assert result.nearest_plan is not None
    assert result.nearest_plan.model == "gemma-4-26b"


@pytest.mark.parametrize(
    ("gigabytes", "wish", "nearest"),
    [
        (24, {"context": 262_144}, {"max_model_len": 131_072}),
        (24, {"context": 131_072, "kv_type": "f16"}, {"max_model_len": 131_072, "kv_type": "q8_0"}),
        (24, {"max_num_seqs": 200}, {"max_num_seqs": 8}),
        (24, {"quant": "Q8_0"}, {"quant": "Q4_K_M"}),
    ],
)
def test_the_nearest_thing_gives_up_as_little_as_possible(gigabytes, wish, nearest):
    result = refused(machine(gigabytes, in_virtual_machine=True), "qwen3.6-27b", **wish)
    assert result.nearest_plan is not None
    assert {key: getattr(result.nearest_plan, key) for key in nearest} == nearest


def test_too_many_layers_for_the_gpu():
    result = refused(machine(64, nvidia=gpus(8)), "gemma-4-31b", gpu=True, gpu_layers=61)
    assert "of GPU memory and 7.5 GB are free" in result.reasons[0]
    assert result.nearest_plan is not None
    assert 0 < result.nearest_plan.n_gpu_layers < 61


def test_what_is_granted_is_what_was_asked():
    result = planned(
        machine(64),
        "gemma-4-26b",
        context=10_000,
        max_num_seqs=3,
        quant="q8_0",
        kv_type="q8_0",
        load_mode="memory",
    )
    assert (result.max_model_len, result.max_num_seqs, result.quant) == (10_000, 3, "Q8_0")
    assert (result.kv_type, result.load_mode, result.context) == ("q8_0", "memory", 30_000)
    assert any("(size estimated from bits per weight)" in reason for reason in result.reasons)


def test_a_cgroup_limit_counts():
    hardware = machine(64)
    limited = replace(hardware, memory=replace(hardware.memory, limit=int(8e9)))
    refused(limited, "gemma-4-26b")


def test_a_file_given_by_path():
    shape = Shape(layers=4, hidden=128, vocab=1000, context=2048, kv=(KvLayers(4, 2, 32),))
    facts = GgufFacts(
        path=Path("mine.gguf"),
        files=(Path("mine.gguf"),),
        architecture="llama",
        name="Mine",
        chat_template=None,
        quant="Q4_K_M",
        file_bytes=2_000_000,
        tensor_bytes=1_900_000,
        bytes_read_per_token=1_800_000,
        expert_bytes=0,
        table_bytes=100_000,
        shape=shape,
    )
    result = plan(machine(4), facts, Wish(), threads=2)
    assert isinstance(result, LlamaPlan)
    assert (result.model, result.artifact, result.quant) == ("Mine", None, "Q4_K_M")
    assert (result.max_model_len, result.memory.weights) == (2048, 2_000_000)
    refusal = plan(machine(0.1, in_virtual_machine=True), facts, Wish(), threads=2)
    assert isinstance(refusal, Refusal)


@pytest.mark.parametrize("name", [model.id for model in CATALOG.models])
@pytest.mark.parametrize("gigabytes", [1, 6, 16, 40, 200])
def test_every_plan_fits_and_every_refusal_has_a_reason(name, gigabytes):
    for extra in ({}, {"nvidia": gpus(24)}, {"in_virtual_machine": True}):
        hardware = machine(gigabytes, **extra)
        result = plan(
            hardware, find(CATALOG, name), Wish(), threads=4, gpu=True, others=CATALOG.models
        )
        if isinstance(result, Refusal):
            assert result.reasons
            continue
        assert result.memory.gpu <= result.memory.gpu_available
        assert result.memory.host <= hardware.memory.usable
        assert result.context >= result.max_model_len
        assert result.load_mode == "memory" or not extra.get("in_virtual_machine")


def test_cheap_cells_follow_from_what_a_token_reads():
    """Five layers of Gemma keep every token: a cell is 20 KB beside gigabytes of weights."""
    gemma = planned(machine(64), "gemma-4-26b")
    assert gemma.cheap_cells > 2_000
    assert planned(machine(64), "qwen3-30b").cheap_cells < gemma.cheap_cells
