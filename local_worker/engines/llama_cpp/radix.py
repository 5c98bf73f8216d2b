"""Which tokens lie computed in which slots: a radix tree over all of them. Pure.

    tree:   root -- "You are a clerk..." --+-- "Invoice 1 ..."   held by slot 3
                                           +-- "Invoice 2 ..."   held by slots 4, 5

In a unified KV buffer a cell belongs to any number of slots, so a prefix that many sequences share
is there once, and once in this tree: its size is what the buffer really holds. Where two slots have
computed the same tokens each for itself, they lie in the buffer twice, and are two edges here.

Trees are kept apart by salt: what one tenant has computed cannot even be noticed by another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_worker.tokens import common_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

RECURRENT = 0
"""The window of a model whose state is of its last token alone."""


@dataclass(slots=True, eq=False)
class Node:
    """An edge of the tree with what hangs on it.

    Attributes:
        token_ids: of the edge; empty only at a root.
        parent: None at a root.
        slots: those whose tokens lead through the whole edge.
        children: by their first token.
    """

    token_ids: tuple[int, ...]
    parent: Node | None
    slots: set[int] = field(default_factory=set)
    children: dict[int, list[Node]] = field(default_factory=dict)

    def adopt(self, child: Node) -> None:
        """Hangs a child on this node."""
        self.children.setdefault(child.token_ids[0], []).append(child)

    def disown(self, child: Node) -> None:
        """Takes it away again."""
        siblings = self.children[child.token_ids[0]]
        siblings.remove(child)
        if not siblings:
            del self.children[child.token_ids[0]]


@dataclass(frozen=True, slots=True)
class Match:
    """The slot that lends the longest usable prefix, and its length in tokens."""

    slot: int
    length: int


@dataclass(slots=True)
class _Held:
    """Where a slot's path ends, how many tokens it has, and in whose tree."""

    node: Node
    length: int
    salt: str


class PrefixTree:
    """Computed tokens of all slots.

    Args:
        window: of the model's sliding-window attention in tokens; `RECURRENT` for a model with a
            recurrent state; None where every layer keeps every token. It decides which part of a
            slot is still whole: a window has moved on, a state knows no earlier one.
    """

    def __init__(self, window: int | None = None) -> None:
        self._window = window
        self._roots: dict[str, Node] = {}
        self._held: dict[int, _Held] = {}
        self._reached: dict[int, int] = {}
        self.size = 0

    def length(self, slot: int) -> int:
        """Tokens of that slot in the tree; 0 for one that it does not know."""
        held = self._held.get(slot)
        return held.length if held is not None else 0

    def tokens(self, slot: int) -> tuple[int, ...]:
        """Those of that slot in the tree."""
        held = self._held.get(slot)
        edges = [] if held is None else [node.token_ids for node in _path(held.node)]
        return tuple(token for edge in reversed(edges) for token in edge)

    def salt(self, slot: int) -> str:
        """Whose tree that slot is in."""
        return self._held[slot].salt

    def reach(self, slot: int, length: int) -> None:
        """The slot's memory has come so far, whether or not the tree knows the tokens."""
        self._reached[slot] = length

    def lends(self, slot: int, length: int) -> bool:
        """Whether a sequence can go on from the first `length` tokens of that slot.

        The token after them attends to the last `window` before it, and of those a slot has lost
        the ones that its own next token would not look at any more.
        """
        if length > self.length(slot):
            return False
        reached = self._reached[slot]
        return self._window is None or reached == length or reached < self._window

    def match(self, token_ids: Sequence[int], salt: str) -> Match | None:
        """The longest prefix that some slot can lend; None where there is none."""
        best = Match(-1, 0)
        for node, depth in self._walk(tuple(token_ids), salt):
            if depth > best.length:
                usable = next((slot for slot in node.slots if self.lends(slot, depth)), None)
                if usable is not None:
                    best = Match(usable, depth)
        return best if best.length else None

    def _walk(self, token_ids: tuple[int, ...], salt: str) -> Iterator[tuple[Node, int]]:
        """The edges along a sequence, each with the tokens that agree up to its end or the fork."""
        root = self._roots.get(salt)
        todo = [(root, 0)] if root is not None else []
        while todo:
            above, depth = todo.pop()
            if depth == len(token_ids):
                continue
            for node in above.children.get(token_ids[depth], ()):
                stretch = token_ids[depth : depth + len(node.token_ids)]
                alike = common_length(node.token_ids, stretch)
                yield node, depth + alike
                if alike == len(node.token_ids):
                    todo.append((node, depth + alike))

    def share(self, source: int, slot: int, length: int) -> None:
        """A new slot gets the first `length` tokens of another one."""
        assert slot not in self._held, slot
        assert 0 < length <= self.length(source), (source, length)
        lender = self._held[source]
        node = self._node_at(lender.node, lender.length, length)
        self._held[slot] = _Held(node, length, lender.salt)
        self._reached[slot] = length
        for above in _path(node):
            above.slots.add(slot)

    def _node_at(self, node: Node, depth: int, length: int) -> Node:
        """The node on the way up from `node` that ends at `length`, split off if need be."""
        while depth - len(node.token_ids) >= length:
            depth -= len(node.token_ids)
            assert node.parent is not None
            node = node.parent
        if depth > length:
            node = self._split(node, len(node.token_ids) - (depth - length))
        return node

    def _split(self, node: Node, at: int) -> Node:
        """Cuts an edge in two; returns the upper part."""
        parent = node.parent
        assert parent is not None
        parent.disown(node)
        upper = Node(node.token_ids[:at], parent, set(node.slots))
        node.token_ids, node.parent = node.token_ids[at:], upper
        parent.adopt(upper)
        upper.adopt(node)
        return upper

    def extend(self, slot: int, token_ids: Sequence[int], salt: str) -> None:
        """The slot has computed these tokens after what it has."""
        if not token_ids:
            return
        held = self._held.get(slot)
        node = held.node if held is not None else self._roots.setdefault(salt, Node((), None))
        length = (held.length if held is not None else 0) + len(token_ids)
        if node.slots == {slot} and not node.children:
            node.token_ids += tuple(token_ids)
        else:
            child = Node(tuple(token_ids), node, {slot})
            node.adopt(child)
            node = child
        self._held[slot] = _Held(node, length, salt)
        self._reached[slot] = max(length, self._reached.get(slot, 0))
        self.size += len(token_ids)

    def drop(self, slot: int) -> None:
        """The slot is free again; cells that nobody else holds are, too."""
        self._reached.pop(slot, None)
        held = self._held.pop(slot, None)
        if held is None:
            return
        for node in list(_path(held.node)):
            self._let_go(node, slot)
        if not self._roots[held.salt].children:  # salts may be as many as tenants
            del self._roots[held.salt]

    def trim(self, slot: int, length: int) -> None:
        """The slot keeps its first `length` tokens."""
        assert 0 < length <= self.length(slot), (slot, length)
        held = self._held[slot]
        kept = self._node_at(held.node, held.length, length)
        node = held.node
        while node is not kept:
            above = node.parent
            assert above is not None
            self._let_go(node, slot)
            node = above
        self._held[slot] = _Held(kept, length, held.salt)
        self._reached[slot] = length

    def _let_go(self, node: Node, slot: int) -> None:
        node.slots.discard(slot)
        if not node.slots:
            assert node.parent is not None
            assert not node.children, "whoever holds a child holds its parent"
            self.size -= len(node.token_ids)
            node.parent.disown(node)

    def exclusive(self, slot: int) -> int:
        """Cells that dropping this slot would free."""
        held = self._held.get(slot)
        if held is None:
            return 0
        return sum(len(n.token_ids) for n in _path(held.node) if n.slots == {slot})

    def held_only_by(self, slots: AbstractSet[int]) -> int:
        """Cells that none but these slots hold."""
        return sum(len(n.token_ids) for n in self._nodes() if n.slots <= slots)

    def shared_after(self, source: int, length: int) -> int:
        """Cells that several slots would hold if one more got so much of that one."""
        held = self._held[source]
        depth, fresh = held.length, 0
        for node in _path(held.node):
            start = depth - len(node.token_ids)
            if len(node.slots) == 1:
                fresh += max(0, min(depth, length) - start)
            depth = start
        return fresh + sum(len(n.token_ids) for n in self._nodes() if len(n.slots) > 1)

    def holders(self, slot: int) -> AbstractSet[int]:
        """The slots that hold all tokens of this one, itself among them."""
        return self._held[slot].node.slots

    def _nodes(self) -> Iterator[Node]:
        nodes = list(self._roots.values())
        while nodes:
            node = nodes.pop()
            if node.parent is not None:
                yield node
            nodes += (child for siblings in node.children.values() for child in siblings)


def _path(node: Node) -> Iterator[Node]:
    """The node and all above it, without the root."""
    while node.parent is not None:
        parent = node.parent
        yield node
        node = parent
