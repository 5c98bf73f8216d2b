from __future__ import annotations

import json
import shutil

import pytest

from local_worker.catalog.hf_folder import read_folder
from local_worker.demo import gguf_path
from local_worker.errors import ModelFileError


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "tiny"
    shutil.copytree(gguf_path().parent, target, ignore=shutil.ignore_patterns("*.gguf", "*.md"))
    return target


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_facts_of_the_embedded_model(folder):
    facts = read_folder(folder)
    assert (facts.name, facts.architecture, facts.model_type) == (
        "tiny", "Qwen3MoeForCausalLM", "qwen3_moe",
    )  # fmt: skip
    assert facts.quant == "bf16"
    assert facts.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert facts.experts
    assert (facts.shape.layers, facts.shape.context, facts.heads) == (4, 4096, 4)
    assert facts.shape.kv_elements_per_token == 2 * 4 * 2 * 32
    assert "<|im_start|>" in (facts.chat_template or "")


def test_a_multimodal_config_keeps_its_text_part_apart(folder):
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            {"architectures": ["XForConditionalGeneration"], "model_type": "x", "text_config": text}
        )
    )
    facts = read_folder(folder)
    assert (facts.architecture, facts.shape.hidden) == ("XForConditionalGeneration", 128)


@pytest.mark.parametrize(
    ("settings", "quant"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 4, "type": "int"}}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            "int",
        ),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_the_weights_format_is_what_the_config_says(folder, settings, quant):
    change(folder, quantization_config=settings)
    assert read_folder(folder).quant == quant


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=f"has no {name}"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_broken_file_is_named(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ModelFileError, match=name):
        read_folder(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"architectures": []},
        {"num_hidden_layers": 0},
        {"hidden_size": "many"},
        {"vocab_size": None},
        {"num_attention_heads": -4},
    ],
)
def test_a_config_without_the_numbers_is_refused(folder, values):
    change(folder, **values)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_folder(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match="no weights"):
        read_folder(folder)


def test_a_copy_in_mistrals_own_layout_is_not_counted(folder):
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    size = (folder / "model.safetensors").stat().st_size
    assert read_folder(folder).weight_bytes == size


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="truncated"):
        read_folder(folder)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x02" + bytes(7) + b"[]"])
def test_weights_that_are_none(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        read_folder(folder)


def test_a_part_that_the_index_names_and_nobody_copied(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=r"model-2\.safetensors is missing"):
        read_folder(folder)
