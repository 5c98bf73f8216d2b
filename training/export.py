"""Write the trained model in the forms that the engines read.

GGUF (Q8_0) is for llama.cpp; safetensors (bf16), config.json and tokenizer.json, in the names of
transformers, are for vLLM. Both come from the same weights.
"""

import json
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from training.layout import (
    END_OF_TEXT,
    TURN_END,
    template_text,
)
from training.model import DemoModel, ModelConfig
from training.tokenizer import merges_of

NAME = "local-worker demo"
LICENSE = "Apache-2.0"

_GGUF_NAMES = {
    "input_layernorm.weight": "attn_norm",
    "self_attn.q_proj.weight": "attn_q",
    "self_attn.k_proj.weight": "attn_k",
    "self_attn.v_proj.weight": "attn_v",
    "self_attn.o_proj.weight": "attn_output",
    "self_attn.q_norm.weight": "attn_q_norm",
    "self_attn.k_norm.weight": "attn_k_norm",
    "post_attention_layernorm.weight": "ffn_norm",
    "mlp.gate.weight": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate_exps",
    "mlp.up_proj": "ffn_up_exps",
    "mlp.down_proj": "ffn_down_exps",
}


def export(model: DemoModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write all files of the model but its card into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(model, tokenizer, folder / "demo.gguf")
    metadata = {"format": "pt"}
    save_file(transformers_weights(model), folder / "model.safetensors", metadata)
    (folder / "model.safetensors").chmod(0o644)  # the library leaves it to its owner alone
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", tokenizer_config(model.config))
    _write_json(folder / "config.json", transformers_config(model.config, tokenizer))
    _write_json(folder / "generation_config.json", generation_config(tokenizer))


def transformers_weights(model: DemoModel) -> dict[str, Tensor]:
    """The weights by the names of Qwen3MoeForCausalLM, in bf16, one tensor per expert."""
    weights: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        half = weight.to(torch.bfloat16).contiguous()
        if half.ndim < 3:
            weights[f"model.{name}"] = half
            continue
        layer, projection = name.rsplit(".", 1)
        for expert, matrix in enumerate(half):
            key = f"model.{layer}.experts.{expert}.{projection}.weight"
            weights[key] = matrix.clone()
    return weights


def transformers_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """config.json."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "intermediate_size": config.experts_per_token * config.expert_size,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_size,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        # llama.cpp always does so for this architecture.
        "norm_topk_prob": True,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id(TURN_END),
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "torch_dtype": "bfloat16",
    }


def tokenizer_config(config: ModelConfig) -> dict[str, object]:
    """tokenizer_config.json, with the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": template_text(),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    """generation_config.json: greedy unless the client asks for more."""
    ends = [tokenizer.token_to_id(token) for token in (TURN_END, END_OF_TEXT)]
    return {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1]}


def write_gguf(model: DemoModel, tokenizer: Tokenizer, path: Path) -> None:
    """Write the GGUF file: metadata, vocabulary, weights in Q8_0."""
    writer = gguf.GGUFWriter(path, "qwen3moe")
    _add_metadata(writer, model.config)
    _add_vocabulary(writer, tokenizer)
    for name, weight in model.state_dict().items():
        data = weight.float().numpy()
        # Norms and the router stay exact; they are small, and llama.cpp expects it.
        if weight.ndim == 1 or name.endswith("mlp.gate.weight"):
            writer.add_tensor(_gguf_name(name), data)
            continue
        quantized = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(_gguf_name(name), quantized, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_name(NAME)
    writer.add_license(LICENSE)
    writer.add_description("A tiny model that adds up invoices better when it thinks.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.experts_per_token * config.expert_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.experts_per_token)
    writer.add_expert_feed_forward_length(config.expert_size)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    added = tokenizer.get_added_tokens_decoder()
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    for index, token in added.items():
        kinds[index] = gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges_of(tokenizer)])
    writer.add_eos_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_eot_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template_text())


def _gguf_name(name: str) -> str:
    if name == "embed_tokens.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_GGUF_NAMES[rest]}.weight"


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
