"""An engine in a process of its own, as the server sees it: started, talked to, restarted.

    LOADING -> READY <-> RESTARTING -> FAILED      CLOSED from anywhere

`RESTARTING` still takes requests: they wait, together with those that had yielded nothing when the
process ended, and all of them are submitted once it is back. A request that had been begun by
`MAX_ATTEMPTS` processes that died is given up, since it may be the cause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

from local_worker.engines.process import messages
from local_worker.engines.process.calls import Calls
from local_worker.engines.process.child import Child, Program, describe_exit
from local_worker.engines.process.pending import Pending
from local_worker.errors import (
    EngineDiedError,
    EngineError,
    EngineGaveUpError,
    EngineNotReadyError,
    EngineStartError,
    InvalidParameterError,
)
from local_worker.occupancy import Occupancy
from local_worker.types import EngineStats, StepOutput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from local_worker.types import EngineInfo, GenerationRequest, Grammar, PromptSegment

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
STEP_TIMEOUT = 600.0
"""Seconds without a step, while there is work, after which the process counts as hung."""
CLOSE_TIMEOUT = 15.0
RETRY_DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds before each attempt to restart; after the last one the engine has failed."""


class State(Enum):
    """Where the engine is; see the transition line of this module."""

    LOADING = auto()
    READY = auto()
    RESTARTING = auto()
    FAILED = auto()
    CLOSED = auto()


class ProcessEngine:
    """Implements `engine.Engine` over one child process.

    Args:
        program: what the child is and loads.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._state = State.LOADING
        self._info: EngineInfo | None = None
        self._child: Child | None = None
        self._pending: dict[str, Pending] = {}
        self._pinned: list[GenerationRequest] = []
        self._outbox: list[GenerationRequest] = []
        self._leaving: list[str] = []
        self._calls = Calls()
        self._stats = EngineStats()
        self._work: dict[str, float] = {}
        self.occupancy = Occupancy()
        self._restarts = 0
        self._last_event = time.monotonic()
        self._failed = asyncio.Event()
        self._settled = asyncio.Event()  # not in the middle of a start
        self._tasks: list[asyncio.Task[None]] = []

    # -- the port ----------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        """Facts about the loaded model; raises `EngineNotReadyError` before it is loaded."""
        if self._info is None:
            raise EngineNotReadyError("the model is still loading", retry_after=2)
        return self._info

    @property
    def ready(self) -> bool:
        """Whether the process is up with its model loaded."""
        return self._state is State.READY

    async def launch(self) -> None:
        """Starts the process, which begins to load; `start` waits for it.

        Raises:
            EngineStartError: the system has no room for a process.
        """
        self._child = await Child.launch(self._program, self._dispatch)

    async def start(self) -> None:
        """Starts the process, unless it is, and waits until the model is loaded."""
        assert self._state is State.LOADING, self._state
        if self._child is None:
            await self.launch()
        await self._until_loaded()
        self._enter(State.READY)
        self._tasks = [
            asyncio.create_task(self._supervise(), name="engine supervisor"),
            asyncio.create_task(self._watch(), name="engine watchdog"),
        ]

    async def tokenize(
        self, segments: Sequence[PromptSegment], *, add_special: bool = False
    ) -> tuple[int, ...]:
        """Token ids of the segments, one after the other."""
        call_id = self._calls.number()
        event = await self._call(call_id, messages.Tokenize(call_id, tuple(segments), add_special))
        assert isinstance(event, messages.Tokens), event
        return event.token_ids

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of the ids."""
        call_id = self._calls.number()
        event = await self._call(call_id, messages.Detokenize(call_id, tuple(token_ids)))
        assert isinstance(event, messages.Text), event
        return event.text

    async def check(self, grammar: Grammar) -> None:
        """Raises `InvalidParameterError` for a grammar that cannot be followed."""
        call_id = self._calls.number()
        event = await self._call(call_id, messages.Check(call_id, grammar))
        assert isinstance(event, messages.Checked), event

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """Outputs of one sequence; see `engine.Engine.generate`."""
        self._check_open()
        pending = self._pending[request.request_id] = Pending(request)
        self.occupancy.enter(request.request_id, time.monotonic())
        self._submit(pending)
        try:
            while True:
                item = await pending.outputs.get()
                if isinstance(item, Exception):
                    raise item
                if item.finish is not None and request.pinned and request not in self._pinned:
                    self._pinned.append(request)
                yield item
                if item.finish is not None:
                    return
        finally:
            if self._pending.pop(request.request_id, None) is not None:
                self._abort(pending)

    def stats(self) -> EngineStats:
        """Gauges as of the last step."""
        return replace(self._stats, restarts=self._restarts)

    def take_work(self) -> dict[str, float]:
        """Seconds of computing by request id, since the last call."""
        work, self._work = self._work, {}
        return work

    async def failed(self) -> None:
        """Returns when the engine has ended and will not come back."""
        await self._failed.wait()

    async def aclose(self) -> None:
        """Ends the process; whatever still runs ends with `EngineDiedError`."""
        self._enter(State.CLOSED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._child is not None:
            self._child.send(messages.Shutdown())
            await self._child.end(CLOSE_TIMEOUT)
            self._child = None
        self._fail_everything(EngineGaveUpError("the server is stopping"))

    # -- the child ---------------------------------------------------------------------------

    async def _until_loaded(self) -> None:
        """Raises `EngineStartError` where the process ends before that."""
        child = self._child
        assert child is not None, "launched"
        try:
            event = await child.loaded()
        except asyncio.CancelledError:
            child.kill()
            raise
        if isinstance(event, messages.Ready):
            self._info = event.info
            self._last_event = time.monotonic()
            return
        self._child = None
        status = await child.end(CLOSE_TIMEOUT)
        if isinstance(event, messages.StartFailed):
            raise EngineStartError(
                f"{self._program.name} cannot load {self._program.model}: {event.message}"
            )
        raise EngineStartError(
            f"the {self._program.name} process ended while it loaded {self._program.model} "
            f"({describe_exit(status)})"
        )

    async def _supervise(self) -> None:
        """Waits until the process ends, then starts another one. For ever."""
        try:
            while await self._serve_one_life():
                pass
        except Exception:
            log.exception("the supervisor of the %s process failed", self._program.name)
            raise
        finally:
            if self._state is not State.CLOSED:
                self._enter(State.FAILED)
                if self._child is not None:
                    self._child.kill()
                self._fail_everything(EngineGaveUpError("the engine could not be restarted"))
                self._failed.set()

    async def _serve_one_life(self) -> bool:
        """Returns whether there is another life after this one."""
        if self._child is not None:
            await self._child.gone()
            self._enter(State.RESTARTING)
            status = await self._child.end(CLOSE_TIMEOUT)
            self._child = None
            self._restarts += 1
            log.error(
                "the %s process ended (%s); restarting it",
                self._program.name,
                describe_exit(status),
            )
            self._after_death()
        return await self._relaunch()

    async def _relaunch(self) -> bool:
        for attempt, delay in enumerate(RETRY_DELAYS):
            await asyncio.sleep(delay)
            try:
                await self.launch()
                await self._until_loaded()
            except EngineStartError as error:
                log.error("restart %d of %d failed: %s", attempt + 1, len(RETRY_DELAYS), error)  # noqa: TRY400
                continue
            self._enter(State.READY)
            for pending in list(self._pending.values()):
                self._submit(pending)
            for request in self._pinned:
                self._tasks.append(asyncio.create_task(self._pin_again(request)))
            return True
        return False

    async def _pin_again(self, request: GenerationRequest) -> None:
        try:
            async for _ in self.generate(request):
                pass
        except EngineError as error:
            log.warning("a pinned prompt could not be computed again: %s", error)

    def _after_death(self) -> None:
        for pending in list(self._pending.values()):
            if pending.yielded:
                error = EngineDiedError("the engine ended in the middle of this response")
                self._give_up(pending, error)
            elif pending.attempts >= MAX_ATTEMPTS:
                message = f"the engine ended {MAX_ATTEMPTS} times on this request"
                self._give_up(pending, EngineGaveUpError(message))
        self._calls.fail(EngineDiedError("the engine ended during this call"))
        self._outbox.clear()
        self._leaving.clear()
        for pending in self._pending.values():
            pending.submitted = False
        for request_id in self.occupancy.ids - self._pending.keys():
            self.occupancy.leave(request_id, time.monotonic())
        self._stats = replace(self._stats, running=0, waiting=len(self._pending), kv_used=0)

    async def _watch(self) -> None:
        """Ends a process that computes nothing although there is work."""
        while True:
            await asyncio.sleep(STEP_TIMEOUT / 20)
            silent = time.monotonic() - self._last_event
            if self._pending and self.ready and silent > STEP_TIMEOUT and self._child:
                log.error("no decode step for %.0f s: ending the engine process", silent)
                self._child.kill()

    # -- requests ----------------------------------------------------------------------------

    def _dispatch(self, event: messages.Event) -> None:
        if isinstance(event, messages.Stepped):
            # Only a step is a sign of life: the tokenizer works while the loop hangs.
            self._last_event = time.monotonic()
            self._stats = event.stats
            for request_id, seconds in event.work:
                self._work[request_id] = self._work.get(request_id, 0.0) + seconds
            for output in event.outputs:
                self._deliver(output)
        elif isinstance(event, messages.Begun):
            for request_id in event.request_ids:
                if (pending := self._pending.get(request_id)) is not None:
                    pending.attempts += 1
        elif isinstance(event, messages.Answer):
            self._calls.answer(event)

    def _deliver(self, output: StepOutput) -> None:
        if output.finish is not None:
            self.occupancy.leave(output.request_id, time.monotonic())
        pending = self._pending.get(output.request_id)
        if pending is None:
            return  # its client went away
        pending.take(output)
        if output.finish is not None:
            del self._pending[output.request_id]

    def _submit(self, pending: Pending) -> None:
        if self._state is not State.READY or self._child is None:
            return  # the restart submits everything that waits
        if not self._pending_work():
            self._last_event = time.monotonic()
        self._flush_soon()
        self._outbox.append(pending.request)

    def _flush_soon(self) -> None:
        if not self._outbox and not self._leaving:
            # Together at the end of this turn of the event loop: the choices of one request then
            # always share their first step, and the same seed gives the same text.
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        leaving, self._leaving = self._leaving, []
        wanted = [self._pending[r.request_id] for r in outbox if r.request_id in self._pending]
        if (wanted or leaving) and self._child is not None and self._state is State.READY:
            for pending in wanted:
                pending.submitted = True
            requests = tuple(pending.request for pending in wanted)
            self._child.send(messages.Submit(requests, tuple(leaving)))

    def _abort(self, pending: Pending) -> None:
        """Nobody waits for it any more. It is over once the process says so, if it knows of it."""
        request_id = pending.request.request_id
        if self._state is State.READY and pending.submitted:
            self._flush_soon()
            self._leaving.append(request_id)
        else:
            self.occupancy.leave(request_id, time.monotonic())

    def _pending_work(self) -> bool:
        return self._stats.running + self._stats.waiting > 0

    async def _call(self, call_id: int, command: messages.Call) -> messages.Answer:
        """Asks the process and waits for the answer; asks the next one when it ends meanwhile."""
        for _ in range(MAX_ATTEMPTS):
            await self._settled.wait()
            self._check_open()
            assert self._child is not None, "ready without a process"
            try:
                answer = await self._calls.ask(call_id, partial(self._child.send, command))
            except EngineDiedError:
                continue
            if isinstance(answer, messages.CallFailed):
                raise InvalidParameterError(answer.message, param=answer.param)
            return answer
        raise EngineGaveUpError(f"the engine ended {MAX_ATTEMPTS} times on this call")

    def _enter(self, state: State) -> None:
        self._state = state
        if state is State.RESTARTING:
            self._settled.clear()
        else:
            self._settled.set()

    def _check_open(self) -> None:
        if self._state is State.LOADING:
            raise EngineNotReadyError("the model is still loading", retry_after=2)
        if self._state in (State.FAILED, State.CLOSED):
            raise EngineNotReadyError("the engine has ended and cannot be restarted")

    def _give_up(self, pending: Pending, error: EngineDiedError) -> None:
        self._pending.pop(pending.request.request_id, None)
        self.occupancy.leave(pending.request.request_id, time.monotonic())
        pending.outputs.put_nowait(error)

    def _fail_everything(self, error: EngineDiedError) -> None:
        self._calls.fail(error)
        for pending in list(self._pending.values()):
            self._give_up(pending, error)
