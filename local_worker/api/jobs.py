"""What chat and text completions share: making the sequences of a request, and running them."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_worker.api import translate
from local_worker.api.choices import collect
from local_worker.api.events import EventStream, unless_gone
from local_worker.api.grammar import asked_grammar
from local_worker.api.render import usage
from local_worker.types import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence
    from contextlib import ExitStack

    from starlette.requests import Request

    from local_worker.api.choices import Choice
    from local_worker.api.model import ServedModel
    from local_worker.api.schemas import GenerationBody
    from local_worker.api.state import ApiState
    from local_worker.economics.books import Account, Order
    from local_worker.engine import Engine
    from local_worker.types import Grammar, PromptSegment, ThinkingParams

GONE = 499
"""Status for a client that has left; nobody reads it but a log (nginx's convention)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sequence may do.

    Attributes:
        max_tokens: output tokens.
        logprobs: alternatives to report per token; None for no logprobs.
        thinking: None leaves thoughts in the text.
        grammar: what the answer must look like.
        calls_tools: calls go out apart from the text.
        adapter: the LoRA adapter to compute with.
        cache_salt: what is computed is shared only with requests that have the same one.
    """

    max_tokens: int
    logprobs: int | None = None
    thinking: ThinkingParams | None = None
    grammar: Grammar | None = None
    calls_tools: bool = False
    adapter: str | None = None
    cache_salt: str = ""


@contextmanager
def admitted(state: ApiState, request: Request, sequences: int) -> Iterator[Account]:
    """Takes a request in: it is counted, and kept account of, for the duration of the context.

    Raises:
        UnavailableError: too many are in flight, or the server is stopping.
    """
    given = request.headers.get("authorization", "").partition(" ")[2].strip()
    key = given if state.config.api_keys else ""
    route = request.url.path.removeprefix("/v1/")
    with (
        state.admission.admit(sequences),
        state.books.open(route, key, state.model.name) as account,
    ):
        yield account


async def tokenize_prompt(
    engine: Engine, segments: Sequence[PromptSegment], param: str, *, add_special: bool = False
) -> tuple[int, ...]:
    """Token ids of a prompt.

    Raises:
        ContextLengthError: no context of this model could hold it; no time went into tokens.
    """
    size = sum(len(segment.text.encode()) for segment in segments)
    translate.check_prompt_size(size, engine.info, param)
    return await engine.tokenize(segments, add_special=add_special)


async def checked_grammar(state: ApiState, body: GenerationBody) -> Grammar | None:
    """What the answer must look like, seen to be something that the engine can follow.

    Raises:
        InvalidParameterError: it cannot, or the request contradicts itself.
    """
    grammar = asked_grammar(body)
    if grammar is None:
        return None
    translate.check_text(grammar.source, grammar.field)
    obstacle = dict(state.model.limits).get("structured_outputs")
    if obstacle is not None:
        raise translate.not_served(grammar.field, obstacle)
    await state.engine.check(grammar)
    return grammar


def check_request(model: ServedModel, body: GenerationBody) -> None:
    """What can be said of a request before anything is computed for it.

    Raises:
        InvalidParameterError: a sampling field or stop string that cannot be used.
    """
    translate.check_limits(body, model.limits)
    translate.stop_strings(body)
    defaults = model.card.sampling.non_thinking
    translate.sampling_params(body, translate.SamplingFacts(defaults, model.vocab_size, None))


def sequences(
    model: ServedModel, body: GenerationBody, prompt: tuple[int, ...], limits: Limits
) -> tuple[GenerationRequest, ...]:
    """The `n` sequences of a prompt; where the request has a seed, each has one of its own.

    Raises:
        InvalidParameterError: a sampling field, stop string or min_tokens that cannot be used.
    """
    translate.check_min_tokens(body, limits.max_tokens)
    translate.check_limits(body, model.limits)
    thinks = limits.thinking is not None and limits.thinking.budget != 0
    defaults = model.card.sampling
    facts = translate.SamplingFacts(
        defaults=defaults.thinking if thinks else defaults.non_thinking,
        vocab_size=model.vocab_size,
        logprobs=limits.logprobs,
    )
    sampling = translate.sampling_params(body, facts)
    return tuple(
        GenerationRequest(
            request_id=secrets.token_hex(12),
            prompt_token_ids=prompt,
            max_tokens=limits.max_tokens,
            sampling=translate.with_seed_of(sampling, index),
            stop=translate.stop_strings(body),
            thinking=limits.thinking,
            grammar=limits.grammar,
            calls_tools=limits.calls_tools,
            adapter=limits.adapter,
            cache_salt=limits.cache_salt,
            background=body.service_tier == "flex",
        )
        for index in range(body.n)
    )


@dataclass(frozen=True, slots=True)
class Job:
    """Sequences ready for the engine, and how they are accounted for.

    Attributes:
        order: the sequences, and what is counted about them.
        account: of the request.
        include_cost: whether the response says what it cost.
    """

    order: Order
    account: Account
    include_cost: bool

    def stream(
        self,
        state: ApiState,
        payloads: AsyncGenerator[dict[str, Any], None],
        admitted: ExitStack,
    ) -> EventStream:
        """A response that streams; what was `admitted` ends with its last byte."""
        state.metrics.prompted(self.order.prompt_tokens)
        self.account.order = self.order
        return EventStream(payloads, on_end=admitted.pop_all().close)

    async def run(self, state: ApiState, request: Request) -> list[Choice]:
        """All sequences to their ends. Raises `ClientGoneError` when the client leaves first."""
        state.metrics.prompted(self.order.prompt_tokens)
        self.account.order = self.order
        running = collect(self.account, self.order.requests)
        choices = await unless_gone(running, request.receive)
        for choice in choices:
            state.metrics.finished(choice, self.order.effort)
        return choices

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Tokens, and what they cost where that is wanted; the choices have ended."""
        return usage(self.order, choices, self.account.bill() if self.include_cost else None)


def wants_usage(job: Job, body: GenerationBody) -> bool:
    """Whether a stream ends with its usage; where its cost is to be told, that is there."""
    options = body.stream_options
    return job.include_cost or (options is not None and options.include_usage)


def make_job(state: ApiState, body: GenerationBody, account: Account, order: Order) -> Job:
    """A job; whether it tells its cost is the request's choice, else the server's."""
    wanted = state.config.include_cost if body.include_cost is None else body.include_cost
    return Job(order, account, wanted)
