"""Every cause that vLLM 0.32 was seen, or is documented, to report; each becomes one line."""

from __future__ import annotations

import pytest

from local_worker.engines.vllm.failures import explain

CORE = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("No module named 'vllm'", "vLLM is not installed"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", "--context"),
        ("No available memory for the cache blocks.", "--context"),
        (
            (
                "To serve at least one request with the models's max seq len (4096), 0.02 GiB KV "
                "cache is needed, which is larger than the available KV cache memory (0.0)."
            ),
            "--max-num-seqs",
        ),
        ("Free memory on device cuda:0 (3.1/23.6 GiB) is less than desired", "end what else uses"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "update the driver"),
        ("CUDA driver version is insufficient for CUDA runtime version", "update the driver"),
        (
            "Model architectures ['NoSuchForCausalLM'] are not supported for now.",
            "does not know the model's architecture",
        ),
        (
            "AsyncEngineArgs.__init__() got an unexpected keyword argument 'nosuch'",
            "--engine-arg",
        ),
    ],
)
def test_what_is_known_comes_with_advice(error, advice):
    line = explain(error, [])
    assert line.startswith(error)
    assert advice in line
    assert "\n" not in line


def test_the_root_cause_is_found_in_what_the_core_printed():
    printed = [
        "(EngineCore pid=7) INFO loading\n",
        "(EngineCore pid=7) ERROR 11-22 07:00:00 [core.py:9] Traceback (most recent call last):\n",
        (
            "(EngineCore pid=7) ERROR 11-22 07:00:00 [core.py:9] torch.OutOfMemoryError: CUDA out "
            "of memory. Tried to allocate 5.00 GiB\n"
        ),
        "RuntimeError: " + CORE + "\n",
    ]
    line = explain(CORE, printed)
    assert line.startswith("CUDA out of memory. Tried to allocate 5.00 GiB; not enough memory")


def test_a_core_that_the_system_killed_ran_out_of_memory():
    line = explain(CORE.format("{'EngineCore_0': -9}"), [])
    assert "not enough memory" in line


def test_warnings_are_no_causes():
    printed = [
        "(EngineCore pid=7) WARNING 11-22 [x.py:1] ImportError: libfoo is missing\n",
        "x.py:1: UserWarning: a RuntimeError: is near\n",
        "ValueError: the cause\n",
    ]
    assert explain(CORE, printed) == "the cause"


def test_without_a_cause_the_error_itself_has_to_do():
    assert explain(CORE, ["nothing of use\n"]) == CORE
    assert explain("first\nsecond", []) == "first"
