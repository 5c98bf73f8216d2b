"""Write a GGUF file of a known shape with random weights: for speed and loading, not for sense.

    python scripts/make_random_gguf.py --shape gemma-4-26b --vocab VOCAB.gguf --out FILE.gguf
    python scripts/make_random_gguf.py --shape tiny-qwen3moe --out FILE.gguf

The shapes are in `gguf_shapes.py`. `gemma-4-26b` takes hyper-parameters, tokenizer and chat
template from VOCAB.gguf, a vocabulary-only file of that model, and adds the tensors. The others
state their own hyper-parameters; without `--vocab` they get a byte-level vocabulary and a ChatML
template. Needs the package `gguf`.

A quantised tensor repeats one stretch of at most `PERIOD` random blocks, and all layers of one kind
differ only in where they come from: reading it costs what real weights cost, and compressing it
would not. Scales are chosen so that activations stay of order one, as in a model freshly
initialised.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from gguf_shapes import BLOCKS, FROM_VOCAB, SHAPES, TENSORS, VOCAB_SIZES, Hyper, Role, Tensor

if TYPE_CHECKING:
    from gguf import GGUFWriter

PERIOD = 65_537
"""Blocks before a tensor repeats itself. A prime, so that no two rows of a matrix are alike."""

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}
EMBEDDING_STD = 0.2
"""Below one, so that the tied output does not just repeat the input token."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_vocabulary(size: int = 0) -> Hyper:
    """Metadata of a byte-level BPE vocabulary: 256 bytes, one merge, three control tokens.

    It is filled up to `size` with tokens that can be sampled and that no text is cut into.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    plain = [*(letters[byte] for byte in range(256)), "th"]  # the file must have a merge
    plain += [f"~{number}" for number in range(size - len(plain) - len(SPECIAL))]
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
    found = read_vocabulary(vocab) if vocab else byte_vocabulary(VOCAB_SIZES.get(shape, 0))
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
