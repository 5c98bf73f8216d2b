"""The step loop of the llama.cpp process: one thread owns model, context and scheduler."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.batch import Row
from local_worker.engines.llama_cpp.binding import NativeError, NoKvRoomError
from local_worker.engines.llama_cpp.guides import GuideError
from local_worker.engines.llama_cpp.kept import Drop, Keep, Load
from local_worker.engines.llama_cpp.laps import Laps
from local_worker.engines.llama_cpp.layout import Layout
from local_worker.engines.llama_cpp.lookup import PromptLookup
from local_worker.engines.llama_cpp.sampling import BadLogitsError, Sampler
from local_worker.engines.llama_cpp.sequence import CachedSequence, borders
from local_worker.engines.llama_cpp.states import recast
from local_worker.engines.process import messages
from local_worker.engines.process.grammar import GrammarError
from local_worker.engines.process.sequence import Status
from local_worker.engines.process.work import Work, split
from local_worker.types import EngineStats, Finish, FinishReason, StepOutput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from local_worker.engines.llama_cpp.batch import Logits
    from local_worker.engines.llama_cpp.binding import Llama
    from local_worker.engines.llama_cpp.guides import GrammarGuide, Guides
    from local_worker.engines.llama_cpp.plan import Chunk
    from local_worker.engines.llama_cpp.prefix_cache import Operation
    from local_worker.engines.llama_cpp.scheduler import Scheduler
    from local_worker.engines.llama_cpp.shapes import StepShapes
    from local_worker.engines.llama_cpp.states import States
    from local_worker.engines.process.channel import Channel
    from local_worker.types import GenerationRequest


log = logging.getLogger("local_worker")


class EngineLoop:
    """The step loop: drain commands, plan, run, apply, report."""

    def __init__(
        self,
        llama: Llama,
        scheduler: Scheduler,
        shapes: StepShapes,
        states: States,
        guides: Guides,
        channel: Channel,
    ) -> None:
        self._llama = llama
        self._channel = channel
        self._scheduler = scheduler
        self._commands: queue.SimpleQueue[messages.Command] = queue.SimpleQueue()
        self._samplers: dict[str, Sampler] = {}
        self._ended: list[StepOutput] = []
        self._stopped = False
        self._steps = self._prompt_tokens = self._cached_tokens = self._output_tokens = 0
        self._padding_rows, self._threads = 0, shapes.threads
        self._guessed = self._right = 0
        self._shapes = shapes
        self._states = states
        self._guides = guides
        self._masks = ThreadPoolExecutor(1, "masks")
        self._laps = Laps()
        self._work = Work()

    def submit(self, command: messages.Command) -> None:
        """Takes a command, from any thread."""
        self._commands.put(command)

    def run(self) -> None:
        """Until `Shutdown`; what is worth keeping is kept before that."""
        while not self._stopped:
            self._drain()
            outputs = self.step() if self._scheduler.has_work else []
            ended, self._ended = self._ended, []
            outputs = [*ended, *outputs]
            urgent = not self._scheduler.has_work or any(output.finish for output in outputs)
            work = self._work.report(time.monotonic(), urgent=urgent)
            self._channel.send(messages.Stepped(tuple(outputs), self._stats(), work))
            self._laps.end("send")
            self._states.settle()
            self._slim()
        if self._states.lasting:
            self._arrange(self._scheduler.clear_cache())
        self._states.close()

    def step(self) -> list[StepOutput]:
        """One decode step for everything that can move."""
        plan = self._scheduler.plan(time.monotonic())
        chunks = plan.chunks
        begun = tuple(
            chunk.sequence.request.request_id
            for chunk in chunks
            if chunk.start == chunk.sequence.num_cached_tokens
        )
        if begun:
            # Before computing anything: should this step be the process' last, the server knows
            # who was in it.
            self._channel.send(messages.Begun(begun))
        self._arrange(plan.operations)
        if plan.layout is not None:
            self._lay_out(plan.layout)
        if not chunks:
            return []
        decoding = sum(not chunk.sequence.is_prefilling for chunk in chunks)
        if not decoding:
            self._slim()  # rather before the prompt, which would look at those cells, too
        try:
            computed = self._compute(chunks, decoding)
        except NoKvRoomError as error:
            if cached := self._scheduler.clear_cache():
                self._arrange(cached)
                return []  # nothing was computed: the next step tries again
            return [self._shed(str(error))]
        parts = [chunk.part() for chunk in chunks]
        outputs = self._apply(chunks, computed)
        self._laps.end("sample")
        costs = self._scheduler.pace.costs(decoding)
        self._work.add(split(parts, self._laps.taken(), *costs))
        return outputs

    def _lay_out(self, layout: Layout) -> None:
        """Makes the KV buffer anew, with what runs in it."""
        running = [s for s in self._scheduler.running if s.num_computed_tokens]
        held = {s.slot: self._llama.save(s.slot) for s in running if s.slot is not None}
        streams = self._llama.streams
        self._llama.lay_out(layout)
        for slot, sequence in self._scheduler.laid_out(layout):
            if slot in held and sequence.slot is not None:
                stream = slot if streams > 1 else 0
                data = recast(held.pop(slot), stream, streams, self._llama.streams)
                self._llama.load(sequence.slot, data, sequence.num_computed_tokens)
        log.info("the KV cells are %s now", layout.value)

    def _compute(self, chunks: tuple[Chunk, ...], decoding: int) -> list[Logits]:
        rows = [row for chunk in chunks for row in _rows(chunk)]
        only_decoding = decoding == len(chunks)
        choice = self._shapes.choose(len(rows), decoding, only_decoding=only_decoding)
        guided = [c.sequence.guide for c in chunks if c.samples and c.sequence.guide is not None]
        self._laps.end("schedule")
        masks = self._masks.submit(_prepare, guided) if guided else None
        computed = self._llama.decode(rows, choice.threads, choice.padding)
        if masks is not None:
            masks.result()
        seconds = self._laps.end("compute")
        choice.observe(seconds)
        if only_decoding:
            self._padding_rows += choice.padding
            self._threads = choice.threads
        self._steps += 1
        pace, more = self._scheduler.pace, len(rows) - decoding
        if only_decoding and more:
            pace.observe_more(decoding, more, seconds)
        else:
            prompts = sum(len(c.token_ids) for c in chunks if c.sequence.is_prefilling)
            pace.observe(decoding, prompts, seconds, len(rows) - prompts)
        return computed

    def _arrange(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Keep):
                data = self._llama.save(operation.slot)
                self._states.put(operation.key, operation.prefix, data)
                self._arrange(self._scheduler.stored(operation.key, len(data)))
            elif isinstance(operation, Load):
                data = self._states.get(operation.key)
                try:
                    self._llama.load(operation.slot, data, operation.length)
                except NativeError:
                    self._states.drop(operation.key)  # not once more in the next life
                    raise
            elif isinstance(operation, Drop):
                self._states.drop(operation.key)
            else:
                self._llama.arrange((operation,))

    def _slim(self) -> None:
        """Copies prefixes out of the way: one at a time where somebody waits for a step."""
        while operations := self._scheduler.slim():
            self._arrange(operations)
            if self._scheduler.has_work or not self._commands.empty():
                return

    def _drain(self) -> None:
        """Takes all commands; waits for one only when there is nothing to compute."""
        block = not self._scheduler.has_work
        while not self._stopped:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return
            if block:
                self._laps.skip()
            block = False
            if isinstance(command, messages.Submit):
                for request in command.requests:
                    self._submit(request)
                for request_id in command.forget:
                    self._abort(request_id)
            else:
                self._stopped = True

    def _submit(self, request: GenerationRequest) -> None:
        try:
            self._take_in(request)
        except (GrammarError, GuideError) as error:
            # It was checked: the grammar has become too complex at its very beginning.
            finish = Finish(FinishReason.ERROR, error=str(error), param=_blamed(request, error))
            self._ended.append(StepOutput(request.request_id, finish=finish))

    def _take_in(self, request: GenerationRequest) -> None:
        sequence = CachedSequence(
            request,
            time.monotonic(),
            # A model that keeps every token can lend any part of a prompt at any time.
            () if self._llama.window is None else self._checkpoints(request),
            self._guides.guide(request),
            self._spell,
            PromptLookup() if self._llama.guesses else None,
        )
        if sequence.reserved_cells > self._llama.kv_capacity:
            message = (
                f"prompt and output need {sequence.reserved_cells} KV cells and this engine has "
                f"{self._llama.kv_capacity}"
            )
            output = sequence.end(FinishReason.ERROR, time.monotonic(), message)
            self._ended.append(output)
            return
        if (over := sequence.turn.over) is not None:
            # A thought's closer took all the room, or the grammar leaves no choice at all.
            self._ended.append(sequence.end(over, time.monotonic()))
            return
        self._samplers[request.request_id] = Sampler(
            request.sampling, self._llama, request.prompt_token_ids
        )
        self._scheduler.add(sequence)

    def _spell(self, token_id: int) -> bytes:
        return self._llama.piece(token_id, special=True)

    def _checkpoints(self, request: GenerationRequest) -> tuple[int, ...]:
        found = borders(request.prompt_token_ids, self._llama.control_ids)
        return found if request.continues_at is None else (*found, request.continues_at)

    def _abort(self, request_id: str) -> None:
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            output = sequence.end(FinishReason.ABORT, time.monotonic())
            self._forget(sequence)
            self._ended.append(output)

    def _shed(self, reason: str) -> StepOutput:
        """Cells are reserved and nothing is cached: this is a defect. The youngest one yields."""
        sequence = self._scheduler.running[-1]
        output = sequence.end(FinishReason.ERROR, time.monotonic(), reason)
        self._forget(sequence, keep=False)
        return output

    def _apply(self, chunks: tuple[Chunk, ...], computed: list[Logits]) -> list[StepOutput]:
        outputs: list[StepOutput] = []
        results = iter(computed)
        for chunk in chunks:
            sequence = chunk.sequence
            if (left := sequence.num_prompt_tokens - chunk.start) > 0:
                self._prompt_tokens += min(left, len(chunk.token_ids))
            if chunk.start == sequence.num_cached_tokens:
                self._cached_tokens += sequence.num_cached_tokens
            self._scheduler.computed(chunk)
            if sequence.request.pinned and not sequence.is_prefilling:
                self._arrange(self._scheduler.pin(sequence))
            if chunk.samples:
                logits = list(itertools.islice(results, 1 + len(chunk.guesses)))
                outputs += self._sample(chunk, logits)
        return outputs

    def _sample(self, chunk: Chunk, logits: list[Logits]) -> list[StepOutput]:
        """The next token, and those after it as long as they were guessed."""
        sequence, guesses = chunk.sequence, chunk.guesses
        sampler, sound = self._samplers[sequence.request.request_id], True
        outputs: list[StepOutput] = []
        right = 0
        while True:
            try:
                taken, output = self._draw(sequence, sampler, logits[right])
            except (BadLogitsError, GuideError) as error:
                param = _blamed(sequence.request, error)
                output = sequence.end(FinishReason.ERROR, time.monotonic(), str(error), param)
                taken, sound = (), False
            outputs.append(output)
            for token in taken:
                sampler.accept(token)
            self._output_tokens += len(taken)
            following = guesses[right : right + len(taken)]
            if output.finish is not None or not taken or taken != following:
                break
            right += len(taken)
        if guesses:
            self._guessed += len(guesses)
            self._right += right
            self._arrange(self._scheduler.guessed(chunk, right))
        if sequence.status is Status.FINISHED:
            self._forget(sequence, keep=sound)
        return outputs

    def _draw(
        self, sequence: CachedSequence, sampler: Sampler, logits: Logits
    ) -> tuple[tuple[int, ...], StepOutput]:
        turn, guide = sequence.turn, sequence.guide
        untouched = logits.copy() if turn.may_begin_answer else None
        banned = None if guide is None else guide.banned()
        token_id, logprob = sampler.sample(logits, turn.num_tokens, banned)
        taken, output = sequence.take(
            token_id,
            self._llama.piece(token_id),
            ends=token_id in self._llama.end_ids,
            logprob=logprob,
            now=time.monotonic(),
        )
        if taken or output.finish is not None:
            return taken, output
        assert untouched is not None, "refused, though no grammar could begin"
        return self._draw(sequence, sampler, untouched)  # the answer begins here, and its grammar

    def _forget(self, sequence: CachedSequence, *, keep: bool = True) -> None:
        self._arrange(self._scheduler.remove(sequence, keep=keep))
        del self._samplers[sequence.request.request_id]

    def _stats(self) -> EngineStats:
        return EngineStats(
            waiting=len(self._scheduler.waiting),
            running=len(self._scheduler.running),
            kv_used=self._scheduler.used_cells,
            kv_capacity=self._llama.kv_capacity,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
            padding_rows=self._padding_rows,
            guessed_tokens=self._guessed,
            right_guesses=self._right,
            kv_separate=self._scheduler.layout is Layout.SEPARATE,
            threads=self._threads,
            seconds=self._laps.seconds(),
        )


def _blamed(request: GenerationRequest, error: Exception) -> str | None:
    """The field of a request that explains an error, if one does."""
    return (
        None if isinstance(error, BadLogitsError) or not request.grammar else request.grammar.field
    )


def _prepare(guides: Iterable[GrammarGuide]) -> None:
    for guide in guides:
        guide.prepare()


def _rows(chunk: Chunk) -> list[Row]:
    slot = chunk.sequence.slot
    assert slot is not None, "a planned sequence has a slot"
    last = len(chunk.token_ids) - 1
    return [
        Row(token_id, chunk.start + i, slot, chunk.samples and i >= last)
        for i, token_id in enumerate(chunk.token_ids + chunk.guesses)
    ]
