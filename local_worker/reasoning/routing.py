"""`auto`: which effort a request gets, and why. Pure.

Rules come first, then what the conversation was given before, then the model's own choice: it is
asked in one step which effort the request needs, and the most probable label counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from local_worker.rules import EffortRule, When

AUTO = "auto"
"""The level that leaves the choice to rules and to the model."""

By = Literal["rule", "conversation", "model", "default"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules can ask of a request."""

    model: str | None
    response_format: str
    prompt_tokens: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tools: bool = False
    after_tool: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The effort of one request.

    Attributes:
        effort: a level.
        by: who decided.
        reason: in words.
        router_tokens: what asking the model took beyond the request's own prompt.
    """

    effort: str
    by: By
    reason: str
    router_tokens: int = 0


def by_rule(rules: Sequence[EffortRule], facts: Facts) -> Decision | None:
    """What the first rule that fits says."""
    for rule in rules:
        if _fits(rule.when, facts):
            return Decision(rule.effort, "rule", rule.name)
    return None


def _fits(when: When, facts: Facts) -> bool:
    return (
        when.model in (None, facts.model)
        and when.response_format in (None, facts.response_format)
        and when.tools in (None, facts.tools)
        and when.after_tool in (None, facts.after_tool)
        and (when.prompt_tokens_above is None or facts.prompt_tokens > when.prompt_tokens_above)
        and (when.prompt_tokens_below is None or facts.prompt_tokens < when.prompt_tokens_below)
        and all(facts.metadata.get(key) == value for key, value in when.metadata.items())
    )


def conversation_key(
    messages: Iterable[Mapping[str, Any]], cache_key: str | None, salt: str
) -> bytes:
    """Tells conversations apart: by the client's own key, or by how they began.

    Args:
        messages: of the request; what follows the first one of the user's does not matter.
        cache_key: the client's `prompt_cache_key`.
        salt: of the tenant, so that nobody's choice shows what others have asked.
    """
    beginning: list[tuple[Any, Any]] = []
    if cache_key is None:
        for message in messages:
            beginning.append((message.get("role"), message.get("content")))
            if message.get("role") == "user":
                break
    given = json.dumps([salt, cache_key, beginning])
    return hashlib.blake2b(given.encode(errors="surrogatepass"), digest_size=16).digest()


class Conversations:
    """What conversations were given, the latest ones.

    Args:
        most: to remember.
    """

    def __init__(self, most: int = 16384) -> None:
        self._most = most
        self._efforts: OrderedDict[bytes, str] = OrderedDict()

    def find(self, key: bytes) -> Decision | None:
        """The same effort as before."""
        effort = self._efforts.get(key)
        if effort is None:
            return None
        self._efforts.move_to_end(key)
        return Decision(effort, "conversation", "as it was for this conversation before")

    def remember(self, key: bytes, effort: str) -> None:
        """The effort that a conversation is given from now on."""
        self._efforts[key] = effort
        self._efforts.move_to_end(key)
        if len(self._efforts) > self._most:
            self._efforts.popitem(last=False)
