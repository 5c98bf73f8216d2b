from __future__ import annotations

import time
from pathlib import Path

import pytest

from local_worker.catalog.gguf_facts import read_facts
from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.load import find, load
from local_worker.catalog.schema import KvLayers, Mla, Moe, Recurrent, Shape
from local_worker.errors import ModelFileError

VOCABULARY = Path(__file__).parents[3] / "shared/data/ggml-vocab-gemma-4.gguf"


def test_facts_of_a_tiny_model(tiny):
    path = tiny()
    facts = read_facts(path)
    assert (facts.architecture, facts.name, facts.quant) == ("qwen3moe", "Tiny", "Q8_0")
    assert facts.files == (path,)
    assert facts.file_bytes == path.stat().st_size
    assert facts.tensor_bytes == 272 + 8704 + 26112 + 256
    assert facts.expert_bytes == 26112
    assert facts.table_bytes == 272
    # Half of the experts, and the tied embedding as the output matrix.
    assert facts.bytes_read_per_token == 26112 // 2 + 8704 + 256 + 272
    assert facts.shape == Shape(
        layers=2,
        hidden=64,
        vocab=4,
        context=4096,
        kv=(KvLayers(2, 2, 32),),
        moe=Moe(layers=2, experts=4, top_k=2, expert_ff=96),
    )


def test_a_separate_output_matrix_leaves_the_embedding_a_lookup(tiny):
    tensors = (("token_embd.weight", (64, 4), 8), ("output.weight", (64, 4), 1))
    facts = read_facts(tiny(tensors=tensors))
    assert facts.bytes_read_per_token == 512
    assert facts.table_bytes == 272


@pytest.mark.parametrize("name", ["", "\x1b[2J", "x" * 201])
def test_a_name_that_cannot_be_shown_is_the_files(tiny, name):
    assert read_facts(tiny(general__name=name)).name == "tiny"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": None}, "does not name its architecture"),
        ({"general__architecture": "a\x1b[2J"}, "does not name its architecture"),
        ({"qwen3moe__block_count": None}, "lacks qwen3moe.block_count: it is no model"),
        ({"qwen3moe__block_count": 4_000_000_000}, "it claims 4,000,000,000 layers"),
        ({"qwen3moe__context_length": None}, "lacks qwen3moe.context_length"),
        ({"tokenizer__ggml__tokens": None}, "lacks qwen3moe.vocab_size"),
        ({"tensors": ()}, "holds no tensors: it is a vocabulary, not a model"),
    ],
)
def test_a_file_that_is_no_model(tiny, changes, message):
    with pytest.raises(ModelFileError, match=message):
        read_facts(tiny(**changes))


def test_sliding_window_and_per_layer_heads(tiny):
    facts = read_facts(
        tiny(
            general__architecture="gemma4",
            **{
                "gemma4.block_count": 6,
                "gemma4.context_length": 8192,
                "gemma4.embedding_length": 64,
                "gemma4.attention.head_count": 4,
                "gemma4.attention.head_count_kv": [4, 4, 1, 4, 4, 1],
                "gemma4.attention.key_length": 64,
                "gemma4.attention.value_length": 64,
                "gemma4.attention.key_length_swa": 32,
                "gemma4.attention.value_length_swa": 32,
                "gemma4.attention.sliding_window": 512,
                "gemma4.attention.sliding_window_pattern": [True, True, False] * 2,
                "gemma4.attention.shared_kv_layers": 1,
                "gemma4.embedding_length_per_layer_input": 8,
            },
        )
    )
    assert facts.shape.swa == (KvLayers(4, 4, 32),)
    assert facts.shape.kv == (KvLayers(1, 1, 64),)
    assert facts.shape.swa_window == 512
    assert facts.shape.per_layer_embedding_params == 8 * 4 * 6


@pytest.mark.parametrize(
    ("architecture", "windowed", "full"), [("gpt-oss", 6, 6), ("unheard-of", 0, 12)]
)
def test_a_window_without_a_pattern(tiny, architecture, windowed, full):
    keys = {
        "block_count": 12,
        "context_length": 8192,
        "embedding_length": 64,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
        "attention.sliding_window": 128,
    }
    changes = {f"{architecture}.{key}": value for key, value in keys.items()}
    shape = read_facts(tiny(general__architecture=architecture, **changes)).shape
    assert sum(layers.n for layers in shape.swa) == windowed
    assert sum(layers.n for layers in shape.kv) == full


def test_recurrent_layers(tiny):
    keys = {
        "block_count": 24,
        "context_length": 8192,
        "embedding_length": 1024,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "ssm.state_size": 128,
        "ssm.group_count": 16,
        "ssm.time_step_rank": 16,
        "ssm.conv_kernel": 4,
        "full_attention_interval": 4,
    }
    changes = {f"qwen35.{key}": value for key, value in keys.items()}
    shape = read_facts(tiny(general__architecture="qwen35", **changes)).shape
    assert shape.kv == (KvLayers(6, 2, 256),)
    assert shape.recurrent == Recurrent(
        layers=18, qk_heads=16, v_heads=16, head_dim=128, conv_kernel=4
    )
    assert shape.recurrent.bytes_per_sequence == 20_201_472
    del changes["qwen35.ssm.conv_kernel"]
    with pytest.raises(ModelFileError, match=r"lacks qwen35\.ssm\.conv_kernel"):
        read_facts(tiny(general__architecture="qwen35", **changes))


def test_latent_attention(tiny):
    changes = {
        "qwen3moe.attention.kv_lora_rank": 256,
        "qwen3moe.rope.dimension_count": 64,
    }
    shape = read_facts(tiny(**changes)).shape
    assert shape.mla == Mla(layers=2, kv_lora_rank=256, rope_head_dim=64)
    assert shape.kv == ()
    assert shape.kv_elements_per_token == 640


def split(tiny, number, *, count=3, tensors=(("a", (32,), 8),), total=3):
    name = f"tiny-{number + 1:05d}-of-00003.gguf"
    values = {"split.no": number, "split.count": count, "split.tensors.count": total}
    return tiny(name, tensors=tensors, **values)


def test_a_split_model_is_one_model(tiny):
    first, *rest = [split(tiny, number) for number in range(3)]
    facts = read_facts(first)
    assert facts.files == (first, *rest)
    assert facts.tensor_bytes == 3 * 34
    assert facts.file_bytes == sum(path.stat().st_size for path in facts.files)


def test_a_split_model_with_a_missing_part(tiny):
    first, _, last = [split(tiny, number) for number in range(3)]
    last.unlink()
    with pytest.raises(ModelFileError, match=r"tiny-00003-of-00003\.gguf does not exist"):
        read_facts(first)


def test_a_split_model_with_a_truncated_part(tiny):
    first, second, _ = [split(tiny, number) for number in range(3)]
    second.write_bytes(second.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match=r"tiny-00002-of-00003\.gguf is truncated: tensor a"):
        read_facts(first)


def test_only_the_first_part_can_be_loaded(tiny):
    paths = [split(tiny, number) for number in range(3)]
    with pytest.raises(ModelFileError, match=r"give tiny-00001-of-00003\.gguf"):
        read_facts(paths[1])


def test_parts_that_do_not_belong_together(tiny):
    paths = [split(tiny, number) for number in range(3)]
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(ModelFileError, match="is not part 3 of 3"):
        read_facts(paths[0])
    split(tiny, 2, tensors=())
    with pytest.raises(ModelFileError, match="should have 3 tensors in its parts but has 2"):
        read_facts(paths[0])
    paths[0] = paths[0].rename(paths[0].with_name("other.gguf"))
    with pytest.raises(ModelFileError, match="its name does not say so"):
        read_facts(paths[0])


@pytest.mark.skipif(not VOCABULARY.is_file(), reason="the shared data are not beside this checkout")
def test_the_real_gemma_4_header():
    begin = time.perf_counter()
    facts = read_facts(VOCABULARY, vocab_only=True)
    assert time.perf_counter() - begin < 5
    assert facts.architecture == "gemma4"
    assert facts.shape == find(load(), "gemma-4-26b").shape
    spec = guess_thinking(facts.chat_template, facts.architecture)
    assert spec == find(load(), "gemma-4-26b").thinking
    with pytest.raises(ModelFileError, match="holds no tensors"):
        read_facts(VOCABULARY)
