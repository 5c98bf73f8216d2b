"""Shapes of model files: hyper-parameters under llama.cpp's names, and the tensors they imply.

Tensor names, shapes and types are those that llama.cpp's converter and quantiser give.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q4_0": (32, 18), "Q8_0": (32, 34), "Q6_K": (256, 210)}
"""Elements and bytes of one block."""

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
    embed = h["embedding_length"]
    yield norm(f"{block}.ffn_norm", embed)
    yield from dense(block, embed, h["feed_forward_length"])
    yield norm(f"{block}.post_ffw_norm", embed)
    if "expert_count" not in h:
        return
    width, count = h["expert_feed_forward_length"], h["expert_count"]
    for name in ("post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2"):
        yield norm(f"{block}.{name}", embed)
    yield exact(f"{block}.ffn_gate_inp", embed, count)
    # The router's input is divided by sqrt(embed) first: this brings its logits back to order one.
    yield Tensor(f"{block}.ffn_gate_inp.scale", Role.CONSTANT, (embed,), embed**0.5)
    yield matrix(f"{block}.ffn_gate_up_exps", embed, width * 2, count)
    yield matrix(f"{block}.ffn_down_exps", width, embed, count)
    yield Tensor(f"{block}.ffn_down_exps.scale", Role.CONSTANT, (count,))


def qwen3(h: Hyper, vocab: int) -> Iterator[Tensor]:
    """Qwen3, dense or with experts."""
    yield from ends(h, vocab)
    for block in _blocks(h):
        yield norm(f"{block}.attn_norm", h["embedding_length"])
        yield from attention(block, h)
        yield norm(f"{block}.attn_q_norm", h["attention.key_length"])
        yield norm(f"{block}.attn_k_norm", h["attention.key_length"])
        yield norm(f"{block}.ffn_norm", h["embedding_length"])
        if "expert_count" in h:
            yield from experts(block, h)
        else:
            yield from dense(block, h["embedding_length"], h["feed_forward_length"])


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
    "qwen3": qwen3,
    "qwen3moe": qwen3,
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
_TINY_GEMMA: Hyper = _TINY | {
    "block_count": 6, "attention.head_count_kv": [2, 2, 2, 2, 2, 1],
    "attention.sliding_window": 64, "attention.shared_kv_layers": 0,
    "attention.sliding_window_pattern": [True] * 5 + [False],
    "attention.key_length_swa": 32, "attention.value_length_swa": 32,
    "rope.freq_base_swa": 1e4, "rope.dimension_count_swa": 32,
    "embedding_length_per_layer_input": 0, "final_logit_softcapping": 30.0,
}  # fmt: skip

_QWEN3_SMALL: Hyper = {
    "block_count": 28, "context_length": 40960, "embedding_length": 1024,
    "feed_forward_length": 3072, "attention.head_count": 16, "attention.head_count_kv": 8,
    "attention.key_length": 128, "attention.value_length": 128,
    "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6,
}  # fmt: skip
"""Qwen3-0.6B, from its config.json."""

FROM_VOCAB = "gemma-4-26b"
VOCAB_SIZES = {"qwen3-0.6b": 151_936}
"""Of shapes whose vocabulary is filled up with tokens that no text gives."""

SHAPES: Mapping[str, tuple[str, Hyper]] = {
    FROM_VOCAB: ("gemma4", {}),
    "qwen3-0.6b": ("qwen3", _QWEN3_SMALL),
    "tiny-gemma4": ("gemma4", _TINY_GEMMA | _EXPERTS),
    "tiny-gemma4-dense": ("gemma4", _TINY_GEMMA),
    "tiny-mistral3": ("mistral3", _TINY),
    "tiny-qwen3moe": ("qwen3moe", _TINY | _EXPERTS),
    "tiny-qwen35": ("qwen35", _TINY35),
    "tiny-qwen35moe": ("qwen35moe", _TINY35 | _EXPERTS | {"expert_shared_feed_forward_length": 64}),
}
"""Architecture and hyper-parameters, under the architecture's own keys."""
