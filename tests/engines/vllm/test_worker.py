"""The tasks of the process, over a stand-in for the loaded model that samples what it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local_worker.engines.process import messages
from local_worker.engines.vllm.chunks import Chunk, RefusedError
from local_worker.engines.vllm.worker import Sequences
from local_worker.types import ClosedBy, FinishReason, GenerationRequest, ThinkingParams
from local_worker.types import ThinkingTokens as Tokens

pytestmark = pytest.mark.anyio

END, OPEN, CLOSE = 0, 1, 2
THINKING = Tokens(start=(OPEN,), end=(CLOSE,), close=(10, CLOSE), close_after_newline=(CLOSE,))


class Letters:
    vocab_size = 128
    end_ids = (END,)

    def piece(self, token_id, *, special=False):
        return bytes([token_id])


class Model:
    """Samples "abc..." for ever, one token a step, until told to end."""

    kv_capacity, kv_used, steps = 1000, 10, 1

    def __init__(self, tokens=None, finish="length", error=None):
        self.tokens = tokens
        self.finish = finish
        self.error = error
        self.phases = []
        self.open = 0

    async def generate(self, request_id, token_ids, params, adapter, cache_salt):
        self.phases.append((request_id, token_ids, params["max_tokens"]))
        self.open += 1
        try:
            if self.error is not None:
                raise self.error
            given = iter(self.tokens[len(self.phases) - 1]) if self.tokens is not None else None
            for index in range(params["max_tokens"]):
                await asyncio.sleep(0)
                token = next(given, END) if given is not None else ord("a") + index % 26
                last = index + 1 == params["max_tokens"] or token == END
                finish = ("stop" if token == END else self.finish) if last else None
                yield Chunk([token], [], finish)
                if last:
                    return
        finally:
            self.open -= 1


class Channel:
    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def outputs(self):
        return [o for m in self.sent if isinstance(m, messages.Stepped) for o in m.outputs]

    def ends(self):
        return {o.request_id: o.finish for o in self.outputs() if o.finish is not None}

    def begun(self):
        return [i for m in self.sent if isinstance(m, messages.Begun) for i in m.request_ids]


def sequences_of(model: Any, channel: Any, room: int) -> Sequences:
    letters: Any = Letters()
    return Sequences(model, letters, channel, room)


async def settle(turns=400):
    for _ in range(turns):
        await asyncio.sleep(0)


async def served(model, *requests, room=2):
    channel = Channel()
    sequences = sequences_of(model, channel, room)
    for request in requests:
        sequences.submit(request)
    await settle()
    return channel, sequences


def text(channel):
    return "".join(d.text for o in channel.outputs() for d in o.deltas)


async def test_one_request_is_one_phase():
    model = Model()
    channel, _ = await served(model, GenerationRequest("r", (5,), 4))
    assert text(channel) == "abcd"
    assert channel.ends()["r"].reason is FinishReason.LENGTH
    assert model.phases == [("r.0", [5], 4)]


async def test_a_forced_closer_begins_the_next_phase_after_it():
    model = Model(tokens=[[97, 98, 99, 100], [120, 121]])
    thinking = ThinkingParams(THINKING, budget=3, starts_inside=True)
    channel, _ = await served(model, GenerationRequest("r", (5,), 20, thinking=thinking))
    assert model.phases == [("r.0", [5], 20), ("r.1", [5, 97, 98, 99, 10, CLOSE], 15)]
    end = channel.ends()["r"]
    assert (end.reason, end.closed_by) == (FinishReason.STOP, ClosedBy.BUDGET)
    assert channel.outputs()[-1].num_reasoning_tokens == 3
    assert model.open == 0


async def test_an_end_token_inside_the_thought_closes_the_thought_alone():
    model = Model(tokens=[[97], [120]])
    thinking = ThinkingParams(THINKING, budget=None, starts_inside=True)
    channel, _ = await served(model, GenerationRequest("r", (5,), 20, thinking=thinking))
    assert [phase[1] for phase in model.phases] == [[5], [5, 97, 10, CLOSE]]
    assert channel.ends()["r"].closed_by is ClosedBy.MODEL


async def test_more_than_there_is_room_for_wait_here():
    model = Model()
    channel = Channel()
    sequences = sequences_of(model, channel, 2)
    for name in "abc":
        sequences.submit(GenerationRequest(name, (5,), 30))
    await settle(10)
    assert channel.begun() == ["a", "b"]
    assert len(model.phases) == 2
    await settle()
    assert channel.begun() == ["a", "b", "c"]
    assert set(channel.ends()) == {"a", "b", "c"}


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_leaving_ends_it_once_and_frees_its_place(turns):
    model = Model()
    channel = Channel()
    sequences = sequences_of(model, channel, 1)
    sequences.submit(GenerationRequest("r", (5,), 10_000))
    await settle(turns)
    sequences.abort("r")
    await settle()
    assert channel.ends()["r"].reason is FinishReason.ABORT
    assert [o.request_id for o in channel.outputs() if o.finish].count("r") == 1
    last = [m for m in channel.sent if isinstance(m, messages.Stepped)][-1].stats
    assert (last.running, last.waiting, last.kv_used, model.open) == (0, 0, 0, 0)
    sequences.submit(GenerationRequest("next", (5,), 2))
    await settle()
    assert channel.ends()["next"].reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RefusedError("logit_bias has an id"), "vLLM: logit_bias has an id"),
        (RuntimeError("surprise"), "vLLM: surprise"),
    ],
)
async def test_what_vllm_refuses_ends_in_an_error(error, words):
    channel, _ = await served(Model(error=error), GenerationRequest("r", (5,), 9))
    end = channel.ends()["r"]
    assert (end.reason, end.error) == (FinishReason.ERROR, words)


async def test_an_unknown_request_cannot_be_aborted():
    sequences_of(Model(), Channel(), 1).abort("nobody")


async def test_a_thought_whose_closer_takes_all_the_room_needs_no_model():
    model = Model()
    thinking = ThinkingParams(THINKING, budget=0, starts_inside=True)
    channel, _ = await served(model, GenerationRequest("r", (5,), 2, thinking=thinking))
    assert channel.ends()["r"].reason is FinishReason.LENGTH
    assert model.phases == []
