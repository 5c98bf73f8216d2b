"""Write a model folder in Hugging Face's layout with a real shape and without weights.

    python scripts/make_dummy_folder.py --shape gemma-4-26b --vocab VOCAB.gguf --out FOLDER
    local-worker serve --model FOLDER --engine-arg load_format=dummy

For measuring vLLM at a model's exact size where its weights are not: with `load_format=dummy` vLLM
makes the numbers up. The weights file is there in name and size only (a hole in the file system),
so that the planner counts with it. `gemma-4-26b` takes tokenizer and template from a GGUF
vocabulary; `tiny-gemma4` is the same architecture for a machine without a GPU, with the embedded
model's tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local_worker.demo import gguf_path

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
"""Token types of GGUF."""

GEMMA_4: dict[str, Any] = {
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "dtype": "bfloat16",
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "final_logit_softcapping": 30.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "gemma-4-26b": GEMMA_4
    | {
        "vocab_size": 262144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "max_position_embeddings": 262144,
        "sliding_window": 1024,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "bos_token_id": 2,
        "eos_token_id": [1, 106],
        "pad_token_id": 0,
    },
    "tiny-gemma4": GEMMA_4
    | {
        "vocab_size": 960,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 64,
        "global_head_dim": 128,
        "max_position_embeddings": 8192,
        "sliding_window": 1024,
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 128,
        "bos_token_id": None,
        "eos_token_id": 931,
        "pad_token_id": 929,
    },
}
TOTAL_PARAMETERS = {"gemma-4-26b": 25_232_441_344, "tiny-gemma4": 7_000_000}


def tokenizer_of(vocab: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json of a SentencePiece-style BPE vocabulary in GGUF."""
    from gguf import GGUFReader

    fields = GGUFReader(vocab).fields

    def read(key: str) -> Any:  # noqa: ANN401 - whatever the file holds
        return fields[f"tokenizer.ggml.{key}"].contents()

    tokens, types = read("tokens"), read("token_type")
    special = [i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    added = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] == CONTROL,
        }
        for i in special
    ]
    bos, eos = tokens[read("bos_token_id")], tokens[read("eos_token_id")]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "unk_token": tokens[read("unknown_token_id")],
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in read("merges")],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "chat_template": fields["tokenizer.chat_template"].contents(),
    }
    return tokenizer, settings


def write_hole(path: Path, size: int) -> None:
    """A safetensors file with one tensor of so many bytes, none of which is on the disk."""
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"none": entry}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


def make(shape: str, out: Path, vocab: Path | None) -> None:
    """Writes the folder."""
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(SHAPES[shape], indent=2) + "\n")
    if vocab is None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(gguf_path().parent / name, out)
    else:
        tokenizer, settings = tokenizer_of(vocab)
        (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
        (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    write_hole(out / "model.safetensors", math.ceil(2 * TOTAL_PARAMETERS[shape]))


def main() -> None:
    """Reads the command line, writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--vocab", type=Path, help="GGUF file to take tokenizer and template from")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    options = parser.parse_args()
    if options.shape == "gemma-4-26b" and options.vocab is None:
        parser.error("gemma-4-26b needs --vocab: 262,144 tokens are not in this repository")
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    make(options.shape, options.out, options.vocab)


if __name__ == "__main__":
    main()
