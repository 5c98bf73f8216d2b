"""Keeps account of every request: what the engine computed for it, what that took, what it costs.

    open -> the engine's outputs pass through -> closed -> the engine is done: settled, one row

Several times a second the counters of energy are read and shared out (`energy`); a request that
wants to know its cost is settled at once. The row of a closed request goes to the ledger with the
next settling.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from local_worker.economics.energy import Meter, Share
from local_worker.economics.ledger import Row
from local_worker.tokens import cached_tokens
from local_worker.types import FinishReason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
    from types import TracebackType

    from local_worker.economics.costs import Costs, RequestCost
    from local_worker.economics.ledger import Ledger
    from local_worker.economics.sources import PowerSource
    from local_worker.engine import Engine, Generates
    from local_worker.types import Finish, GenerationRequest, StepOutput

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.25
LATE_SECONDS = 30.0
"""What an engine may take to say that it has given a request up."""

MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Order:
    """What a request turned out to ask of the engine.

    Attributes:
        response_id: of the response.
        model: as the response calls it.
        requests: its sequences, as many for each prompt, prompt by prompt.
        prompts: how many.
        prompt_tokens: of all of them.
        effort: level.
        budget: of thinking tokens.
        router_tokens: that choosing the effort took.
        most_cached: prompt tokens that were there before the model was asked for the effort; what
            was computed to ask it is no saving. None where it was not asked.
    """

    response_id: str
    model: str
    requests: tuple[GenerationRequest, ...]
    prompts: int
    prompt_tokens: int
    effort: str = "none"
    budget: int | None = None
    router_tokens: int = 0
    most_cached: int | None = None

    def cached_tokens(self, ends: Sequence[Finish]) -> int:
        """Prompt tokens that none of its sequences computed, which have all ended."""
        cached = cached_tokens([end.cached_tokens for end in ends], self.prompts)
        return cached if self.most_cached is None else min(cached, self.most_cached)

    def deciding_tokens(self, ends: Iterable[Finish]) -> int:
        """What choosing the effort took, and seeing whether thoughts could end."""
        return self.router_tokens + sum(end.trial_tokens for end in ends)


@dataclass(slots=True, eq=False)
class Account:
    """One request's, from admission to its last byte; a context, and its engine meanwhile.

    Attributes:
        route: of the API.
        key: the API key's name in the books.
        model: that is asked for; the response may call it otherwise.
        order: None until it is known.
        share: of energy and time, so far.
        outputs: the newest one of each sequence.
        engine: that its sequences go to, by way of `_Counted`.
    """

    books: Books
    route: str
    key: str
    model: str
    order: Order | None = None
    share: Share = field(default_factory=Share)
    outputs: dict[str, StepOutput | None] = field(default_factory=dict)
    failed: bool = False
    cost: RequestCost | None = None
    engine: Generates = field(init=False)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = _Counted(self)

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        self.failed = self.failed or kind is not None
        self.books.close(self)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """As `Engine.generate`; what it takes is put down here."""
        self.outputs[request.request_id] = None
        self.failed = False  # if it had, it runs again
        generation = cast("AsyncGenerator[StepOutput, None]", self.engine.generate(request))
        try:
            async with aclosing(generation) as outputs:
                async for output in outputs:
                    self.outputs[request.request_id] = output
                    yield output
        except Exception:
            self.failed = True
            raise

    def bill(self) -> Bill:
        """What it costs, once its sequences have ended."""
        return self.books.bill(self)


class _Counted:
    """The engine, as an account sees it: whatever is computed is put down to it."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """See `engine.Engine.generate`."""
        account = self._account
        account.ids.append(request.request_id)
        account.books.watch(request.request_id, account)
        return account.books.engine.generate(request)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a request has taken.

    Attributes:
        share: of energy and time.
        cost: of both.
        currency: of the cost.
        energy_source: where the joules come from.
    """

    share: Share
    cost: RequestCost
    currency: str
    energy_source: str


class Books:
    """All accounts of a server.

    Args:
        engine: that computes.
        source: of energy.
        costs: what things cost.
        ledger: where rows go; None keeps none.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        engine: Engine,
        source: PowerSource,
        costs: Costs,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.source = source
        self.costs = costs
        self.ledger = ledger
        self.on_row: Callable[[Row], None] = lambda _: None
        self._clock = clock
        self._open: set[Account] = set()
        self._closed: dict[Account, float] = {}
        self._watched: dict[str, Account] = {}
        self.begin()

    def begin(self) -> None:
        """From here on. What loading the model has taken is no idling, and no request's."""
        self.engine.take_work()
        self.meter = Meter()
        now = self._clock()
        self._settled_busy = self.engine.occupancy.seconds(now)
        self.meter.advance(self.source.read(now, self._settled_busy))

    def open(self, route: str, key: str = "", model: str = "") -> Account:
        """A request has come.

        Args:
            route: of the API.
            key: the API key that it came with, if the server asks for one.
            model: that it asks for.
        """
        name = self.ledger.key_name(key) if self.ledger else ""
        account = Account(self, route, name, model)
        self._open.add(account)
        return account

    def close(self, account: Account) -> None:
        """It is over; its row follows with the next settling, if the engine had to do with it."""
        if account not in self._open:
            return
        self._open.remove(account)
        if account.outputs:
            self._closed[account] = self._clock()

    def watch(self, request_id: str, account: Account) -> None:
        """What is computed under this id is that account's."""
        self._watched[request_id] = account

    def settle(self) -> None:
        """Shares out what was used since the last time, and writes down what is over."""
        now, occupancy = self._clock(), self.engine.occupancy
        busy = occupancy.seconds(now)
        over = [a for a, at in self._closed.items() if self._is_over(a, now - at)]
        work = self.engine.take_work()
        self.meter.advance(self.source.read(now, busy))
        # A step may take longer than the time between two settlings: what was used in it belongs
        # to whom it turns out to have been computed for.
        if work or not occupancy.ids:
            shares = self.meter.settle(work, busy - self._settled_busy, self._watched)
            self._settled_busy = busy
            for request_id, share in shares.items():
                account = self._watched[request_id]
                account.share = account.share + share
        for account in over:
            del self._closed[account]
            for request_id in account.ids:
                self._watched.pop(request_id, None)
            self._write(account)

    def _is_over(self, account: Account, seconds: float) -> bool:
        """Whether the engine, too, is done with it: a step goes on after its client has left."""
        return seconds > LATE_SECONDS or self.engine.occupancy.ids.isdisjoint(account.ids)

    def bill(self, account: Account) -> Bill:
        """What a request costs, up to now. What its row says later is the same."""
        self.settle()
        return Bill(account.share, self._cost(account), self.costs.currency, self.source.label)

    async def run(self) -> None:
        """Settles for ever; a mistake in the books is no reason to stop serving."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                self.settle()
            except Exception:
                log.exception("the books could not be settled")

    def shut(self) -> None:
        """Writes down what is left, also of requests that nobody has ended, and ends."""
        for account in list(self._open):
            self.close(account)
        self.settle()
        for account in self._closed:
            self._write(account)
        self._closed.clear()
        self.source.close()
        if self.ledger is not None:
            self.ledger.close()

    def _cost(self, account: Account) -> RequestCost:
        if account.cost is None:
            account.cost = self.costs.of_share(account.share)
        return account.cost

    def _write(self, account: Account) -> None:
        row = self._row(account)
        self.on_row(row)
        if self.ledger is not None:
            self.ledger.add(row)

    def _row(self, account: Account) -> Row:
        order = account.order or Order(
            # It was given up while the model was asked for its effort.
            next(iter(account.outputs)), account.model, (), 1, 0, effort="auto",
        )  # fmt: skip
        last = [account.outputs.get(request.request_id) for request in order.requests]
        ends = [output.finish for output in last if output is not None and output.finish]
        share = account.share
        return Row(
            id=order.response_id,
            time=time.time(),
            key=account.key,
            model=order.model,
            engine=self.engine.info.engine,
            route=account.route,
            effort=order.effort,
            budget=order.budget,
            choices=len(order.requests),
            prompt_tokens=order.prompt_tokens,
            cached_tokens=order.cached_tokens(ends) if len(ends) == len(last) > 0 else 0,
            thinking_tokens=sum(output.num_reasoning_tokens for output in last if output),
            output_tokens=sum(output.num_tokens for output in last if output),
            router_tokens=order.deciding_tokens(ends),
            queued=min((end.queued for end in ends), default=0.0),
            prefill=min((end.prefill for end in ends), default=0.0),
            decode=max((end.decode for end in ends), default=0.0),
            machine_seconds=share.seconds,
            joules=share.joules,
            baseline_joules=share.baseline,
            unknown_seconds=share.unknown,
            energy_source=self.source.label,
            cost=self._cost(account).total,
            currency=self.costs.currency,
            finish_reason=_reason(account, order, ends),
        )


def _reason(account: Account, order: Order, ends: list[Finish]) -> str:
    reasons = {str(end.reason) for end in ends}
    if FinishReason.ERROR in reasons:
        return str(FinishReason.ERROR)
    if order.requests and len(ends) == len(order.requests):
        return reasons.pop() if len(reasons) == 1 else MIXED
    return str(FinishReason.ERROR if account.failed else FinishReason.ABORT)
