"""What a parser finds in the text of calls, and what it knows about the tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: as the model writes it.
        parameters: a JSON schema of its arguments.
        strict: whether the client insists on the schema; calls follow it anyway.
    """

    name: str
    parameters: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """Another call begins."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the present call's arguments, which are a JSON object in the end."""

    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """What was meant as a call and is none, as the model wrote it.

    The text is empty where the call was given out before it broke off.
    """

    text: str


Event = Begun | Arguments | Malformed


class CallParser(Protocol):
    """Reads the text of calls, delimiters included, in pieces of any size."""

    def feed(self, text: str) -> list[Event]:
        """More text; what is certain now."""
        ...

    def end(self) -> list[Event]:
        """There is no more text."""
        ...
