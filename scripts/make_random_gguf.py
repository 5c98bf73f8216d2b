"""Write a GGUF file of a known shape with random weights: for speed and loading, not for sense.

    python scripts/make_random_gguf.py --shape gemma-4-26b --vocab VOCAB.gguf --out FILE.gguf
    python scripts/make_random_gguf.py --shape tiny-qwen3moe --out FILE.gguf

`gemma-4-26b` takes hyper-parameters, tokenizer and chat template from VOCAB.gguf, a vocabulary-only
file of that model, and adds the tensors. The tiny shapes state their own hyper-parameters; without
`--vocab` they get a byte-level vocabulary and a ChatML template. Needs the package `gguf`.

Tensor names, shapes and types are those that llama.cpp's converter and quantiser give. A quantised
tensor repeats one stretch of at most `PERIOD` random blocks, and all layers of one kind differ only
in where they come from: reading it costs what real weights cost, and compressing it would not.
Scales are chosen so that activations stay of order one, as in a model freshly initialised.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gguf import GGUFWriter

PERIOD = 65_537
"""Blocks before a tensor repeats itself. A prime, so that no two rows of a matrix are alike."""

BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q4_0": (32, 18), "Q8_0": (32, 34), "Q6_K": (256, 210)}
"""Elements and bytes of one block."""

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}
EMBEDDING_STD = 0.2
"""Below one, so that the tied output does not just repeat the input token."""

Hyper = dict[str, Any]


class Role(Enum):
    """What a tensor is for: decides its type and its values."""

    MATRIX = auto()
    EMBEDDING = auto()
    EXACT = auto()
    CONSTANT = auto()


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `shape` in llama.cpp's order, the length of a row first."""

    name: str
    role: Role
    shape: tuple[int, ...]
    value: float = 1.0

    def kind(self, quant: str) -> str:
        """Its type in a file of that quantisation, as llama.cpp's quantiser picks it.

        The embedding of these models is the output matrix too, and Q4_0 takes Q6_K for the output
        (Q8_0 where rows do not divide into blocks of 256). With it the size of gemma-4-26b comes
        out at what Google's own Q4_0 file has.
        """
        if self.role in (Role.EXACT, Role.CONSTANT):
            return "F32"
        kind = quant
        if self.role is Role.EMBEDDING and quant == "Q4_0":
            kind = "Q6_K" if self.shape[0] % BLOCKS["Q6_K"][0] == 0 else "Q8_0"
        return kind if self.shape[0] % BLOCKS[kind][0] == 0 else "F16"

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))

    def size(self, quant: str) -> int:
        """Bytes in a file of that quantisation."""
        length, width = BLOCKS[self.kind(quant)]
        return self.elements // length * width


def matrix(name: str, *shape: int) -> Tensor:
    """A weight matrix, or a stack of them."""
    return Tensor(f"{name}.weight", Role.MATRIX, shape)


def norm(name: str, length: int) -> Tensor:
    """Weights of a norm: ones."""
    return Tensor(f"{name}.weight", Role.CONSTANT, (length,))


def exact(name: str, *shape: int) -> Tensor:
    """Weights that stay in full precision: a router, a convolution."""
    return Tensor(f"{name}.weight", Role.EXACT, shape)


def ends(h: Hyper, vocab: int) -> Iterator[Tensor]:
    """The tied embedding and the last norm."""
    yield Tensor("token_embd.weight", Role.EMBEDDING, (h["embedding_length"], vocab))
    yield norm("output_norm", h["embedding_length"])


def attention(block: str, h: Hyper, *, q_width: int = 1) -> Iterator[Tensor]:
    """Query, key, value and output of one layer, without norms."""
    embed, head = h["embedding_length"], h["attention.key_length"]
    heads, kv_heads = h["attention.head_count"], h["attention.head_count_kv"]
    yield matrix(f"{block}.attn_q", embed, head * heads * q_width)
    yield matrix(f"{block}.attn_k", embed, head * kv_heads)
    yield matrix(f"{block}.attn_v", embed, head * kv_heads)
    yield matrix(f"{block}.attn_output", head * heads, embed)


def dense(block: str, embed: int, width: int, suffix: str = "") -> Iterator[Tensor]:
    """A gated feed-forward network."""
    yield matrix(f"{block}.ffn_gate{suffix}", embed, width)
    yield matrix(f"{block}.ffn_up{suffix}", embed, width)
    yield matrix(f"{block}.ffn_down{suffix}", width, embed)


def experts(block: str, h: Hyper) -> Iterator[Tensor]:
    """The router and the routed experts, gate and up apart."""
    embed, width = h["embedding_length"], h["expert_feed_forward_length"]
    count = h["expert_count"]
    yield exact(f"{block}.ffn_gate_inp", embed, count)
    yield matrix(f"{block}.ffn_gate_exps", embed, width, count)
    yield matrix(f"{block}.ffn_up_exps", embed, width, count)
    yield matrix(f"{block}.ffn_down_exps", width, embed, count)


def gemma4(h: Hyper, vocab: int) -> Iterator[Tensor]:
    """Gemma 4 with experts: windowed and full attention, a dense network beside the experts."""
    yield from ends(h, vocab)
    # Proportional rotation: a quarter of each head turns, the rest is divided out of existence.
    turning = h["attention.key_length"] // 8
    still = h["attention.key_length"] // 2 - turning
    yield Tensor("rope_freqs.weight", Role.CONSTANT, (turning + still,), -turning)
    for layer in range(h["block_count"]):
        yield from _gemma4_attention(f"blk.{layer}", h, layer)
        yield from _gemma4_networks(f"blk.{layer}", h)


def _gemma4_attention(block: str, h: Hyper, layer: int) -> Iterator[Tensor]:
    embed, heads = h["embedding_length"], h["attention.head_count"]
    windowed = h["attention.sliding_window_pattern"][layer]
    head = h["attention.key_length_swa" if windowed else "attention.key_length"]
    kv = head * h["attention.head_count_kv"][layer]
    yield norm(f"{block}.attn_norm", embed)
    yield matrix(f"{block}.attn_q", embed, head * heads)
    yield matrix(f"{block}.attn_k", embed, kv)
    if windowed:  # the full layers use their keys as values
        yield matrix(f"{block}.attn_v", embed, kv)
    yield matrix(f"{block}.attn_output", head * heads, embed)
    yield norm(f"{block}.attn_q_norm", head)
    yield norm(f"{block}.attn_k_norm", head)
    yield norm(f"{block}.post_attention_norm", embed)
    yield Tensor(f"{block}.layer_output_scale.weight", Role.CONSTANT, (1,))


def _gemma4_networks(block: str, h: Hyper) -> Iterator[Tensor]:
    embed, width = h["embedding_length"], h["expert_feed_forward_length"]
    count = h["expert_count"]
    yield norm(f"{block}.ffn_norm", embed)
    yield from dense(block, embed, h["feed_forward_length"])
    for name in ("post_ffw_norm", "post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2"):
        yield norm(f"{block}.{name}", embed)
    yield exact(f"{block}.ffn_gate_inp", embed, count)
    # The router's input is divided by sqrt(embed) first: this brings its logits back to order one.
    yield Tensor(f"{block}.ffn_gate_inp.scale", Role.CONSTANT, (embed,), embed**0.5)
    yield matrix(f"{block}.ffn_gate_up_exps", embed, width * 2, count)
    yield matrix(f"{block}.ffn_down_exps", width, embed, count)
    yield Tensor(f"{block}.ffn_down_exps.scale", Role.CONSTANT, (count,))


def qwen3moe(h: Hyper, vocab: int) -> Iterator[Tensor]:
    """Qwen3 with experts."""
    yield from ends(h, vocab)
    for block in _blocks(h):
        yield norm(f"{block}.attn_norm", h["embedding_length"])
        yield from attention(block, h)
        yield norm(f"{block}.attn_q_norm", h["attention.key_length"])
        yield norm(f"{block}.attn_k_norm", h["attention.key_length"])
        yield norm(f"{block}.ffn_norm", h["embedding_length"])
        yield from experts(block, h)


def mistral3(h: Hyper, vocab: int) -> Iterator[Tensor]:
    """Mistral 3, dense."""
    yield from ends(h, vocab)
    for block in _blocks(h):
        yield norm(f"{block}.attn_norm", h["embedding_length"])
        yield from attention(block, h)
        yield norm(f"{block}.ffn_norm", h["embedding_length"])
        yield from dense(block, h["embedding_length"], h["feed_forward_length"])


def qwen35(h: Hyper, vocab: int) -> Iterator[Tensor]:
    """Qwen3.5, dense or with experts: three recurrent layers, then one that attends."""
    embed = h["embedding_length"]
    yield from ends(h, vocab)
    for layer, block in enumerate(_blocks(h)):
        yield norm(f"{block}.attn_norm", embed)
        yield norm(f"{block}.post_attention_norm", embed)
        if (layer + 1) % h["full_attention_interval"]:
            yield from _delta_net(block, h)
        else:
            yield from attention(block, h, q_width=2)  # the second half gates the output
            yield norm(f"{block}.attn_q_norm", h["attention.key_length"])
            yield norm(f"{block}.attn_k_norm", h["attention.key_length"])
        if "expert_count" in h:
            yield from experts(block, h)
            yield Tensor(f"{block}.ffn_gate_inp_shexp.weight", Role.EXACT, (embed,))
            yield from dense(block, embed, h["expert_shared_feed_forward_length"], "_shexp")
        else:
            yield from dense(block, embed, h["feed_forward_length"])


def _delta_net(block: str, h: Hyper) -> Iterator[Tensor]:
    embed, value, heads = h["embedding_length"], h["ssm.inner_size"], h["ssm.time_step_rank"]
    channels = 2 * h["ssm.group_count"] * h["ssm.state_size"] + value
    yield matrix(f"{block}.attn_qkv", embed, channels)
    yield matrix(f"{block}.attn_gate", embed, value)
    yield exact(f"{block}.ssm_conv1d", h["ssm.conv_kernel"], channels)
    yield Tensor(f"{block}.ssm_dt.bias", Role.CONSTANT, (heads,))
    yield Tensor(f"{block}.ssm_a", Role.CONSTANT, (heads,), -1.0)
    yield matrix(f"{block}.ssm_beta", embed, heads)
    yield matrix(f"{block}.ssm_alpha", embed, heads)
    yield norm(f"{block}.ssm_norm", h["ssm.state_size"])
    yield matrix(f"{block}.ssm_out", value, embed)


def _blocks(h: Hyper) -> list[str]:
    return [f"blk.{layer}" for layer in range(h["block_count"])]


TENSORS: Mapping[str, Callable[[Hyper, int], Iterator[Tensor]]] = {
    "gemma4": gemma4,
    "qwen3moe": qwen3moe,
    "qwen35": qwen35,
    "qwen35moe": qwen35,
    "mistral3": mistral3,
}

_TINY: Hyper = {
    "block_count": 2, "context_length": 4096, "embedding_length": 256, "feed_forward_length": 256,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 64,
    "attention.value_length": 64, "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1e6, "rope.dimension_count": 64,
}  # fmt: skip
_EXPERTS: Hyper = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 64}
_TINY35: Hyper = _TINY | {
    "block_count": 4, "full_attention_interval": 4, "rope.dimension_count": 32,
    "rope.dimension_sections": [6, 5, 5, 0], "ssm.conv_kernel": 4, "ssm.state_size": 64,
    "ssm.group_count": 2, "ssm.time_step_rank": 4, "ssm.inner_size": 256,
}  # fmt: skip
_TINY_GEMMA: Hyper = _TINY | _EXPERTS | {
    "block_count": 6, "attention.head_count_kv": [2, 2, 2, 2, 2, 1],
    "attention.sliding_window": 64, "attention.shared_kv_layers": 0,
    "attention.sliding_window_pattern": [True] * 5 + [False],
    "attention.key_length_swa": 32, "attention.value_length_swa": 32,
    "rope.freq_base_swa": 1e4, "rope.dimension_count_swa": 32,
    "embedding_length_per_layer_input": 0, "final_logit_softcapping": 30.0,
}  # fmt: skip

FROM_VOCAB = "gemma-4-26b"
SHAPES: Mapping[str, tuple[str, Hyper]] = {
    FROM_VOCAB: ("gemma4", {}),
    "tiny-gemma4": ("gemma4", _TINY_GEMMA),
    "tiny-mistral3": ("mistral3", _TINY),
    "tiny-qwen3moe": ("qwen3moe", _TINY | _EXPERTS),
    "tiny-qwen35": ("qwen35", _TINY35),
    "tiny-qwen35moe": ("qwen35moe", _TINY35 | _EXPERTS | {"expert_shared_feed_forward_length": 64}),
}
"""Architecture and hyper-parameters, under the architecture's own keys."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_vocabulary() -> Hyper:
    """Metadata of a byte-level BPE vocabulary: 256 bytes, one merge, three control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    plain = [*(letters[byte] for byte in range(256)), "th"]  # the file must have a merge
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*plain, *SPECIAL],
        "tokenizer.ggml.token_type": [1] * len(plain) + [3] * len(SPECIAL),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.padding_token_id": len(plain),
        "tokenizer.ggml.eos_token_id": len(plain) + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def values(tensor: Tensor, quant: str, rng: np.random.Generator) -> bytes:
    """Its data, or the stretch of it that repeats."""
    if tensor.role is Role.CONSTANT:
        data = np.full(tensor.elements, abs(tensor.value), np.float32)
        if tensor.name == "rope_freqs.weight":
            turning = int(-tensor.value)
            data[:turning], data[turning:] = 1.0, 1e30
        elif tensor.value < 0:
            data = -data
        return data.tobytes()
    kind = tensor.kind(quant)
    std = (EMBEDDING_STD if tensor.role is Role.EMBEDDING else 1.0) / tensor.shape[0] ** 0.5
    count = min(tensor.elements // BLOCKS[kind][0], PERIOD if BLOCKS[kind][0] > 1 else 2**40)
    return random_blocks(kind, count, std, rng)


def random_blocks(kind: str, count: int, std: float, rng: np.random.Generator) -> bytes:
    """So many blocks of numbers around zero with that standard deviation."""
    if kind in ("F32", "F16"):
        numbers = rng.standard_normal(count, np.float32) * np.float32(std)
        return numbers.astype("<f4" if kind == "F32" else "<f2").tobytes()
    # The quants are uniform over n values, with standard deviation sqrt((n^2 - 1) / 12).
    fields, spread = {
        "Q4_0": ([("d", "<f2"), ("q", "u1", 16)], 4.61),
        "Q8_0": ([("d", "<f2"), ("q", "u1", 32)], 73.9),
        "Q6_K": ([("q", "u1", 192), ("scales", "i1", 16), ("d", "<f2")], 18.47),
    }[kind]
    blocks = np.zeros(count, np.dtype(fields))
    blocks["d"] = std / spread
    blocks["q"] = rng.integers(0, 256, blocks["q"].shape, np.uint8)
    if kind == "Q6_K":
        blocks["scales"] = 1
    return blocks.tobytes()


def write_repeated(file: BinaryIO, stretch: bytes, size: int) -> None:
    """Fills `size` bytes of the file with the stretch, over and over."""
    whole, rest = divmod(size, len(stretch))
    file.writelines(stretch for _ in range(whole))
    file.write(stretch[:rest])


def read_vocabulary(path: Path) -> Hyper:
    """All metadata of a GGUF file, tokenizer included."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    return {name: f.contents() for name, f in fields.items() if not name.startswith("GGUF.")}


def add_metadata(writer: GGUFWriter, metadata: Hyper) -> None:
    """Adds the values with the GGUF types that llama.cpp expects."""
    from gguf import GGUFValueType

    kinds = {
        bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32,
        str: GGUFValueType.STRING,
    }  # fmt: skip
    for key, value in metadata.items():
        if isinstance(value, list):
            item = GGUFValueType.INT32 if type(value[0]) is int else kinds[type(value[0])]
            writer.add_key_value(key, value, GGUFValueType.ARRAY, item)
        else:
            writer.add_key_value(key, value, kinds[type(value)])


def metadata_of(shape: str, vocab: Path | None, quant: str) -> tuple[Hyper, list[Tensor]]:
    """The metadata of a shape's file, and its tensors."""
    architecture, hyper = SHAPES[shape]
    found = read_vocabulary(vocab) if vocab else byte_vocabulary()
    prefix = f"{architecture}."
    if shape == FROM_VOCAB:
        hyper = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    metadata = {
        "general.type": "model",
        "general.name": f"{shape} with random weights",
        "general.file_type": FILE_TYPES[quant],
        "general.quantization_version": 2,
        **{f"{prefix}{key}": value for key, value in hyper.items()},
        **{key: value for key, value in found.items() if key.startswith("tokenizer.")},
    }
    tokens = len(found["tokenizer.ggml.tokens"])
    return metadata, list(TENSORS[architecture](hyper, tokens))


def make(shape: str, out: Path, *, vocab: Path | None, quant: str = "Q4_0", seed: int = 0) -> None:
    """Writes the file, tensor by tensor; it gets its name when it is complete."""
    from gguf import GGMLQuantizationType, GGUFWriter

    metadata, tensors = metadata_of(shape, vocab, quant)
    needed = sum(tensor.size(quant) for tensor in tensors)
    if shutil.disk_usage(out.parent).free < needed + (1 << 30):
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed, and 1 GB to spare")
    partial = out.with_name(f"{out.name}.partial")
    writer = GGUFWriter(partial, SHAPES[shape][0])
    add_metadata(writer, metadata)
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.kind(quant)]
        shape_there = tensor.shape[::-1]
        writer.add_tensor_info(
            tensor.name, shape_there, np.dtype(np.float32), tensor.size(quant), raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file, rng = writer.fout[0], np.random.default_rng(seed)
    writer.write_padding(file, file.tell())
    for tensor in tensors:
        write_repeated(file, values(tensor, quant, rng), tensor.size(quant))
        writer.write_padding(file, tensor.size(quant))
    writer.close()
    partial.rename(out)


def main() -> None:
    """Reads the command line, writes the file, says what it is."""
    parser = argparse.ArgumentParser(description="write a GGUF file with random weights")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--vocab", type=Path, help="GGUF file to take tokenizer and template from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quant", choices=("q4_0", "q8_0", "f16"), default="q4_0")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.shape == FROM_VOCAB and options.vocab is None:
        parser.error(f"{FROM_VOCAB} needs --vocab: its hyper-parameters are read from there")
    make(
        options.shape,
        options.out,
        vocab=options.vocab,
        quant=options.quant.upper(),
        seed=options.seed,
    )
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
