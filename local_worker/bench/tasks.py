"""Asks a suite's tasks over HTTP, at several efforts; goes on where an earlier run has stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx

from local_worker.bench.calibrate import EARLY, WHOLE
from local_worker.bench.scenario import CHAT
from local_worker.bench.verdicts import AUTO, Answered
from local_worker.errors import BenchError, ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from local_worker.bench.peers import Target
    from local_worker.bench.suite import Suite, Task

Start: TypeAlias = "Callable[[Coroutine[Any, Any, None]], object]"

RETRIES = 3
RETRY_SECONDS = 1.0
TIMEOUT = 1800.0
BUSY = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask.

    Attributes:
        efforts: each of them for every task.
        concurrency: requests in flight at a time.
        temperature: of every request; None leaves it to the server.
        include_cost: whether the server can be asked what each answer took.
    """

    suite: Suite
    efforts: tuple[str, ...]
    concurrency: int
    temperature: float | None = None
    include_cost: bool = False


class Results:
    """Answers so far, in a file of one line each if there is one.

    Args:
        path: where; None keeps them in memory.
        plan: what they are answers to.
        target: who gives them.

    Raises:
        ConfigError: the file holds answers to something else, or cannot be read or written.
    """

    def __init__(self, path: Path | None, plan: Plan, target: Target) -> None:
        self._path = path
        self.answers: list[Answered] = []
        self._head = {
            "suite": plan.suite.digest,
            "model": target.model,
            "temperature": plan.temperature,
        }
        if path is None:
            return
        try:
            if path.exists() and path.stat().st_size:
                self._read(path)
            else:
                path.write_text(json.dumps(self._head) + "\n")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} does not hold answers of this benchmark") from None

    def _read(self, path: Path) -> None:
        # A line that was cut when the run was killed is not there yet.
        whole = path.read_text().rpartition("\n")[0]
        head, *lines = whole.splitlines() or [""]
        try:
            known = json.loads(head)
            self.answers = [Answered(**json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            raise ConfigError(f"{path} does not hold answers of this benchmark") from None
        if known != self._head:
            raise ConfigError(
                f"{path} holds answers to another suite, or of another model or temperature; give "
                "another file, or remove it"
            )
        path.write_text(whole + "\n")

    def add(self, answer: Answered) -> None:
        """One more."""
        self.answers.append(answer)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(answer)) + "\n")

    def left(self, plan: Plan) -> Iterator[tuple[str, Task]]:
        """What has no answer yet."""
        done = {(answer.effort, answer.task) for answer in self.answers}
        for number, task in enumerate(plan.suite.tasks):
            # Each effort is the first to bring a prompt as often as any other: later ones find it
            # in the server's cache.
            turn = number % len(plan.efforts)
            for effort in plan.efforts[turn:] + plan.efforts[:turn]:
                if (effort, task.id) not in done:
                    yield effort, task


async def run(
    target: Target, plan: Plan, results: Results, progress: Callable[[int, int], None]
) -> None:
    """Asks what is left.

    Args:
        target: whom.
        plan: what.
        results: what is there already; answers are added to it.
        progress: told how many answers there are, and of how many.

    Raises:
        BenchError: the server refuses a request, or is not there.
    """
    left = list(results.left(plan))
    total = len(left) + len(results.answers)
    gate = asyncio.Semaphore(plan.concurrency)
    headers = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    limits = httpx.Limits(max_connections=plan.concurrency)
    async with httpx.AsyncClient(
        base_url=target.url, timeout=TIMEOUT, trust_env=False, headers=headers, limits=limits
    ) as client:

        async def one(effort: str, task: Task) -> None:
            async with gate:
                results.add(await _ask(client, target, plan, effort, task))
                progress(len(results.answers), total)

        async with _cancelled_at_the_first_failure() as start:
            for effort, task in left:
                start(one(effort, task))


@contextlib.asynccontextmanager
async def _cancelled_at_the_first_failure() -> AsyncIterator[Start]:
    try:
        async with asyncio.TaskGroup() as group:
            yield group.create_task
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _asked(effort: str) -> dict[str, Any]:
    """The fields of an effort: a level, a number of thinking tokens, or auto in one of two ways."""
    if effort.isdigit():
        return {"reasoning_budget_tokens": int(effort)}
    if effort in (EARLY, WHOLE):
        return {"reasoning_effort": AUTO, "early_exit": effort == EARLY}
    return {"reasoning_effort": effort}


def _body(target: Target, plan: Plan, effort: str, task: Task) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": list(task.messages), **_asked(effort)}
    if target.model is not None:
        body["model"] = target.model
    if effort.startswith(
        AUTO
    ):  # a conversation of its own: what was chosen earlier is not asked again
        body["prompt_cache_key"] = f"bench-{secrets.token_hex(8)}"
    if plan.include_cost:
        body["include_cost"] = True
        # What one effort computed of a prompt is not to make the next one cheaper.
        body["cache_salt"] = effort
    if plan.temperature is not None:
        body["temperature"] = plan.temperature
    if plan.suite.max_tokens is not None:
        body["max_completion_tokens"] = plan.suite.max_tokens
    return body


async def _ask(
    client: httpx.AsyncClient, target: Target, plan: Plan, effort: str, task: Task
) -> Answered:
    body = _body(target, plan, effort, task)
    for retries in range(RETRIES + 1):
        sent = time.perf_counter()
        try:
            response = await client.post(CHAT, json=body)
        except httpx.HTTPError as error:
            if retries == RETRIES:
                raise BenchError(f"{target.url} does not answer: {error}") from None
        else:
            if response.status_code not in BUSY or retries == RETRIES:
                answer = _answered(response, effort, task)
                return replace(answer, seconds=time.perf_counter() - sent, retries=retries)
        await asyncio.sleep(RETRY_SECONDS * 2**retries)
    raise AssertionError("unreachable")


def _answered(response: httpx.Response, effort: str, task: Task) -> Answered:
    if response.status_code != httpx.codes.OK:
        raise BenchError(f"task {task.id}: {response.status_code}: {response.text[:300]}")
    try:
        found = response.json()
        choice, usage = found["choices"][0], found["usage"]
        message = choice["message"]
        details = usage.get("completion_tokens_details") or {}
        took = usage.get("cost_details") or {}
        return Answered(
            task=task.id,
            effort=effort,
            chosen=str((found.get("reasoning") or {}).get("effort", effort)),
            right=task.accepts(message.get("content") or ""),
            weight=task.weight,
            prompt_tokens=int(usage["prompt_tokens"]),
            output_tokens=int(usage["completion_tokens"]),
            thinking_tokens=int(details.get("reasoning_tokens") or 0),
            router_tokens=int(usage.get("router_tokens") or 0),
            seconds=0.0,
            retries=0,
            finish_reason=str(choice.get("finish_reason")),
            cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            machine_seconds=took.get("machine_seconds"),
            joules=usage.get("energy_joules"),
            baseline_joules=float(took.get("baseline_joules") or 0.0),
            unknown_seconds=float(took.get("unknown_seconds") or 0.0),
            energy_source=str(took.get("energy_source") or ""),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise BenchError(
            f"task {task.id}: not an OpenAI chat completion: {response.text[:200]!r}"
        ) from None
