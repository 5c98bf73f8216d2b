"""The vLLM process: one task for each sequence, over one `AsyncLLM`.

No more sequences are handed to vLLM than it runs at a time; the rest wait here. So it is known
which ones have begun, and the second phase of a sequence never queues behind others.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import aclosing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from local_worker.engines.process import messages, trial
from local_worker.engines.process.channel import Channel, open_channel
from local_worker.engines.process.commands import CommandReader
from local_worker.engines.process.sequence import Sequence, Status
from local_worker.engines.process.work import OutputCost, Work
from local_worker.engines.vllm.chunks import DeadError
from local_worker.engines.vllm.config import VllmConfig
from local_worker.engines.vllm.failures import explain
from local_worker.engines.vllm.phases import phase_params
from local_worker.engines.vllm.tail import Tail
from local_worker.types import EngineInfo, EngineStats, FinishReason, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import NoReturn

    from local_worker.engines.vllm.binding import Vllm
    from local_worker.engines.vllm.chunks import Chunk, Logprobs
    from local_worker.engines.vllm.vocabulary import Vocabulary
    from local_worker.types import GenerationRequest, StepOutput

HEALTH_SECONDS = 0.2
SPECULATION_LIMITS = tuple(
    (field, "it cannot be combined with speculative_config, with which this server was started")
    for field in ("min_p", "logit_bias")
)
"""What vLLM refuses beside speculation."""

CLOSE_SECONDS = 3.0
LAST_WORDS_SECONDS = 0.5
"""For what a dying child has printed to arrive."""


class Sequences:
    """All sequences of the process, from submission to their one terminal output."""

    def __init__(
        self,
        vllm: Vllm,
        vocabulary: Vocabulary,
        channel: Channel,
        room: int,
        *,
        biases: bool = True,
    ) -> None:
        self._vllm = vllm
        self._biases = biases
        self._vocabulary = vocabulary
        self._channel = channel
        self._gate = asyncio.Semaphore(room)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outputs: list[StepOutput] = []
        self._running = self._prompt_tokens = self._cached_tokens = self._output_tokens = 0
        self._account = _Account()

    def submit(self, request: GenerationRequest) -> None:
        """Starts a task for it."""
        spell = partial(self._vocabulary.piece, special=True)
        sequence = Sequence(request, time.monotonic(), spell=spell)
        if (over := sequence.turn.over) is not None:  # a thought's closer took all the room
            self._report(sequence.end(over, time.monotonic()))
            return
        task = self._tasks[request.request_id] = asyncio.create_task(self._run(sequence))
        task.add_done_callback(lambda _: self._forget(sequence))

    def abort(self, request_id: str) -> None:
        """Ends that sequence; unknown ids are no error."""
        if (task := self._tasks.get(request_id)) is not None:
            task.cancel()

    def report_life(self) -> None:
        """A sign of life, with the gauges."""
        self._flush_soon()

    async def _run(self, sequence: Sequence) -> None:
        try:
            # What goes on takes the place of a part that ends right now.
            async with nullcontext() if sequence.request.goes_on else self._gate:
                self._channel.send(messages.Begun((sequence.request.request_id,)))
                sequence.start(time.monotonic())
                self._prompt_tokens += len(sequence.request.prompt_token_ids)
                self._running += 1
                self._account.begin(sequence.request)
                try:
                    await self._generate(sequence)
                finally:
                    self._running -= 1
        except DeadError as error:
            end_process(str(error))  # with no word about this sequence: it may be run again
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not wait for ever
            self._end(sequence, FinishReason.ERROR, f"vLLM: {str(error) or repr(error.__cause__)}")

    def _forget(self, sequence: Sequence) -> None:
        """Its task is over; one that was cancelled may never have run at all."""
        self._end(sequence, FinishReason.ABORT)
        self._account.end(sequence.request.request_id)
        del self._tasks[sequence.request.request_id]
        self._flush_soon()  # the gauges have changed

    async def _generate(self, sequence: Sequence) -> None:
        request = sequence.request
        for number in itertools.count():
            params = phase_params(
                request,
                sequence.token_ids[len(request.prompt_token_ids) :],
                number,
                self._vocabulary.end_ids,
                follows_grammar=sequence.turn.follows_grammar,
                biases=self._biases,
            )
            stream = self._vllm.generate(
                f"{request.request_id}.{number}",
                list(sequence.token_ids),
                params,
                request.adapter,
                request.cache_salt,
            )
            async with aclosing(stream):
                finish = await self._follow(sequence, stream, first=number == 0)
            if sequence.status is Status.FINISHED:
                return
            if finish == "length":  # vLLM's own limit came before the request's
                self._end(sequence, FinishReason.LENGTH)
                return
            if finish not in (None, "stop"):
                self._end(sequence, FinishReason.ERROR, f"vLLM ended the request: {finish}")
                return

    async def _follow(
        self, sequence: Sequence, stream: AsyncIterator[Chunk], *, first: bool
    ) -> str | None:
        """Takes tokens until the phase is over. Returns vLLM's reason if it was vLLM's doing."""
        async for chunk in stream:
            if first:
                self._cached_tokens += chunk.cached_tokens - sequence.num_cached_tokens
                sequence.num_cached_tokens = chunk.cached_tokens
            self._account.computed(sequence.request.request_id, len(chunk.token_ids))
            logprobs = chunk.logprobs or itertools.repeat(None)
            for token_id, logprob in zip(chunk.token_ids, logprobs, strict=False):
                if not self._take(sequence, token_id, logprob):
                    return None
            if chunk.finish is not None:
                return chunk.finish
        return "abort"

    def _take(self, sequence: Sequence, token_id: int, logprob: Logprobs | None) -> bool:
        """Applies one token. Returns whether what vLLM samples next is still of use."""
        was_free = not sequence.turn.follows_grammar
        taken, output = sequence.take(
            token_id,
            self._vocabulary.piece(token_id),
            ends=token_id in self._vocabulary.end_ids,
            logprob=None if logprob is None else self._token_logprob(token_id, logprob),
            now=time.monotonic(),
        )
        self._output_tokens += len(taken)
        self._report(output)
        begins = was_free and sequence.turn.follows_grammar
        return taken == (token_id,) and not begins and sequence.status is Status.RUNNING

    def _token_logprob(self, token_id: int, logprobs: Logprobs) -> TokenLogprob:
        piece = self._vocabulary.piece
        top = tuple((piece(i, special=True), logprob) for i, logprob in logprobs.top)
        return TokenLogprob(token_id, piece(token_id, special=True), logprobs.chosen, top)

    def _end(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        if sequence.status is not Status.FINISHED:
            self._report(sequence.end(reason, time.monotonic(), error))

    def _report(self, output: StepOutput) -> None:
        self._flush_soon()
        self._outputs.append(output)

    def _flush_soon(self) -> None:
        """Once per turn of the event loop: outputs of one decode step travel together."""
        if not self._outputs:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        outputs, self._outputs = self._outputs, []
        urgent = not self._running or any(output.finish for output in outputs)
        work = self._account.report(urgent=urgent, idle=not self._running)
        self._channel.send(messages.Stepped(tuple(outputs), self._stats(), work))

    def _stats(self) -> EngineStats:
        return EngineStats(
            waiting=len(self._tasks) - self._running,
            running=self._running,
            kv_used=self._vllm.kv_used if self._running else 0,
            kv_capacity=self._vllm.kv_capacity,
            steps=self._vllm.steps,
            prompt_tokens=self._prompt_tokens - self._cached_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
        )


class _Account:
    """Whom vLLM has computed for: what came out since the last report took as long as that.

    How far a prompt is, vLLM does not say before its first token.
    """

    def __init__(self) -> None:
        self._work = Work()
        self._cost = OutputCost()
        self._outputs: dict[str, int] = {}
        self._prompts: dict[str, int] = {}
        self._prompts_over: list[str] = []
        self._since: float | None = None

    def begin(self, request: GenerationRequest) -> None:
        """A sequence begins to run: its prompt is being computed."""
        self._prompts[request.request_id] = len(request.prompt_token_ids)
        if self._since is None:
            self._since = time.monotonic()

    def computed(self, request_id: str, tokens: int) -> None:
        """Tokens of a sequence are there."""
        self._outputs[request_id] = self._outputs.get(request_id, 0) + tokens
        self._prompts_over.append(request_id)

    def end(self, request_id: str) -> None:
        """It is over, maybe before its first token."""
        self._prompts_over.append(request_id)

    def report(self, *, urgent: bool, idle: bool) -> tuple[tuple[str, float], ...]:
        """See `Work.report`; `idle` says that nothing runs any more."""
        now = time.monotonic()
        if self._since is not None and (self._outputs or self._prompts_over):
            outputs, self._outputs = self._outputs, {}
            seconds, self._since = now - self._since, now
            self._work.add(self._cost.split(outputs, self._prompts, seconds))
            for request_id in self._prompts_over:
                self._prompts.pop(request_id, None)
            self._prompts_over.clear()
        if idle:
            self._since = None
        return self._work.report(now, urgent=urgent)


class Worker:
    """Commands in, tasks out; ends the process where the server or the engine core does."""

    def __init__(self, sequences: Sequences, vllm: Vllm) -> None:
        self._sequences = sequences
        self._vllm = vllm
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()

    async def serve(self) -> None:
        """Until `Shutdown`."""
        steps = 0
        while not self._closed.is_set():
            if self._vllm.dead:
                end_process("vLLM's engine core ended")
            if (
                self._vllm.steps != steps
            ):  # a long prefill has nothing to report but that it goes on
                steps = self._vllm.steps
                self._sequences.report_life()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), HEALTH_SECONDS)

    def take(self, command: messages.Command) -> None:
        """From the reader's thread."""
        self._loop.call_soon_threadsafe(self._apply, command)

    def _apply(self, command: messages.Command) -> None:
        if isinstance(command, messages.Submit):
            for request in command.requests:
                self._sequences.submit(request)
            for request_id in command.forget:
                self._sequences.abort(request_id)
        else:
            self._closed.set()


def end_process(reason: str | None = None) -> NoReturn:
    """Ends this process at once; the supervisor ends those that vLLM started."""
    if reason is not None:
        print(f"local-worker: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - there is no other log here
    os._exit(0 if reason is None else 1)


def end_orphans(_: int) -> None:
    """The server is gone: ends this process and all that vLLM started."""
    os.killpg(0, signal.SIGKILL)


def describe(vllm: Vllm, vocabulary: Vocabulary, config: VllmConfig, version: str) -> EngineInfo:
    """What the server is told about the loaded model."""
    return EngineInfo(
        engine="vLLM",
        version=version,
        model_name=Path(config.model_path).resolve().name,
        vocab_size=vllm.vocab_size,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs * config.data_parallel_size,
        kv_capacity=vllm.kv_capacity,
        chat_template=vocabulary.chat_template,
        bos_token=vocabulary.bos_token,
        eos_token=vocabulary.eos_token,
        longest_token=vocabulary.longest_token(),
        control_tokens=vocabulary.control_tokens,
        adapters=tuple(adapter.name for adapter in config.adapters),
        limits=SPECULATION_LIMITS if config.engine_args.get("speculative_config") else (),
    )


async def run(channel: Channel, config: VllmConfig) -> None:
    """Loads the model, says so, serves."""
    tail = Tail.begin()
    try:
        # Here and not above: a broken installation is a failed start, too.
        from local_worker.engines.vllm.binding import VERSION, Vllm
        from local_worker.engines.vllm.vocabulary import Vocabulary

        vllm = Vllm(config)
        vocabulary = Vocabulary(Path(config.model_path), vllm.vocab_size)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is why the start failed
        traceback.print_exc()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        cause = explain(str(error), tail.lines())
        channel.send(messages.StartFailed(f"{cause} (all that vLLM said: {tail.save()})"))
        return
    tail.let_through()
    channel.send(messages.Ready(describe(vllm, vocabulary, config, VERSION)))
    room = config.max_num_seqs * config.data_parallel_size
    biases = not config.engine_args.get("speculative_config")
    worker = Worker(Sequences(vllm, vocabulary, channel, room, biases=biases), vllm)
    CommandReader(
        channel, vocabulary, trial.Bounded(vocabulary, vocabulary), worker.take, end_orphans
    ).start()
    await worker.serve()
    # vLLM's own shutdown gives shared memory back; it must not take longer than the server waits.
    timer = threading.Timer(CLOSE_SECONDS, end_process)
    timer.daemon = True
    timer.start()
    vllm.close()


def main() -> None:
    """Entry point of the process: `python -m local_worker.engines.vllm.worker FD`."""
    channel = open_channel(sys.argv[1])
    body = channel.receive()
    if body is None:
        return
    asyncio.run(run(channel, msgspec.msgpack.decode(body, type=VllmConfig)))
    end_process()


if __name__ == "__main__":
    main()
