"""What crosses the border between the server and the llama.cpp process.

Frames on a stream socket: four bytes of length, then one MessagePack value. One `Stepped` per
decode step carries the outputs of all sequences: never one message per token.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec

from local_worker.types import (  # noqa: TC001 - msgspec reads the annotations at run time
    EngineInfo,
    EngineStats,
    GenerationRequest,
    PromptSegment,
    StepOutput,
)

HEADER = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """How a model is loaded and its context made.

    Attributes:
        model_path: a GGUF file, or the first of a split one.
        kv_capacity: KV cells shared by all sequences.
        max_model_len: prompt and output of one request at the most.
        max_num_seqs: sequences alive at a time.
        max_tokens_per_step: rows of one batch at the most.
        threads: for decoding and prompt chunks alike.
        kv_type: of the KV cells, `f16` or `q8_0`.
        gpu_layers: layers on the GPU; -1 is all.
        cpu_moe_layers: layers whose experts stay on the CPU all the same.
        load_mode: `memory` reads the weights, `mmap` maps the file.
    """

    model_path: str
    kv_capacity: int
    max_model_len: int
    max_num_seqs: int
    max_tokens_per_step: int = 512
    threads: int = 1
    kv_type: str = "f16"
    gpu_layers: int = 0
    cpu_moe_layers: int = 0
    load_mode: str = "memory"


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Generate these. Requests that come together are sent together, to share their first step."""

    requests: tuple[GenerationRequest, ...]


class Abort(msgspec.Struct, tag=True, frozen=True):
    """Forget that request; unknown ids are no error (it may have just finished)."""

    request_id: str


class Tokenize(msgspec.Struct, tag=True, frozen=True):
    """Answered with `Tokens`."""

    call_id: int
    segments: tuple[PromptSegment, ...]
    add_special: bool


class Detokenize(msgspec.Struct, tag=True, frozen=True):
    """Answered with `Text`."""

    call_id: int
    token_ids: tuple[int, ...]


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """Free everything and exit."""


Command = Submit | Abort | Tokenize | Detokenize | Shutdown


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The model is loaded."""

    info: EngineInfo


class StartFailed(msgspec.Struct, tag=True, frozen=True):
    """The model could not be loaded; the process exits."""

    message: str


class Begun(msgspec.Struct, tag=True, frozen=True):
    """These requests are about to be computed for the first time."""

    request_ids: tuple[str, ...]


class Stepped(msgspec.Struct, tag=True, frozen=True):
    """One decode step's outputs."""

    outputs: tuple[StepOutput, ...]
    stats: EngineStats


class Tokens(msgspec.Struct, tag=True, frozen=True):
    """Answer to `Tokenize`."""

    call_id: int
    token_ids: tuple[int, ...]


class Text(msgspec.Struct, tag=True, frozen=True):
    """Answer to `Detokenize`."""

    call_id: int
    text: str


class CallFailed(msgspec.Struct, tag=True, frozen=True):
    """A call could not be answered; `param` names the argument at fault."""

    call_id: int
    message: str
    param: str


Answer = Tokens | Text | CallFailed
Event = Ready | StartFailed | Begun | Stepped | Tokens | Text | CallFailed

_encoder = msgspec.msgpack.Encoder()
command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
config_decoder = msgspec.msgpack.Decoder(LlamaConfig)


def frame(message: Command | Event | LlamaConfig) -> bytes:
    """The message as bytes to send."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body
