"""What a benchmark sends: scenarios as YAML, and the prompts that follow from one. Pure."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter, model_validator

from local_worker.bench.shipped import text_of
from local_worker.documents import Record, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORDS = (
    "river", "stone", "engine", "paper", "window", "garden", "market", "signal", "winter",
    "bridge", "copper", "lantern", "harbour", "ledger", "orchard", "valley",
)  # fmt: skip

SPARE = 1.25
"""Prompts are only about as long as asked."""

LEAST_CELLS = 8192
LEAST_SLOT = 256
"""KV cells of a slot: the sample that shows how many tokens a word has must fit, too."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
"""Prompts are texts without a template where that will do: every server takes them alike."""

REWRITE = "Write this text once more, word for word.\n\n{0}\n\n"


class Goal(Record):
    """What a request must hold to count as good, in seconds."""

    ttft: Seconds
    itl: Seconds


class Intruder(Record):
    """One more request that comes while the others stream.

    Attributes:
        after: seconds after the last of the others has begun to stream.
        tokens: of its prompt, about.
        max_tokens: of its answer.
    """

    after: Seconds
    tokens: Count
    max_tokens: Count = 4


class Function(Record):
    """What can be called.

    Attributes:
        name: of it.
        description: for the model.
        parameters: a JSON schema.
    """

    name: str
    description: str
    parameters: dict[str, Any]


class Kind(Record):
    """A kind of request.

    Attributes:
        own_tokens: of a prompt that no other one has, about.
        max_tokens: of each answer; it is always that long, unless it has a form or calls something.
        json_schema: that answers have to follow; they are sampled at temperature 1 then.
        tools: one of which has to be called, likewise.
        rewrites: whether it asks for its own tokens to be written once more.
    """

    own_tokens: Count
    max_tokens: Count
    json_schema: dict[str, Any] | None = None
    tools: tuple[Function, ...] = Field((), strict=False)
    rewrites: bool = False

    @model_validator(mode="after")
    def _check_kind(self) -> Kind:
        if (self.json_schema is not None) + bool(self.tools) + self.rewrites > 1:
            raise ValueError("takes one of `json_schema`, `tools` and `rewrites`")
        return self


class Scenario(Kind):
    """A load, all of one kind if `also` names no others.

    Attributes:
        name: for tables.
        about: a line on what it shows.
        clients: requests in flight at a time, each client sending its next one when the last one is
            over; with `rate`, at the most.
        requests: in total.
        rate: requests/s that arrive whether or not others are done; None is as fast as clients go.
        shared_tokens: that all prompts begin with, about.
        also: other kinds of request, which take turns with this one.
        guesses: whether this server may guess tokens. Random weights go round in circles, which is
            easy to guess: a scenario that is not about that would be flattered.
        intruder: a long prompt among them.
        neighbours: processes that each keep a core of this machine busy during the run.
        goal: for the goodput.
    """

    name: str
    about: str
    clients: Count
    requests: Count
    rate: Annotated[float, Field(gt=0)] | None = None
    shared_tokens: Annotated[int, Field(ge=0)] = 0
    also: tuple[Kind, ...] = Field((), strict=False)
    guesses: bool = False
    intruder: Intruder | None = None
    neighbours: Annotated[int, Field(ge=0)] = 0
    goal: Goal | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of request, in turns."""
        return (self, *self.also)

    @property
    def concurrency(self) -> int:
        """Requests in flight at the most: the intruder comes beside the clients, not after them."""
        return self.clients + (self.intruder is not None)

    @property
    def cells(self) -> int:
        """KV cells that hold all clients' requests at once, nothing shared, with room to spare."""
        one = self.shared_tokens + max(kind.own_tokens + kind.max_tokens for kind in self.kinds)
        long = self.intruder.tokens + self.intruder.max_tokens if self.intruder else 0
        each = int(SPARE * max(one, long)) + 64
        return max(LEAST_CELLS, self.concurrency * max(LEAST_SLOT, each))


def load_scenario(name: str) -> Scenario:
    """A shipped scenario by name, or one from a file.

    Raises:
        ConfigError: there is none, or it has a key or value that makes no sense.
    """
    place, text = text_of("scenario", name)
    return parse(TypeAdapter(Scenario), text, place)


SAMPLE_WORDS = 16


def sample() -> str:
    """A text of `SAMPLE_WORDS` words like those of the prompts, to see how many tokens it has."""
    return " ".join(_words(random.Random(0), SAMPLE_WORDS))  # noqa: S311 - for prompts


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Attributes:
        path: of the endpoint.
        body: but for the model's name, and that it is to be streamed.
    """

    path: str
    body: Mapping[str, Any]


def requests(
    scenario: Scenario, seed: int, tokens_per_word: float
) -> tuple[tuple[Request, ...], Request | None]:
    """The requests of one run, and the intruder's.

    Another seed gives other prompts, the shared part included: no server can have seen them.
    """
    rng = random.Random(seed)  # noqa: S311 - for prompts

    def text(tokens: int) -> str:
        return " ".join(_words(rng, round(tokens / tokens_per_word) or (1 if tokens else 0)))

    shared = text(scenario.shared_tokens)
    found = []
    for kind, _ in zip(itertools.cycle(scenario.kinds), range(scenario.requests), strict=False):
        own = text(kind.own_tokens)
        found.append(_request(kind, f"{shared} {REWRITE.format(own) if kind.rewrites else own}"))
    long = scenario.intruder
    if long is None:
        return tuple(found), None
    kind = Kind(own_tokens=long.tokens, max_tokens=long.max_tokens)
    return tuple(found), _request(kind, text(long.tokens))


def _request(kind: Kind, prompt: str) -> Request:
    prompt, max_tokens = prompt.strip(), {"max_tokens": kind.max_tokens}
    if kind.tools:
        tools = [{"type": "function", "function": tool.model_dump()} for tool in kind.tools]
        chat = {
            "messages": [{"role": "user", "content": prompt}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        called = {"tools": tools, "tool_choice": "required", "temperature": 1}
        return Request(CHAT, chat | called | max_tokens)
    if kind.json_schema is not None:
        held = {"json_schema": kind.json_schema, "temperature": 1}
        return Request(COMPLETIONS, {"prompt": prompt} | held | max_tokens)
    full = {"temperature": 0, "ignore_eos": True}
    return Request(COMPLETIONS, {"prompt": prompt} | full | max_tokens)


def _words(rng: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        yield f"{rng.choice(WORDS)}{rng.randrange(100)}"
