"""scripts/make_random_gguf.py: shapes as llama.cpp wants them, sizes as its quantiser has them."""

from __future__ import annotations

import shutil

import gguf_shapes as shapes
import make_random_gguf as script
import numpy as np
import pytest

from local_worker.catalog.gguf import read_header
from local_worker.catalog.gguf_facts import read_facts
from local_worker.engines.llama_cpp.config import LlamaConfig

TINY = sorted(name for name in shapes.SHAPES if name.startswith("tiny-"))

GEMMA_4_26B = {
    "block_count": 30,
    "embedding_length": 2816,
    "feed_forward_length": 2112,
    "attention.head_count": 16,
    "attention.head_count_kv": [8, 8, 8, 8, 8, 2] * 5,
    "attention.key_length": 512,
    "attention.key_length_swa": 256,
    "attention.sliding_window_pattern": [True, True, True, True, True, False] * 5,
    "expert_count": 128,
    "expert_used_count": 8,
    "expert_feed_forward_length": 704,
}


def by_name(tensors):
    return {tensor.name: tensor for tensor in tensors}


def make(tmp_path, shape, **options):
    pytest.importorskip("gguf")
    path = tmp_path / f"{shape}.gguf"
    script.make(shape, path, vocab=None, **options)
    return path


def test_gemma_4_26b_has_the_parameters_and_the_size_of_the_real_one():
    tensors = list(shapes.gemma4(GEMMA_4_26B, 262_144))
    numbers = sum(tensor.elements for tensor in tensors)
    rope = by_name(tensors)["rope_freqs.weight"].elements  # a table, not a parameter
    assert numbers - rope == pytest.approx(25_232_441_344, rel=1e-4)
    # Google's file: 14,439,363,584 bytes, of which 15.8 MB are metadata.
    assert sum(tensor.size("Q4_0") for tensor in tensors) == pytest.approx(14_423_600_000, rel=1e-4)


def test_full_attention_layers_of_gemma_have_no_values_of_their_own():
    tensors = by_name(shapes.gemma4(GEMMA_4_26B, 262_144))
    assert tensors["blk.4.attn_v.weight"].shape == (2816, 2048)
    assert "blk.5.attn_v.weight" not in tensors
    assert tensors["blk.5.attn_k.weight"].shape == (2816, 1024)
    assert tensors["blk.5.attn_q.weight"].shape == (2816, 8192)


@pytest.mark.parametrize(
    ("tensor", "quant", "kind"),
    [
        (shapes.matrix("a", 704, 8), "Q4_0", "Q4_0"),
        (shapes.matrix("a", 720, 8), "Q4_0", "F16"),
        (shapes.matrix("a", 704, 8), "Q8_0", "Q8_0"),
        (shapes.Tensor("t", shapes.Role.EMBEDDING, (2816, 8)), "Q4_0", "Q6_K"),
        (shapes.Tensor("t", shapes.Role.EMBEDDING, (704, 8)), "Q4_0", "Q8_0"),
        (shapes.Tensor("t", shapes.Role.EMBEDDING, (2816, 8)), "F16", "F16"),
        (shapes.norm("n", 704), "Q4_0", "F32"),
        (shapes.exact("r", 704, 8), "Q4_0", "F32"),
    ],
)
def test_types_are_those_of_the_quantiser(tensor, quant, kind):
    assert tensor.kind(quant) == kind


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q8_0", "Q6_K"])
def test_random_blocks_have_the_size_of_their_type(kind):
    data = script.random_blocks(kind, 10, 0.02, np.random.default_rng(0))
    assert len(data) == 10 * shapes.BLOCKS[kind][1]


def test_q4_0_blocks_have_the_standard_deviation_asked_for():
    data = script.random_blocks("Q4_0", 2000, 0.02, np.random.default_rng(0))
    blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "u1", 16)]))
    nibbles = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float64)
    numbers = (nibbles - 8) * blocks["d"].astype(np.float64)[:, None]
    assert numbers.std() == pytest.approx(0.02, rel=0.02)


def test_the_byte_vocabulary_names_every_byte_once():
    vocabulary = script.byte_vocabulary()
    tokens = vocabulary["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == 256 + 1 + len(script.SPECIAL)
    assert tokens[vocabulary["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


@pytest.mark.parametrize("shape", TINY)
def test_a_tiny_file_is_complete_and_read_as_what_it_is(tmp_path, shape):
    path = make(tmp_path, shape)
    facts = read_facts(path)
    header = read_header(path)
    architecture, hyper = shapes.SHAPES[shape]
    assert facts.architecture == architecture
    assert facts.shape.layers == hyper["block_count"]
    assert header.tensor_bytes <= path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_seed_gives_the_same_file(tmp_path):
    first = make(tmp_path, "tiny-qwen3moe", seed=1).read_bytes()
    assert make(tmp_path, "tiny-qwen3moe", seed=1).read_bytes() == first
    assert make(tmp_path, "tiny-qwen3moe", seed=2).read_bytes() != first


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit, match="GB are needed"):
        script.make("tiny-mistral3", tmp_path / "m.gguf", vocab=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.llama
@pytest.mark.parametrize("shape", TINY)
def test_llama_cpp_loads_a_tiny_file_and_gives_finite_logits(tmp_path, shape):
    binding = pytest.importorskip("local_worker.engines.llama_cpp.binding")
    from local_worker.engines.llama_cpp.batch import Row

    config = LlamaConfig(
        str(make(tmp_path, shape)), kv_capacity=256, max_model_len=256, max_num_seqs=1
    )
    llama = binding.Llama(config)
    try:
        token_ids = llama.tokenize("three blind mice", parse_special=False)
        rows = [
            Row(token_id, index, 0, index == len(token_ids) - 1)
            for index, token_id in enumerate(token_ids)
        ]
        (logits,) = llama.decode(rows)
        assert logits.shape == (256 + 1 + len(script.SPECIAL),)
        assert np.isfinite(logits).all()
        assert logits.std() > 0.01
    finally:
        llama.close()
