"""The chat layout: special tokens, and messages rendered by the model's own template.

The template is the file that ships with the model, so the training sees the very text that a
server sends.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from local_worker.demo.task import Message, Tool

TURN_START, TURN_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
#: Never part of a text; llama.cpp calls them control tokens.
CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
#: Part of the text that a client may see.
MARKER_TOKENS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("<tool_response>", "</tool_response>"),
)
ASSISTANT = f"{TURN_START}assistant\n"
PRIMED = f"{ASSISTANT}<think>\n"
#: How the model itself ends a thought, which always ends with a line end.
CLOSER = "</think>\n\n"
PROBE = f"{TURN_START}effort\n"


def template_text() -> str:
    """The chat template, as the model's files carry it."""
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # Jinja's own filter sorts keys and escapes HTML; transformers and the servers do neither.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template_text())


def render(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """The prompt up to, and without, the assistant's turn."""
    return _template().render(messages=list(messages), tools=list(tools))
