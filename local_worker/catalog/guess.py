"""Guess how a model thinks from its chat template: for a GGUF file that is not in the catalog.

Families are told apart by the delimiters that their templates write. The guess is only that: the
start-up self-test of a model decides whether its budgets hold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from local_worker.catalog.schema import LEVELS, ThinkingSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.rules import Level

# The ladder of a model whose own was not calibrated. Fixed bases and not shares of max_tokens:
# shares break when max_tokens is small.
DEFAULT_EFFORT: Mapping[Level, int] = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 4096,
    "high": 16384,
    "xhigh": 32768,
}
DEFAULT_ANSWER_ALLOWANCE = 4096

# `<think>` as the last thing a template writes, as in `{{- '<think>\n' }}`: the thought is primed.
_PRIMED = re.compile(r"<think>(?:\\n|\n)?(?:['\"]\s*-?\}\}|\{%)")
# `enable_thinking is defined and enable_thinking is true` and its kin: off unless asked for.
_OFF_BY_DEFAULT = re.compile(
    r"enable_thinking\s+is\s+defined\s+and\s+(?:enable_thinking\s+is\s+true\b|enable_thinking\s*%)"
    r"|\bif\s+enable_thinking\s*-?%|enable_thinking\s*\|\s*default\(\s*false",
    re.IGNORECASE,
)


def guess_thinking(template: str | None, architecture: str) -> ThinkingSpec | None:
    """The thinking family of a chat template.

    Args:
        template: the template's source; None where the file has none.
        architecture: the GGUF architecture, which settles gpt-oss and Gemma 4.

    Returns:
        A spec, or None where the template shows no thinking.
    """
    text = template or ""
    if architecture == "gpt-oss" or "<|channel|>analysis" in text:
        return _gpt_oss()
    if "<|channel>" in text and "<channel|>" in text:
        return _gemma()
    if "[THINK]" in text:
        return _mistral(switchable="reasoning_effort" in text)
    if "</think>" in text:
        return _qwen(text)
    return None


def _gpt_oss() -> ThinkingSpec:
    native = dict(zip(LEVELS, ("low", "low", "low", "medium", "high", "high", "high"), strict=True))
    return ThinkingSpec(
        start="<|channel|>analysis<|message|>",
        end="<|end|>",
        close="<|end|><|start|>assistant<|channel|>final<|message|>",
        primed=False,
        switch="always",
        default_on=True,
        native_levels=native,
        tool_call_start="<|channel|>commentary to=functions.",
        tool_call_end="<|call|>",
        effort=dict(DEFAULT_EFFORT),
        answer_allowance=DEFAULT_ANSWER_ALLOWANCE,
        default_effort="auto",
    )


def _gemma() -> ThinkingSpec:
    return ThinkingSpec(
        start="<|channel>thought\n",
        end="<channel|>",
        close="<channel|>",
        primed=False,
        switch="enable_thinking",
        default_on=False,
        tool_call_start="<|tool_call>",
        tool_call_end="<tool_call|>",
        effort=dict(DEFAULT_EFFORT),
        answer_allowance=DEFAULT_ANSWER_ALLOWANCE,
        default_effort="none",
    )


def _mistral(*, switchable: bool) -> ThinkingSpec:
    """Mistral Small 4 has a switch; the Reasoning checkpoints of Ministral 3 have none."""
    native = dict(zip(LEVELS, ("none", *["high"] * 6), strict=True)) if switchable else {}
    return ThinkingSpec(
        start="[THINK]",
        end="[/THINK]",
        close="[/THINK]",
        primed=False,
        switch="reasoning_effort" if switchable else "always",
        default_on=not switchable,
        native_levels=native,
        tool_call_start="[TOOL_CALLS]",
        effort=dict(DEFAULT_EFFORT),
        answer_allowance=DEFAULT_ANSWER_ALLOWANCE,
        default_effort="none" if switchable else "auto",
    )


def _qwen(text: str) -> ThinkingSpec:
    """Qwen and everything that writes `<think>` the same way."""
    switchable = "enable_thinking" in text
    default_on = not (switchable and _OFF_BY_DEFAULT.search(text))
    # Only a template that names all three levels is Qwen3.8's; others take what they are given.
    graded = "reasoning_effort" in text and all(level in text for level in ("xhigh", "low"))
    levels = ("low", "low", "low", "medium", "xhigh", "xhigh", "xhigh")
    return ThinkingSpec(
        start="<think>",
        end="</think>",
        close="\n</think>\n\n",
        primed=bool(_PRIMED.search(text)),
        switch="enable_thinking" if switchable else "always",
        default_on=default_on,
        native_levels=dict(zip(LEVELS, levels, strict=True)) if graded else {},
        tool_call_start="<tool_call>" if "<tool_call>" in text else None,
        tool_call_end="</tool_call>" if "</tool_call>" in text else None,
        effort=dict(DEFAULT_EFFORT),
        answer_allowance=DEFAULT_ANSWER_ALLOWANCE,
        default_effort="auto" if default_on else "none",
    )
