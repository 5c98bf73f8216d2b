from __future__ import annotations

import json

import pytest

from local_worker.catalog.lora import LoraAdapter, read_adapters
from local_worker.errors import ConfigError, ModelFileError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 12, "lora_alpha": 16}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    return tmp_path


def test_an_adapter_says_its_rank(folder):
    assert read_adapters([f"legal={folder}"]) == (LoraAdapter("legal", str(folder), 12),)


def test_a_path_may_contain_the_separator(folder):
    odd = folder / "a=b"
    odd.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (odd / name).write_bytes((folder / name).read_bytes())
    assert read_adapters([f"x={odd}"])[0].path == str(odd)


@pytest.mark.parametrize("pair", ["legal", "=/x", "legal=", " =/x"])
def test_what_is_no_pair_is_refused(pair):
    with pytest.raises(ConfigError, match="NAME=FOLDER"):
        read_adapters([pair])


def test_a_name_is_given_once(folder):
    with pytest.raises(ConfigError, match="given twice"):
        read_adapters([f"x={folder}", f"x={folder}"])


@pytest.mark.parametrize(
    ("config", "words"),
    [(None, "holds no LoRA adapter"), ("{", "not valid JSON"), ("{}", "'r' is None"),
     ('{"r": 0}', "'r' is 0"), ("[]", "'r' is None")],
)  # fmt: skip
def test_a_folder_without_an_adapter_is_refused(folder, config, words):
    path = folder / "adapter_config.json"
    path.unlink()
    if config is not None:
        path.write_text(config)
    with pytest.raises(ModelFileError, match=words):
        read_adapters([f"x={folder}"])


def test_weights_that_are_missing_are_named(folder):
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"lacks adapter_model\.safetensors"):
        read_adapters([f"x={folder}"])
