"""Frames on a stream."""

from __future__ import annotations

import pytest

from local_worker.engines.process.messages import Frames, Shutdown, command_decoder, frame

BODIES = [b"", b"one", b"x" * 70_000, b"\x00\x01"]
STREAM = b"".join(len(body).to_bytes(4, "little") + body for body in BODIES)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4096, len(STREAM)])
def test_frames_come_whole_however_the_stream_was_cut(size: int) -> None:
    frames = Frames()
    found = []
    for start in range(0, len(STREAM), size):
        found += [bytes(body) for body in frames.feed(STREAM[start : start + size])]
    assert found == BODIES


def test_what_is_not_whole_yet_is_held() -> None:
    frames = Frames()
    assert list(frames.feed(STREAM[:-1])) == BODIES[:-1]
    assert list(frames.feed(STREAM[-1:])) == BODIES[-1:]


def test_a_message_goes_through() -> None:
    (body,) = Frames().feed(frame(Shutdown()))
    assert command_decoder.decode(body) == Shutdown()
