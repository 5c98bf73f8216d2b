"""Facts of machines and models in, arguments of vLLM's engine out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from local_worker.catalog.load import load
from local_worker.catalog.lora import LoraAdapter
from local_worker.catalog.schema import KvLayers, Shape
from local_worker.catalog.vllm_parts import (
    Parallel,
    VllmPlan,
    VllmRefusal,
    VllmSubject,
    VllmWeights,
    VllmWish,
    quant_of_repo,
    subject_of_entry,
)
from local_worker.catalog.vllm_plan import plan_vllm
from local_worker.probe.hardware import Cpu, Gpu, Hardware, Memory, Nvidia

GB = 10**9
CPU = Cpu("a processor", "x86_64", 16, 16.0)
# 64 KiB of keys and values per token in f16
SHAPE = Shape(layers=32, hidden=4096, vocab=150_000, context=131_072, kv=[KvLayers(32, 4, 128)])


def model(total=20 * GB, quant="bf16", **changes):
    values = {"heads": 32} | changes
    return VllmSubject("m", SHAPE, (VllmWeights(quant, total),), **values)


def card(name="NVIDIA H100 80GB", capability=(9, 0), total=80 * GB, free=None, **changes):
    free = total if free is None else free
    return Gpu(0, name, capability, total, free, **changes)


def machine(*gpus, memory=64 * GB):
    return Hardware("linux", "Debian", CPU, Memory(memory, memory), Nvidia(gpus))


SPARK = machine(Gpu(0, "NVIDIA GB10", (12, 1), None, None, unified_memory=True), memory=128 * GB)


def planned(hardware, subject, wish=None):
    outcome = plan_vllm(hardware, subject, wish or VllmWish())
    assert isinstance(outcome, VllmPlan), outcome
    return outcome


def refused(hardware, subject, wish=None):
    outcome = plan_vllm(hardware, subject, wish or VllmWish())
    assert isinstance(outcome, VllmRefusal), outcome
    return outcome.line()


def test_one_card_with_room():
    found = planned(machine(card()), model())
    assert (found.max_model_len, found.max_num_seqs, found.data_parallel_size) == (32_768, 256, 1)
    assert found.engine_args == {
        "enable_prefix_caching": True,
        "config_format": "hf",
        "load_format": "safetensors",
        "gpu_memory_utilization": 0.92,
    }
    assert found.visible_devices == ()


def test_what_others_use_of_a_card_is_left_to_them():
    found = planned(machine(card(free=40 * GB)), model())
    assert found.engine_args["gpu_memory_utilization"] == 0.5


def test_all_cards_of_one_kind_share_every_layer():
    found = planned(machine(*[card()] * 4), model(total=140 * GB))
    assert found.engine_args["tensor_parallel_size"] == 4
    assert found.engine_args["distributed_executor_backend"] == "mp"


def test_a_third_card_cannot_take_part_in_a_power_of_two():
    assert planned(machine(*[card()] * 3), model()).engine_args["tensor_parallel_size"] == 2


def test_a_slower_card_is_left_out():
    small = card("NVIDIA T4", (7, 5), 16 * GB, uuid="GPU-b")
    cards = (card(uuid="GPU-a"), small, card(uuid="GPU-c"))
    found = planned(machine(*cards), model())
    assert found.engine_args["tensor_parallel_size"] == 2
    assert found.visible_devices == ("GPU-a", "GPU-c")


def test_heads_of_keys_and_values_have_to_divide_as_well():
    """As in Phi-4: 40 heads, 10 of keys and values."""
    shape = Shape(layers=40, hidden=5120, vocab=100_000, context=16_384, kv=[KvLayers(40, 10, 128)])
    subject = VllmSubject("phi", shape, (VllmWeights("bf16", 30 * GB),), 40)
    found = planned(machine(*[card()] * 4), subject)
    assert found.engine_args["tensor_parallel_size"] == 2
    wish = VllmWish(parallel=Parallel(tensor=4))
    assert "does not divide the model's 10 and 40 heads" in refused(
        machine(*[card()] * 4), subject, wish
    )


def test_more_cards_than_heads_of_keys_and_values_repeat_them():
    """32,768 tokens of 64 KiB take as much of each of 8 cards as of 4, where there are 4 heads."""
    tight = [card(total=10 * GB)] * 8
    four = planned(machine(*tight[:4]), model(total=16 * GB))
    eight = planned(machine(*tight), model(total=32 * GB))
    assert (four.engine_args["tensor_parallel_size"], four.max_model_len) == (4, 32_768)
    assert eight.engine_args["tensor_parallel_size"] == 8
    assert eight.max_model_len == four.max_model_len


def test_copies_take_cards_from_sharing():
    found = planned(machine(*[card()] * 4), model(), VllmWish(parallel=Parallel(data=2)))
    assert (found.data_parallel_size, found.engine_args["tensor_parallel_size"]) == (2, 2)


def test_stages_take_cards_too():
    found = planned(machine(*[card()] * 4), model(), VllmWish(parallel=Parallel(pipeline=2)))
    assert found.engine_args["pipeline_parallel_size"] == 2
    assert found.engine_args["tensor_parallel_size"] == 2


def test_two_nodes_are_joined_by_ray():
    parallel = Parallel(tensor=2, pipeline=2, nodes=2, ray_address="10.0.0.1:6379")
    found = planned(machine(*[card()] * 2), model(), VllmWish(parallel=parallel))
    assert found.engine_args["distributed_executor_backend"] == "ray"
    assert found.engine_args["pipeline_parallel_size"] == 2


def test_copies_on_other_nodes_are_rays_as_well():
    parallel = Parallel(tensor=2, data=2, nodes=2, ray_address="auto")
    found = planned(machine(*[card()] * 2), model(), VllmWish(parallel=parallel))
    assert found.engine_args["data_parallel_backend"] == "ray"
    assert found.engine_args["data_parallel_size_local"] == 1
    uneven = Parallel(tensor=1, data=3, nodes=2, ray_address="auto")
    assert "spread evenly over 2 nodes" in refused(
        machine(*[card()] * 2), model(), VllmWish(parallel=uneven)
    )


def test_keys_and_values_in_fp8_where_f16_does_not_fit():
    wish = VllmWish(context=131_072)
    found = planned(machine(card("L4", (8, 9), 24 * GB)), model(total=14 * GB), wish)
    assert found.engine_args["kv_cache_dtype"] == "fp8"


def test_a_shorter_request_where_no_length_was_asked_for():
    found = planned(machine(card("A10", (8, 6), 24 * GB)), model(total=18 * GB))
    assert found.max_model_len < 32_768
    assert found.max_model_len * 65_536 < 24 * GB * 0.92 - 18 * GB


def test_a_spark_keeps_room_for_its_system():
    found = planned(SPARK, model())
    assert found.engine_args["gpu_memory_utilization"] == 0.9
    tight = replace(SPARK, memory=Memory(128 * GB, 60 * GB))
    assert planned(tight, model()).engine_args["gpu_memory_utilization"] == 0.36


def test_without_a_gpu_the_cache_is_counted_in_bytes():
    found = planned(machine(memory=16 * GB), model(total=2 * GB))
    args = found.engine_args
    assert args["dtype"] == "bfloat16"
    assert args["enforce_eager"] is True
    assert args["kv_cache_memory_bytes"] >= found.max_model_len * 65_536
    assert args["kv_cache_memory_bytes"] < 0.9 * 16 * GB - 2.5 * GB - 2 * GB
    assert "gpu_memory_utilization" not in args


def test_two_ranks_on_the_processor_halve_what_each_keeps():
    wish = VllmWish(context=4096, parallel=Parallel(tensor=2))
    two = planned(machine(memory=32 * GB), model(total=2 * GB), wish).engine_args
    one = planned(machine(memory=32 * GB), model(total=2 * GB), replace(wish, parallel=Parallel()))
    assert two["tensor_parallel_size"] == 2
    assert two["kv_cache_memory_bytes"] * 2 == one.engine_args["kv_cache_memory_bytes"]


def test_ranks_on_the_processor_share_its_memory():
    small = machine(memory=24 * GB)
    wish = VllmWish(parallel=Parallel(tensor=4))
    assert "needs 40.1 GB" in refused(small, model(total=40 * GB), wish)
    copies = VllmWish(parallel=Parallel(data=4))
    assert "in each of 4 copies" in refused(small, model(total=12 * GB), copies)


def test_every_argument_can_be_overridden_and_all_are_shown():
    wish = VllmWish(engine_args={"gpu_memory_utilization": 0.5, "seed": 7})
    found = planned(machine(card()), model(), wish)
    assert found.engine_args["gpu_memory_utilization"] == 0.5
    assert "seed=7" in found.reasons[-1]


def test_an_override_counts_in_the_arithmetic():
    wish = VllmWish(engine_args={"gpu_memory_utilization": 0.3})
    assert planned(machine(card()), model(), wish).engine_args["kv_cache_dtype"] == "fp8"
    assert "GB can be used" in refused(machine(card()), model(total=29 * GB), wish)


@pytest.mark.parametrize("share", ["much", 0, 1.5, None, True])
def test_a_share_of_memory_that_is_none(share):
    wish = VllmWish(engine_args={"gpu_memory_utilization": share})
    assert "no share between 0 and 1" in refused(machine(card()), model(), wish)


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (VllmWish(context=0), "between 1 and the model's 131,072"),
        (VllmWish(context=200_000), "between 1 and the model's 131,072"),
        (VllmWish(max_num_seqs=0), "at least one sequence"),
        (VllmWish(kv_type="q8_0"), "f16 or fp8, not q8_0"),
        (VllmWish(quant="awq"), "there is no awq for vLLM, only bf16"),
        (VllmWish(parallel=Parallel(tensor=0)), "--tensor-parallel must be at least 1"),
        (VllmWish(parallel=Parallel(tensor=3)), "does not divide the model's 4 and 32 heads"),
        (VllmWish(parallel=Parallel(tensor=4)), "needs 4 cards and there are 2 of one kind"),
        (VllmWish(parallel=Parallel(tensor=2, data=2)), "needs 4 cards"),
        (VllmWish(parallel=Parallel(pipeline=64)), "more than the model's 32 layers"),
        (VllmWish(parallel=Parallel(nodes=0)), "--nodes must be at least 1"),
    ],
)
def test_what_cannot_be_had_whatever_the_memory(wish, problem):
    assert problem in refused(machine(card(), card()), model(), wish)


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (VllmWish(parallel=Parallel(pipeline=2)), "does not work on vLLM's CPU build"),
        (VllmWish(parallel=Parallel(ray_address="auto")), "does not support them"),
        (VllmWish(kv_type="fp8"), "need a GPU"),
    ],
)
def test_what_the_cpu_build_cannot_do(wish, problem):
    assert problem in refused(machine(), model(), wish)


def test_copies_of_experts_on_the_processor():
    wish = VllmWish(parallel=Parallel(data=2))
    assert "for a mixture of experts" in refused(machine(), model(experts=True), wish)
    assert planned(machine(), model(total=2 * GB), wish).data_parallel_size == 2


def test_too_large_is_said_in_figures():
    line = refused(machine(card("L4", (8, 9), 24 * GB)), model(total=60 * GB))
    assert "bf16 with a context of 1,024 tokens needs 60.0 GB on each card" in line
    assert "19.6 GB can be used" in line


@pytest.mark.parametrize(
    ("capability", "quant"),
    [((12, 1), "nvfp4"), ((10, 0), "nvfp4"), ((9, 0), "fp8"), ((8, 9), "fp8"), ((8, 6), "bf16")],
)
def test_the_card_decides_which_weights(capability, quant):
    """Gemma 4 26B has FP8 and NVFP4 repositories and none in four-bit integers."""
    (entry,) = (m for m in load().models if m.id == "gemma-4-26b")
    found = planned(machine(card("a card", capability, 141 * GB)), subject_of_entry(entry))
    assert found.weights.quant == quant
    assert found.weights.repo


def test_where_the_best_weights_do_not_fit_the_next_ones_are_taken():
    weights = (
        VllmWeights("bf16", 50 * GB),
        VllmWeights("fp8", 26 * GB),
        VllmWeights("int4", 13 * GB),
    )
    subject = VllmSubject("m", SHAPE, weights, 32)
    assert planned(machine(card("L4", (8, 9), 24 * GB)), subject).weights.quant == "int4"


@pytest.mark.parametrize(
    ("repo", "quant"),
    [
        ("nvidia/Gemma-4-26B-A4B-NVFP4", "nvfp4"),
        ("RedHatAI/gemma-4-E2B-it-FP8-dynamic", "fp8"),
        ("x/Model-AWQ", "int4"),
        ("x/Model-quantized.w4a16", "int4"),
        ("google/gemma-4-26B-A4B-it", "bf16"),
    ],
)
def test_the_format_is_in_the_repositorys_name(repo, quant):
    assert quant_of_repo(repo) == quant


def test_every_entry_of_the_catalog_can_be_planned():
    for entry in load().models:
        subject = subject_of_entry(entry)
        if subject.weights:
            outcome = plan_vllm(machine(*[card()] * 8), subject, VllmWish())
            assert isinstance(outcome, VllmPlan), outcome


@pytest.mark.parametrize(("ranks", "limit"), [((4,), 8), ((8,), 8), ((4, 12), 16), ((512,), 512)])
def test_adapters_get_room_for_the_largest_rank(ranks, limit):
    adapters = tuple(LoraAdapter(f"a{rank}", "/x", rank) for rank in ranks)
    args = planned(machine(card()), model(), VllmWish(adapters=adapters)).engine_args
    assert (args["enable_lora"], args["max_loras"]) == (True, len(ranks))
    assert args["max_lora_rank"] == limit


def test_an_adapter_of_too_high_a_rank_is_refused():
    wish = VllmWish(adapters=(LoraAdapter("legal", "/x", 513),))
    assert "LoRA legal has rank 513" in refused(machine(card()), model(), wish)


def test_without_a_gpu_a_slot_stays_empty_for_requests_without_an_adapter():
    wish = VllmWish(adapters=(LoraAdapter("legal", "/x", 8),))
    assert planned(machine(memory=32 * GB), model(), wish).engine_args["max_loras"] == 2


def test_without_a_gpu_a_mixture_of_experts_takes_no_adapter():
    wish = VllmWish(adapters=(LoraAdapter("legal", "/x", 8),))
    subject = replace(model(), experts=True)
    assert "mixture of experts" in refused(machine(memory=32 * GB), subject, wish)
