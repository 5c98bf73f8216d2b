"""What a benchmark sends: scenarios as YAML, and the prompts that follow from one. Pure."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from local_worker.bench.shipped import text_of
from local_worker.documents import Record, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class Scenario(Record):
    """A load.

    Attributes:
        name: for tables.
        about: a line on what it shows.
        clients: requests in flight at a time, each client sending its next one when the last one is
            over; with `rate`, at the most.
        requests: in total.
        rate: requests/s that arrive whether or not others are done; None is as fast as clients go.
        shared_tokens: that all prompts begin with, about.
        own_tokens: that follow, different in each, about.
        max_tokens: of each answer; it is always that long, unless it has a form.
        json_schema: that answers have to follow; they are sampled at temperature 1 then.
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
    own_tokens: Count
    max_tokens: Count
    json_schema: dict[str, Any] | None = None
    guesses: bool = False
    intruder: Intruder | None = None
    neighbours: Annotated[int, Field(ge=0)] = 0
    goal: Goal | None = None

    @property
    def concurrency(self) -> int:
        """Requests in flight at the most: the intruder comes beside the clients, not after them."""
        return self.clients + (self.intruder is not None)

    @property
    def cells(self) -> int:
        """KV cells that hold all clients' requests at once, nothing shared, with room to spare."""
        one = self.shared_tokens + self.own_tokens + self.max_tokens
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


def prompts(
    scenario: Scenario, seed: int, tokens_per_word: float
) -> tuple[tuple[str, ...], str | None]:
    """The prompts of one run, and the intruder's.

    Another seed gives other prompts, the shared part included: no server can have seen them.
    """
    rng = random.Random(seed)  # noqa: S311 - for prompts

    def text(tokens: int) -> str:
        return " ".join(_words(rng, round(tokens / tokens_per_word) or (1 if tokens else 0)))

    shared = text(scenario.shared_tokens)
    own = [f"{shared} {text(scenario.own_tokens)}".strip() for _ in range(scenario.requests)]
    intruder = scenario.intruder
    return tuple(own), text(intruder.tokens) if intruder else None


def _words(rng: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        yield f"{rng.choice(WORDS)}{rng.randrange(100)}"
