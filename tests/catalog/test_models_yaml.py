"""The catalog that is shipped, against figures worked out from the published shapes."""

from __future__ import annotations

import pytest

from local_worker.catalog.gguf_facts import read_facts
from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.load import find, load
from local_worker.catalog.schema import LEVELS
from local_worker.catalog.store import Store

CATALOG = load()
QWEN = ("<think>", "</think>", "\n</think>\n\n")
MISTRAL = ("[THINK]", "[/THINK]", "[/THINK]")

IDS = [
    "gemma-4-26b",
    "gemma-4-e2b",
    "gemma-4-e4b",
    "gemma-4-12b",
    "gemma-4-31b",
    "qwen3.5-0.8b",
    "qwen3.5-2b",
    "qwen3.5-4b",
    "qwen3.5-9b",
    "qwen3.6-27b",
    "qwen3.6-35b-a3b",
    "qwen3.8-27b",
    "qwen3-30b-a3b",
    "qwen3-30b-a3b-thinking",
    "mistral-small-4",
    "ministral-3-3b",
    "ministral-3-3b-reasoning",
    "ministral-3-8b",
    "ministral-3-8b-reasoning",
    "ministral-3-14b",
    "ministral-3-14b-reasoning",
    "gpt-oss-20b",
    "gpt-oss-120b",
    "demo",
]


def test_the_models():
    assert [model.id for model in CATALOG.models] == IDS


@pytest.mark.parametrize(
    ("name", "kv", "swa", "recurrent"),
    [
        ("gemma-4-26b", 20_480, 209_715_200, 0),
        ("gemma-4-e2b", 6_144, 6_291_456, 0),
        ("gemma-4-e4b", 16_384, 20_971_520, 0),
        ("gemma-4-12b", 16_384, 335_544_320, 0),
        ("gemma-4-31b", 81_920, 838_860_800, 0),
        ("qwen3.5-0.8b", 12_288, 0, 20_201_472),
        ("qwen3.5-2b", 12_288, 0, 20_201_472),
        ("qwen3.5-4b", 32_768, 0, 52_690_944),
        ("qwen3.5-9b", 32_768, 0, 52_690_944),
        ("qwen3.6-27b", 65_536, 0, 156_893_184),
        ("qwen3.6-35b-a3b", 20_480, 0, 65_863_680),
        ("qwen3.8-27b", 65_536, 0, 156_893_184),
        ("qwen3-30b-a3b", 98_304, 0, 0),
        ("mistral-small-4", 23_040, 0, 0),
        ("ministral-3-3b", 106_496, 0, 0),
        ("ministral-3-8b", 139_264, 0, 0),
        ("ministral-3-14b", 163_840, 0, 0),
        ("gpt-oss-20b", 24_576, 3_145_728, 0),
        ("gpt-oss-120b", 36_864, 4_718_592, 0),
        ("demo", 1_024, 0, 0),
    ],
)
def test_bytes_per_token_and_per_sequence(name, kv, swa, recurrent):
    shape = find(CATALOG, name).shape
    assert shape.kv_elements_per_token * 2 == kv
    assert shape.swa_elements_per_token * 2 * (shape.swa_window or 0) == swa
    assert (shape.recurrent.bytes_per_sequence if shape.recurrent else 0) == recurrent


@pytest.mark.parametrize("model", CATALOG.models, ids=IDS)
def test_every_size_can_be_worked_out(model):
    for artifact in model.weights:
        assert artifact.bits_per_weight is not None
        assert artifact.bytes_read_per_token is not None
        estimate = model.params.total * artifact.bits_per_weight / 8
        if artifact.total_bytes is not None:
            assert artifact.total_bytes == pytest.approx(estimate, rel=0.01)
        elif not artifact.packaged:
            assert any(note.startswith("size:") for note in artifact.unconfirmed)
        assert artifact.bytes_read_per_token <= estimate * 1.01


@pytest.mark.parametrize("model", CATALOG.models, ids=IDS)
def test_what_is_missing_is_said(model):
    for artifact in model.artifacts:
        if artifact.packaged:
            continue
        notes = " ".join(artifact.unconfirmed)
        assert (artifact.revision is None) == ("revision:" in notes)
        assert any(file.sha256 is None for file in artifact.files) == ("sha256:" in notes)


@pytest.mark.parametrize(
    ("name", "delimiters", "switching"),
    [
        (
            "gemma-4-31b",
            ("<|channel>thought\n", "<channel|>", "<channel|>"),
            (False, "enable_thinking", False),
        ),
        ("qwen3.5-2b", QWEN, (True, "enable_thinking", False)),
        ("qwen3.6-27b", QWEN, (True, "enable_thinking", True)),
        ("mistral-small-4", MISTRAL, (False, "reasoning_effort", False)),
        ("ministral-3-14b-reasoning", MISTRAL, (False, "always", True)),
        (
            "gpt-oss-120b",
            (
                "<|channel|>analysis<|message|>",
                "<|end|>",
                "<|end|><|start|>assistant<|channel|>final<|message|>",
            ),
            (False, "always", True),
        ),
        ("demo", QWEN, (True, "enable_thinking", True)),
    ],
)
def test_delimiters(name, delimiters, switching):
    spec = find(CATALOG, name).thinking
    assert spec is not None
    assert (spec.start, spec.end, spec.close) == delimiters
    assert (spec.primed, spec.switch, spec.default_on) == switching


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("qwen3.8-27b", "low low low medium xhigh xhigh xhigh"),
        ("mistral-small-4", "none high high high high high high"),
        ("gpt-oss-20b", "low low low medium high high high"),
    ],
)
def test_native_levels(name, native):
    spec = find(CATALOG, name).thinking
    assert spec is not None
    assert spec.native_levels == dict(zip(LEVELS, native.split(), strict=True))


def test_effort_ladders():
    for model in CATALOG.models:
        if model.thinking is not None and model.id != "demo":
            assert list(model.thinking.effort.values()) == [0, 512, 1024, 4096, 16384, 32768]
    demo = find(CATALOG, "demo").thinking
    assert demo is not None
    assert list(demo.effort.values()) == [0, 16, 32, 96, 256, 512]
    assert demo.answer_allowance == 128


def test_the_demo_model_is_packaged():
    artifact = find(CATALOG, "demo").artifacts[0]
    assert artifact.packaged
    assert [file.name for file in artifact.files] == ["demo/model/demo.gguf"]


def test_the_demo_entry_is_what_the_demo_file_says(tmp_path):
    model = find(CATALOG, "demo")
    present = Store(tmp_path).find(model.artifacts[0])
    if present is None:
        pytest.skip("the demo model is not packaged here")
    facts = read_facts(present.files[0])
    weights = model.artifacts[0]
    assert facts.shape == model.shape
    assert facts.quant == weights.quant
    assert facts.bytes_read_per_token == pytest.approx(weights.bytes_read_per_token, rel=0.02)
    assert facts.file_bytes == pytest.approx(
        model.params.total * (weights.bits_per_weight or 0) / 8, rel=0.02
    )
    guess = guess_thinking(facts.chat_template, facts.architecture)
    assert guess is not None
    assert model.thinking is not None
    # What cannot be read from the template.
    ours = ("effort", "answer_allowance", "probe", "early_exit")
    taught = {name: getattr(model.thinking, name) for name in ours}
    assert guess.model_copy(update=taught) == model.thinking


def test_the_recommended_weights_of_the_default_model():
    artifact = find(CATALOG, "gemma-4-26b").weights[0]
    assert artifact.repo == "google/gemma-4-26B-A4B-it-qat-q4_0-gguf"
    assert artifact.total_bytes == 14_439_363_584
