from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from local_worker.engines.llama_cpp.radix import (
    RECURRENT,
    Match,
    PrefixTree,
)
from local_worker.tokens import common_length


def tree_of(*texts, window=None, salt=""):
    """Slot i has computed text i; nothing is shared but by chance of the tree's own making."""
    tree = PrefixTree(window)
    for slot, text in enumerate(texts):
        put(tree, slot, text, salt)
    return tree


def put(tree, slot, text, salt=""):
    """As the scheduler does it: share what there is, compute the rest."""
    ids = [ord(c) for c in text]
    match = tree.match(ids, salt)
    if match is not None:
        tree.share(match.slot, slot, match.length)
    rest = ids[match.length :] if match is not None else ids
    tree.extend(slot, rest, salt)


def match(tree, text, salt=""):
    return tree.match(tuple(map(ord, text)), salt)


def test_an_empty_tree_lends_nothing():
    assert match(PrefixTree(), "abc") is None


def test_what_is_shared_is_there_once():
    tree = tree_of("system A", "system B", "system B and more")
    assert tree.size == len("system A") + len("B") + len(" and more")
    assert match(tree, "system C").length == len("system ")
    assert match(tree, "system B and so").length == len("system B and ")
    assert match(tree, "x") is None


def test_a_slot_lends_any_part_of_what_it_has():
    assert match(tree_of("abcdef"), "abcx") == Match(0, 3)


def test_dropping_a_slot_frees_what_nobody_else_holds():
    tree = tree_of("system A", "system B")
    assert tree.exclusive(0) == 1
    tree.drop(0)
    assert tree.size == len("system B")
    assert match(tree, "system A") == Match(1, len("system "))
    tree.drop(1)
    assert tree.size == 0
    assert match(tree, "system B") is None
    tree.drop(1)  # a slot that it does not know is no error


def test_trimming_keeps_the_beginning():
    tree = tree_of("abcdef", "abcxyz")
    tree.trim(0, 5)
    assert (tree.length(0), tree.size) == (5, 5 + 3)
    tree.trim(0, 2)
    assert (tree.length(0), tree.size) == (2, 6)
    assert match(tree, "abcd").length == 3  # of the other slot


def test_a_running_slot_grows_at_its_end():
    tree = tree_of("abc")
    tree.extend(0, list(map(ord, "def")), "")
    assert match(tree, "abcdef") == Match(0, 6)
    tree.share(0, 1, 6)
    tree.extend(0, [1], "")
    tree.extend(1, [2], "")
    assert tree.size == 8


def test_the_same_tokens_computed_twice_are_there_twice():
    tree = tree_of("abc")
    tree.extend(1, list(map(ord, "abd")), "")
    assert (tree.length(1), tree.size) == (3, 6)
    assert match(tree, "abdx") == Match(1, 3)
    assert match(tree, "abcx") == Match(0, 3)
    tree.drop(0)
    assert (tree.size, match(tree, "abcx")) == (3, Match(1, 2))


def test_tenants_cannot_notice_each_other():
    tree = PrefixTree()
    put(tree, 0, "secret", salt="a")
    assert match(tree, "secret", salt="b") is None
    assert match(tree, "secret", salt="a") == Match(0, 6)
    tree.drop(0)
    assert tree._roots == {}


def test_a_window_that_has_moved_on_lends_only_the_whole():
    tree = tree_of("abcdef", window=4)
    assert match(tree, "abcx") is None
    assert match(tree, "abcdefg") == Match(0, 6)
    short = tree_of("abc", window=4)
    assert match(short, "abx") == Match(0, 2)


def test_a_recurrent_state_lends_only_the_whole():
    tree = tree_of("abcdef", window=RECURRENT)
    assert match(tree, "abcdex") is None
    assert match(tree, "abcdefg") == Match(0, 6)
    tree.share(0, 1, 6)  # as a snapshot, after which the slot goes on
    tree.extend(0, [1, 2], "")
    assert match(tree, "abcdefg") == Match(1, 6)


def test_a_state_that_has_gone_on_is_not_lent_whatever_the_tree_knows():
    """While a sequence decodes, the tree knows its prompt only."""
    for window in (RECURRENT, 4):
        tree = tree_of("abcdef", window=window)
        tree.reach(0, 9)
        assert match(tree, "abcdefgh") is None
    assert match(tree_of("abcdef"), "abcdefgh") == Match(0, 6)


def test_what_several_slots_would_hold():
    tree = tree_of("abcdef", "abcxyz")
    assert tree.shared_after(0, 3) == 3
    assert tree.shared_after(0, 5) == 5
    assert tree.shared_after(1, 6) == 6


WORDS = st.text("ab", min_size=1, max_size=12)


@given(st.lists(st.tuples(st.integers(0, 5), WORDS, st.sampled_from("xy"), st.integers(0, 3))))
def test_it_agrees_with_cells(steps):
    """Against the plain thing: for each slot its text, and the cell of each token."""
    tree, texts, cells = PrefixTree(), dict[int, tuple[str, str]](), dict[int, list[int]]()
    fresh = itertools.count()
    for slot, text, salt, action in steps:
        if slot not in texts:
            found = match(tree, text, salt)
            shared = cells[found.slot][: found.length] if found else []
            put(tree, slot, text, salt)
            texts[slot] = (text, salt)
            cells[slot] = shared + [next(fresh) for _ in text[len(shared) :]]
        elif action == 0:
            tree.drop(slot)
            del texts[slot], cells[slot]
        elif action == 1:
            have, own = texts[slot]
            tree.extend(slot, list(map(ord, text)), own)
            texts[slot] = (have + text, own)
            cells[slot] = cells[slot] + [next(fresh) for _ in text]
        elif action == 2:
            have, own = texts[slot]
            length = max(1, len(have) // 2)
            tree.trim(slot, length)
            texts[slot], cells[slot] = (have[:length], own), cells[slot][:length]
        every = [cell for held in cells.values() for cell in held]
        assert tree.size == len(set(every))
        for one, held in cells.items():
            assert tree.exclusive(one) == sum(every.count(cell) == 1 for cell in held)
        for query in ("abab", "b" * 12, text):
            lengths = [common_length(query, have) for have, own in texts.values() if own == salt]
            found = match(tree, query, salt)
            assert (found.length if found else 0) == max(lengths, default=0)
            if found:
                assert texts[found.slot][0][: found.length] == query[: found.length]
