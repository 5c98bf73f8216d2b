"""What crosses the border between the server and an engine process, whichever engine it is.

Frames on a stream socket: four bytes of length, then one MessagePack value. The first one is the
engine's own configuration; it is answered with `Ready` or `StartFailed`. One `Stepped` per
decode step carries the outputs of all sequences: never one message per token.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from local_worker.types import (  # noqa: TC001 - msgspec reads the annotations at run time
    EngineInfo,
    EngineStats,
    GenerationRequest,
    Grammar,
    PromptSegment,
    StepOutput,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<I")


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Generate these. Requests that come together are sent together, to share their first step.

    Attributes:
        forget: requests to forget once these are there: what goes on in another one takes the room
            that it leaves, and no newcomer does. Unknown ids are no error: they may have ended.
    """

    requests: tuple[GenerationRequest, ...]
    forget: tuple[str, ...] = ()


class Tokenize(msgspec.Struct, tag=True, frozen=True):
    """Answered with `Tokens`."""

    call_id: int
    segments: tuple[PromptSegment, ...]
    add_special: bool


class Detokenize(msgspec.Struct, tag=True, frozen=True):
    """Answered with `Text`."""

    call_id: int
    token_ids: tuple[int, ...]


class Check(msgspec.Struct, tag=True, frozen=True):
    """Can this grammar be followed? Answered with `Checked`."""

    call_id: int
    grammar: Grammar


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """Free everything and exit."""


Command = Submit | Tokenize | Detokenize | Check | Shutdown


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
    """One decode step's outputs.

    Attributes:
        work: seconds of computing by request since the last ones were reported; with a sequence's
            end, everything that was computed for it.
    """

    outputs: tuple[StepOutput, ...]
    stats: EngineStats
    work: tuple[tuple[str, float], ...] = ()


class Tokens(msgspec.Struct, tag=True, frozen=True):
    """Answer to `Tokenize`."""

    call_id: int
    token_ids: tuple[int, ...]


class Text(msgspec.Struct, tag=True, frozen=True):
    """Answer to `Detokenize`."""

    call_id: int
    text: str


class Checked(msgspec.Struct, tag=True, frozen=True):
    """Answer to `Check`: it can."""

    call_id: int


class CallFailed(msgspec.Struct, tag=True, frozen=True):
    """A call could not be answered; `param` names the argument at fault."""

    call_id: int
    message: str
    param: str


Call = Tokenize | Detokenize | Check
Answer = Tokens | Text | Checked | CallFailed
Event = Ready | StartFailed | Begun | Stepped | Tokens | Text | Checked | CallFailed

_encoder = msgspec.msgpack.Encoder()
command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def frame(message: object) -> bytes:
    """A command, an event or an engine's configuration as bytes to send."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


class Frames:
    """Puts frames together again from what a stream happens to deliver."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """The bodies of the frames that are whole now; to be taken to the end."""
        data = self._held + data if self._held else data
        view, start = memoryview(data), 0
        while len(data) - start >= HEADER.size:
            (length,) = HEADER.unpack_from(data, start)
            end = start + HEADER.size + length
            if end > len(data):
                break
            yield view[start + HEADER.size : end]
            start = end
        self._held = data[start:]
