from __future__ import annotations

import pytest

from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.load import find, load

QWEN_35 = r"""{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}{%- else %}{{- '<think>\n' }}{%- endif %}<tool_call></tool_call>"""
QWEN_35_SMALL = r"""{%- if enable_thinking is defined and enable_thinking is true %}
{{- '<think>\n' }}{%- else %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}<tool_call></tool_call>"""
QWEN_38 = QWEN_35 + "{% if reasoning_effort not in ['xhigh', 'medium', 'low'] %}"
QWEN_3 = r"""{{- '<think>\n' + reasoning + '\n</think>\n\n' }}<tool_call></tool_call>
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"""
ALWAYS = r"{{- '<|im_start|>assistant\n<think>\n' }}...</think><tool_call></tool_call>"
GEMMA = "{% if enable_thinking %}<|think|>{% endif %}<|channel>thought\n<channel|>"
MISTRAL = "[MODEL_SETTINGS]{{ reasoning_effort }}[THINK][/THINK]"
MINISTRAL = "[SYSTEM_PROMPT]Draft inside [THINK]...[/THINK]"
GPT_OSS = "<|start|>assistant<|channel|>analysis<|message|>"


@pytest.mark.parametrize(
    ("template", "architecture", "model"),
    [
        (QWEN_35, "qwen35", "qwen3.5-4b"),
        (QWEN_35_SMALL, "qwen35", "qwen3.5-0.8b"),
        (QWEN_38, "qwen35", "qwen3.8-27b"),
        (ALWAYS, "qwen3moe", "qwen3-30b-a3b-thinking"),
        (GEMMA, "gemma4", "gemma-4-e2b"),
        (MISTRAL, "mistral4", "mistral-small-4"),
        (MINISTRAL, "mistral3", "ministral-3-8b-reasoning"),
        (GPT_OSS, "gpt-oss", "gpt-oss-20b"),
        (None, "gpt-oss", "gpt-oss-120b"),
    ],
)
def test_the_guess_is_what_the_catalog_says(template, architecture, model):
    assert guess_thinking(template, architecture) == find(load(), model).thinking


def test_the_first_qwen_3_does_not_prime():
    spec = guess_thinking(QWEN_3, "qwen3")
    assert spec is not None
    assert (spec.primed, spec.switch, spec.default_on) == (False, "enable_thinking", True)


@pytest.mark.parametrize("template", [None, "", "<|im_start|>{{ content }}<|im_end|>"])
def test_no_delimiters_no_thinking(template):
    assert guess_thinking(template, "llama") is None
