"""A LoRA adapter beside the model, in one engine."""

from __future__ import annotations

import asyncio
import json
import shutil

import numpy as np
import pytest

from local_worker.catalog.lora import read_adapters
from local_worker.demo import gguf_path
from local_worker.types import GenerationRequest, PromptSegment, SamplingParams

pytestmark = [pytest.mark.anyio, pytest.mark.vllm, pytest.mark.timeout(400)]

RANK, HIDDEN, LAYERS = 4, 128, 2


@pytest.fixture
def dense(tmp_path):
    """The embedded model's vocabulary over a dense model that vLLM fills with noise itself.

    Its CPU build computes no mixture of experts with adapters.
    """
    folder = tmp_path / "dense"
    shutil.copytree(gguf_path().parent, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_hidden_layers": LAYERS
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def adapter(tmp_path):
    """One that turns the attention of every layer into noise."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(LAYERS):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        for name, shape in (("lora_A", (RANK, HIDDEN)), ("lora_B", (HIDDEN, RANK))):
            tensors[f"{prefix}.{name}.weight"] = rng.normal(scale=100, size=shape).astype(
                np.float32
            )
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["o_proj"],
        "bias": "none", "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


async def text(engine, request_id, adapter=None):
    prompt = await engine.tokenize([PromptSegment("<|im_start|>user\nHello.<|im_end|>\n")])
    sampling = SamplingParams(temperature=0, ignore_eos=True)
    request = GenerationRequest(request_id, prompt, 20, sampling, adapter=adapter)
    return "".join([d.text async for o in engine.generate(request) for d in o.deltas])


async def test_an_adapter_changes_its_own_requests_and_no_other(running_vllm, dense, adapter):
    adapters = read_adapters([f"noise={adapter}"])
    args = {
        "load_format": "dummy", "enable_lora": True, "max_loras": 2, "max_lora_rank": 8
    }  # fmt: skip
    changes = {"model_path": str(dense), "adapters": adapters, "engine_args": args}
    async with running_vllm(**changes) as engine:
        assert engine.info.adapters == ("noise",)
        plain = await text(engine, "plain")
        noisy = await text(engine, "noisy", "noise")
        mixed = [text(engine, f"r{i}", "noise" if i % 2 else None) for i in range(6)]
        found = await asyncio.gather(*mixed)
    assert plain != noisy
    assert found == [plain, noisy] * 3
