"""What vLLM is asked for on behalf of a sequence: sampling parameters, phase by phase. Pure.

A phase is one vLLM request. The first one starts at the prompt; another follows whenever the turn
departs from what vLLM sampled: a closer was forced, a token refused, or a token that ends the
generation closed the thought alone. Another one follows, too, where the grammar's part begins: a
phase is under the grammar from its first token or not at all.

End-of-generation tokens are passed as stop tokens and vLLM's own idea of them is switched off, so
that the turn is the only judge. Stop strings are not passed at all: they are the turn's, too.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from local_worker.engines.process.grammar import source_of
from local_worker.types import GrammarKind

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from local_worker.types import GenerationRequest

_SEED_STEP = 0x9E3779B97F4A7C15
_SEED_BITS = 63
_NAMES = {
    GrammarKind.JSON_SCHEMA: "json",
    GrammarKind.REGEX: "regex",
    GrammarKind.CHOICE: "regex",
    GrammarKind.GRAMMAR: "grammar",
    GrammarKind.LARK: "grammar",
}
MAX_BIAS = 100.0
"""vLLM clamps a logit bias to this."""

MAX_BIASED_TOKENS = 1024
"""More of them end vLLM's engine (its V2 runner raises in the middle of a step)."""


def phase_params(
    request: GenerationRequest,
    output_ids: Items[int],
    number: int,
    end_ids: Items[int],
    *,
    follows_grammar: bool = False,
    biases: bool = True,
) -> dict[str, Any]:
    """Arguments for `vllm.SamplingParams`, but that `structured_outputs` are those of its params.

    Args:
        request: the sequence's request.
        output_ids: its output so far, forced tokens included; shorter than its max_tokens.
        number: phases before this one.
        end_ids: the model's end-of-generation tokens.
        follows_grammar: whether this phase is the answer, where it has to have a certain form.
        biases: whether vLLM takes any, which it does not beside speculation; penalties then count
            from the beginning of the phase.
    """
    sampling = request.sampling
    room = request.max_tokens - len(output_ids)
    assert room > 0, "a full sequence has no next phase"
    stops = [*end_ids]
    if request.grammar is not None and request.thinking is not None and not follows_grammar:
        stops += request.thinking.tokens.end[-1:]  # what comes after is not to be sampled freely
    banned = room if sampling.ignore_eos else min(room, sampling.min_tokens - len(output_ids))
    return {
        "max_tokens": room,
        "min_tokens": max(0, banned),
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repeat_penalty,
        "logit_bias": (_bias(request, output_ids) if biases else {}) or None,
        "seed": _seed(sampling.seed, number),
        "logprobs": sampling.logprobs,
        "stop_token_ids": stops,
        "structured_outputs": _structured_outputs(request) if follows_grammar else None,
        "ignore_eos": True,
        "detokenize": False,
    }


def _structured_outputs(request: GenerationRequest) -> dict[str, Any] | None:
    grammar = request.grammar
    if grammar is None:
        return None
    return {_NAMES[grammar.kind]: source_of(grammar)}


def _seed(seed: int | None, number: int) -> int | None:
    """A stream of its own for each phase: the same one again would repeat its draws."""
    return None if seed is None else (seed + number * _SEED_STEP) % (1 << _SEED_BITS)


def _bias(request: GenerationRequest, output_ids: Items[int]) -> dict[int, float]:
    """The client's bias, and penalties on what earlier phases put out.

    vLLM counts a request's own output, to which a later phase's prompt does not belong. A token
    that occurs on both sides is charged its presence penalty twice: the one difference to a turn
    in a single request.
    """
    sampling = request.sampling
    bias = dict(sampling.logit_bias)
    if sampling.presence_penalty or sampling.frequency_penalty:
        for token_id, count in Counter(output_ids).items():
            penalty = sampling.presence_penalty + sampling.frequency_penalty * count
            bias[token_id] = bias.get(token_id, 0.0) - penalty
    given = {token_id for token_id, _ in sampling.logit_bias}
    # What a client named comes first; of the rest, what weighs most.
    order = sorted(bias, key=lambda i: (i not in given, -abs(bias[i])))
    return {i: max(-MAX_BIAS, min(MAX_BIAS, bias[i])) for i in order[:MAX_BIASED_TOKENS]}
