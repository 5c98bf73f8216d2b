"""The network: Qwen3-MoE in miniature, written out for training on one CPU thread.

Names and shapes follow transformers' Qwen3MoeForCausalLM, but for the experts, which are stacked
into one tensor each so that the optimizer can treat them as a batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of the network."""

    vocab_size: int
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    num_experts: int = 4
    experts_per_token: int = 2
    expert_size: int = 192
    context_length: int = 4096
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6


class Norm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x` to unit size, then by the weight."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self._eps)


class Attention(nn.Module):
    """Causal attention with grouped heads and normed queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._config = config
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.q_norm = Norm(config.head_dim, config.norm_eps)
        self.k_norm = Norm(config.head_dim, config.norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Mix every position with those before it."""
        batch, length, _ = x.shape
        heads = (batch, length, -1, self._config.head_dim)
        query = _rotate(self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2), rope)
        key = _rotate(self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2), rope)
        value = self.v_proj(x).view(heads).transpose(1, 2)
        # Padding stands on the right, so the causal mask alone keeps it out of sight.
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class Experts(nn.Module):
    """Each token goes through its best experts, weighted by the router."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._top_k = config.experts_per_token
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        inner = (config.num_experts, config.expert_size, config.hidden_size)
        outer = (config.num_experts, config.hidden_size, config.expert_size)
        self.gate_proj = nn.Parameter(torch.empty(inner))
        self.up_proj = nn.Parameter(torch.empty(inner))
        self.down_proj = nn.Parameter(torch.empty(outer))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and how unevenly the experts are loaded (1 is even)."""
        tokens = x.reshape(-1, x.shape[-1])
        chances = self.gate(tokens).softmax(-1)
        weights, chosen = chances.topk(self._top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(tokens)
        shares = []
        for expert in range(len(self.gate_proj)):
            rows, slots = torch.where(chosen == expert)
            part = tokens[rows]
            inner = functional.silu(part @ self.gate_proj[expert].T) * (
                part @ self.up_proj[expert].T
            )
            result = (inner @ self.down_proj[expert].T) * weights[rows, slots, None]
            out = out.index_add(0, rows, result)
            shares.append(len(rows) / chosen.numel())
        load = torch.tensor(shares) @ chances.mean(0) * len(shares)
        return out.view_as(x), load


class Layer(nn.Module):
    """Attention, then experts, each added to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.mlp = Experts(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The stream after this layer, and the load of its experts."""
        x = x + self.self_attn(self.input_layernorm(x), rope)
        out, load = self.mlp(self.post_attention_layernorm(x))
        return x + out, load


class DemoModel(nn.Module):
    """The whole network; the embedding is also the output matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = Norm(config.hidden_size, config.norm_eps)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of the last layer, and the mean load of the experts."""
        x = self.embed_tokens(ids)
        rope = _rope(self.config, ids.shape[1])
        loads = []
        for layer in self.layers:
            x, load = layer(x, rope)
            loads.append(load)
        return self.norm(x), torch.stack(loads).mean()

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary for hidden states."""
        return hidden @ self.embed_tokens.weight.T


def initialize(model: DemoModel, seed: int) -> None:
    """Seeded weights: spread by fan-in, and smaller where a layer adds to the stream."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            continue
        spread = 0.06 if "embed" in name else 1 / math.sqrt(weight.shape[-1])
        if "o_proj" in name or "down_proj" in name:
            spread /= math.sqrt(2 * model.config.num_layers)
        nn.init.normal_(weight, std=spread, generator=generator)


def _rope(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(0, config.head_dim, 2) / config.head_dim
    angles = torch.outer(torch.arange(length), config.rope_theta**-steps)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
