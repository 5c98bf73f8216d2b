"""Prefixes that are kept outside the KV buffer, where they slow no step down. Pure.

CACHED slot -> KEPT -> (loaded into any number of slots) -> gone, least recently used first

A prefix comes here when its slot is needed and it is worth the time to copy it. In memory that is
little; a file it is worth if others have begun with it, or if it is long. What is here belongs to
one salt, or to nobody in particular: a prefix that the operator has pinned serves everybody, and
stays.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.tokens import common_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HEAD = 32
"""Leading tokens by which a prefix is looked up."""

WORTH_KEEPING = 64
"""Tokens that are not kept yet: fewer are computed as soon as copied."""

LONG = 256
"""Tokens that are worth a file even if nobody has begun with them so far."""

FRUITLESS, SAMPLED = 4, 8
"""Short prefixes that nobody has begun with: so many are kept for nothing, and then one of so many.
Where jobs share nothing, copying 150 tokens out of the way takes 3 % of a job's time: 1 ms for what
is copied, and up to 40 for memory that nobody has touched yet, on a virtual machine."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens in the order in which they were computed.

    Attributes:
        salt: whose they are; None for everybody's.
    """

    token_ids: tuple[int, ...]
    salt: str | None

    @property
    def pinned(self) -> bool:
        """Whether it stays, whatever else comes."""
        return self.salt is None


@dataclass(frozen=True, slots=True)
class Keep:
    """What `slot` holds, all of it, is copied under `key`."""

    slot: int
    key: int
    prefix: Prefix


@dataclass(frozen=True, slots=True)
class Load:
    """`slot`, which is empty, gets the first `length` tokens of what is kept under `key`."""

    key: int
    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class Drop:
    """What is kept under `key` is not wanted any more."""

    key: int


@dataclass(frozen=True, slots=True)
class KeptMatch:
    """What is kept and begins like a prompt.

    Attributes:
        key: of the state.
        length: tokens that agree.
        cells: that loading it takes, before it is cut to that length.
    """

    key: int
    length: int
    cells: int


class KeptPrefixes:
    """What is kept, by its tokens.

    Args:
        max_bytes: of all states together; pinned ones may exceed it.
        whole: whether a state can be used as a whole only, as those of windowed and recurrent
            memories.
        unlent: tokens that are worth a copy even if nobody has begun with them so far.
        fetch: makes sure that a state can be had, before somebody is promised it.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        whole: bool = False,
        unlent: int = WORTH_KEEPING,
        fetch: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._max_bytes = max_bytes
        self._whole = whole
        self._unlent = unlent
        self._fetch = fetch
        self._prefixes: dict[int, Prefix] = {}  # least recently used first
        self._sizes: dict[int, int | None] = {}  # None while the state is still to be copied
        self._by_head: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._last_key = 0
        self._short = 0  # that could be kept since something was last asked for

    @property
    def size(self) -> int:
        """Bytes of all states."""
        return sum(size or 0 for size in self._sizes.values())

    def find(self, token_ids: Sequence[int], salt: str) -> KeptMatch | None:
        """The longest one that a prompt begins with."""
        while (best := self._longest(tuple(token_ids), salt)) is not None:
            if self._fetch(best.key):
                return best
            self._forget(best.key)
        return None

    def _longest(self, token_ids: tuple[int, ...], salt: str) -> KeptMatch | None:
        best = None
        for key, prefix in self._alike(token_ids):
            length = common_length(prefix.token_ids, token_ids)
            usable = length == len(prefix.token_ids) if self._whole else length >= HEAD
            if not usable or prefix.salt not in (salt, None) or self._sizes[key] is None:
                continue
            match = KeptMatch(key, length, len(prefix.token_ids))
            if best is None or (match.length, -match.cells) > (best.length, -best.cells):
                best = match
        return best

    def _alike(self, token_ids: tuple[int, ...]) -> Iterator[tuple[int, Prefix]]:
        for key in self._by_head.get(token_ids[:HEAD], ()):
            yield key, self._prefixes[key]

    def is_worth_it(self, prefix: Prefix, *, lent: bool) -> bool:
        """Whether to copy what is about to be lost; `lent` says that others have begun with it.

        To be asked once: of short ones that nobody has begun with, not each is.
        """
        if self._max_bytes <= 0 and not prefix.pinned:
            return False
        others = [
            other.token_ids
            for _, other in self._alike(prefix.token_ids)
            if other.salt in (prefix.salt, None)
        ]
        if self._whole:
            others = [token_ids for token_ids in others if token_ids == prefix.token_ids]
        kept = (common_length(token_ids, prefix.token_ids) for token_ids in others)
        new = len(prefix.token_ids) - max(kept, default=0)
        if prefix.pinned:
            return new > 0
        if new < (WORTH_KEEPING if lent else self._unlent):
            return False
        return lent or new >= LONG or self._may_be_asked_for()

    def _may_be_asked_for(self) -> bool:
        """Of one more short prefix, by what became of those before it."""
        self._short += 1
        return self._short <= FRUITLESS or self._short % SAMPLED == 0

    def add(self, prefix: Prefix) -> int:
        """Takes a prefix in whose state is to be copied; its key. `stored` says when it is."""
        self._last_key += 1
        key = self._last_key
        self._prefixes[key] = prefix
        self._sizes[key] = None
        self._by_head[prefix.token_ids[:HEAD]].append(key)
        return key

    def stored(self, key: int, size: int) -> tuple[Drop, ...]:
        """The state of that many bytes lies there; others may have to go, or itself."""
        self._sizes[key] = size
        if size > self._max_bytes and not self._prefixes[key].pinned:
            self._forget(key)  # instead of everything else
            return (Drop(key),)
        drops = [] if self._whole else [Drop(other) for other in self._contained(key)]
        for drop in drops:
            self._forget(drop.key)
        for other, prefix in list(self._prefixes.items()):
            if self.size <= self._max_bytes:
                break
            if prefix.pinned or self._sizes[other] is None:
                continue
            self._forget(other)
            drops.append(Drop(other))
        return tuple(drops)

    def _contained(self, key: int) -> list[int]:
        """What the state of that key can be cut to."""
        longer = self._prefixes[key]
        return [
            other
            for other, prefix in self._alike(longer.token_ids)
            if other != key
            and prefix.salt == longer.salt
            and self._sizes[other] is not None
            and common_length(prefix.token_ids, longer.token_ids) == len(prefix.token_ids)
        ]

    def touch(self, key: int) -> None:
        """It has been used."""
        self._short = 0
        self._prefixes[key] = self._prefixes.pop(key)

    def _forget(self, key: int) -> None:
        prefix = self._prefixes.pop(key)
        del self._sizes[key]
        head = prefix.token_ids[:HEAD]
        self._by_head[head].remove(key)
        if not self._by_head[head]:
            del self._by_head[head]
