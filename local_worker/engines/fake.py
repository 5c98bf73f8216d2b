"""A scripted engine: it "samples" the bytes of a given reply. For tests and for trying clients.

Everything around sampling is the real thing: the turn with its budget, stop strings and channels.
Its vocabulary is the 256 bytes and a few control tokens; its chat layout is ChatML.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local_worker.errors import InvalidParameterError
from local_worker.occupancy import Occupancy
from local_worker.reasoning.turn import Turn
from local_worker.types import (
    ClosedBy,
    EngineInfo,
    EngineStats,
    Finish,
    FinishReason,
    Start,
    StepOutput,
    TokenLogprob,
    Trace,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from local_worker.types import GenerationRequest, Grammar, PromptSegment

CONTROL = ("<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
BYTES = 256
VOCAB_SIZE = BYTES + len(CONTROL)
END = BYTES

STEP_SECONDS = 0.001
"""What it says that it computes for a token."""

TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.content == 'RAISE' %}{{ raise_exception('told to') }}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{ '<think>\\n' }}{% endif %}"""

_CONTROL_PATTERN = re.compile("|".join(map(re.escape, CONTROL)))


def encode(text: str, *, special: bool = True) -> list[int]:
    """Token ids of a text: control tokens where they are recognised, bytes elsewhere."""
    ids: list[int] = []
    start = 0
    for match in _CONTROL_PATTERN.finditer(text) if special else ():
        ids += text[start : match.start()].encode()
        ids.append(BYTES + CONTROL.index(match[0]))
        start = match.end()
    return ids + list(text[start:].encode())


def piece(token_id: int) -> bytes:
    """The bytes of one token."""
    return bytes([token_id]) if token_id < BYTES else CONTROL[token_id - BYTES].encode()


@dataclass(slots=True)
class Script:
    """What the engine does.

    Attributes:
        reply: prompt text -> the text to "sample"; the end-of-generation token follows it.
        token_delay: seconds per token.
        fail: raised in place of the first token.
        refuse_grammar: why no grammar can be followed; None plays the reply whatever it says.
    """

    reply: Callable[[str], str] = lambda _: "because\n</think>\n\nHello."
    token_delay: float = 0.0
    fail: Exception | None = None
    refuse_grammar: str | None = None


class FakeEngine:
    """Implements `engine.Engine` without computing anything."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        max_model_len: int = 4096,
        max_num_seqs: int = 64,
        limits: tuple[tuple[str, str], ...] = (),
        adapters: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.script = script or Script()
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.cached_tokens = 0
        self._work: dict[str, float] = {}
        self.occupancy = Occupancy()
        self._ready = False
        self._info = EngineInfo(
            engine="fake",
            version="0",
            model_name="scripted",
            vocab_size=VOCAB_SIZE,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            kv_capacity=max_model_len * max_num_seqs,
            chat_template=TEMPLATE,
            eos_token=CONTROL[0],
            longest_token=max(map(len, CONTROL)),
            control_tokens=CONTROL,
            limits=limits,
            adapters=adapters,
            pins=True,
        )

    @property
    def info(self) -> EngineInfo:
        """Facts about the pretended model."""
        return self._info

    @property
    def ready(self) -> bool:
        """Whether it was started."""
        return self._ready

    async def start(self) -> None:
        """There is nothing to load."""
        self._ready = True

    async def tokenize(
        self, segments: Sequence[PromptSegment], *, add_special: bool = False
    ) -> tuple[int, ...]:
        """Bytes and control tokens; there is no special token to add."""
        del add_special
        return tuple(i for s in segments for i in encode(s.text, special=s.special))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of the bytes."""
        wrong = next((i for i in token_ids if not 0 <= i < VOCAB_SIZE), None)
        if wrong is not None:
            raise InvalidParameterError(
                f"token id {wrong} is outside the vocabulary", param="tokens"
            )
        return b"".join(map(piece, token_ids)).decode(errors="replace")

    async def check(self, grammar: Grammar) -> None:
        """Takes every grammar and plays the reply all the same, unless the script refuses it."""
        if self.script.refuse_grammar is not None:
            raise InvalidParameterError(self.script.refuse_grammar, param=grammar.field)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """Plays the script, token by token, through the real turn."""
        self.requests.append(request)
        prompt = await self.detokenize(request.prompt_token_ids)
        script = [*encode(self.script.reply(prompt)), END]
        turn = Turn(request, spell=piece)
        turn.begin()
        if turn.is_full:
            full = Finish(FinishReason.LENGTH, turn.closed_by)
            yield StepOutput(request.request_id, num_tokens=turn.num_tokens, finish=full)
            return
        self.running += 1
        self.occupancy.enter(request.request_id, self._clock())
        try:
            while True:
                await asyncio.sleep(self.script.token_delay)
                if self.script.fail is not None:
                    raise self.script.fail
                output = self._take(request, turn, script)
                worked = self._work.get(request.request_id, 0.0)
                self._work[request.request_id] = worked + STEP_SECONDS
                if output.finish is not None:
                    finish = replace(output.finish, cached_tokens=self.cached_tokens)
                    output = replace(output, finish=finish)
                    self.occupancy.leave(request.request_id, self._clock())
                yield output
                if output.finish is not None:
                    return
        finally:
            self.running -= 1
            self.occupancy.leave(request.request_id, self._clock())

    @staticmethod
    def _take(request: GenerationRequest, turn: Turn, script: list[int]) -> StepOutput:
        token_id = script.pop(0) if script else END
        while request.sampling.ignore_eos and token_id == END:
            token_id = ord("x")
        logprob = None
        if request.sampling.logprobs is not None:
            top = ((piece(token_id), 0.0),) * min(1, request.sampling.logprobs)
            logprob = TokenLogprob(token_id, piece(token_id), 0.0, top)
        first = not turn.num_tokens
        step = turn.step(
            token_id, piece(token_id), ends_generation=token_id == END, logprob=logprob
        )
        taken = ((token_id,) if step.accepted else ()) + step.force
        if not step.accepted and (not taken or turn.closed_by is ClosedBy.TOOL_CALL):
            script.insert(0, token_id)  # the answer begins here, and it is said again
        trace = Trace(taken, piece(token_id), turn.thinks, Start(0.0, 0.0, 0) if first else None)
        finish = None
        if step.finish is not None:
            finish = Finish(step.finish, turn.closed_by, turn.stop)
        return StepOutput(
            request.request_id,
            step.deltas,
            turn.num_tokens,
            turn.num_reasoning_tokens,
            step.logprobs,
            finish,
            trace if request.traced else None,
        )

    def stats(self) -> EngineStats:
        """How many scripts are being played."""
        return EngineStats(running=self.running)

    def take_work(self) -> dict[str, float]:
        """`STEP_SECONDS` for each token."""
        work, self._work = self._work, {}
        return work

    async def failed(self) -> None:
        """Never happens."""
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """There is nothing to end."""
        self._ready = False
