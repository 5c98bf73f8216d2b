from __future__ import annotations

import pytest

from local_worker.engines.llama_cpp.kept import (
    FRUITLESS,
    LONG,
    SAMPLED,
    WORTH_KEEPING,
    Drop,
    KeptMatch,
    KeptPrefixes,
    Prefix,
)

SYSTEM = tuple(range(1000, 1100))


def kept_with(*prefixes, **options):
    kept = KeptPrefixes(1000, **options)
    for prefix in prefixes:
        key = kept.add(prefix)
        assert kept.stored(key, 100) == ()
    return kept


def test_the_longest_that_a_prompt_begins_with():
    kept = kept_with(Prefix((*SYSTEM, 1, 2, 3), ""), Prefix((*SYSTEM, 1, 2, 9, 9), ""))
    assert kept.find((*SYSTEM, 1, 2, 9, 7, 7), "") == KeptMatch(2, 103, 104)
    assert kept.find((*SYSTEM, 1, 2, 3, 7), "") == KeptMatch(1, 103, 103)
    assert kept.find(SYSTEM[:50], "") == KeptMatch(1, 50, 103)


def test_little_in_common_is_nothing():
    kept = kept_with(Prefix(SYSTEM, ""))
    assert kept.find((*SYSTEM[:20], 5, 5), "") is None
    assert kept.find((), "") is None


def test_a_state_is_used_as_a_whole_where_it_cannot_be_cut():
    kept = kept_with(Prefix((*SYSTEM, 1, 2), ""), Prefix(SYSTEM, ""), whole=True)
    assert kept.find((*SYSTEM, 1, 3), "") == KeptMatch(2, 100, 100)
    assert kept.find(SYSTEM[:80], "") is None


def test_salts_keep_to_themselves_and_pins_are_for_all():
    kept = kept_with(Prefix(SYSTEM, "a"), Prefix(SYSTEM[:70], None))
    assert kept.find(SYSTEM, "a") == KeptMatch(1, 100, 100)
    assert kept.find(SYSTEM, "b") == KeptMatch(2, 70, 70)


@pytest.mark.parametrize(
    ("new", "lent", "worth"),
    [
        (WORTH_KEEPING, True, True),
        (WORTH_KEEPING - 1, True, False),
        (LONG, False, True),
        (LONG - 1, False, False),
    ],
)
def test_what_is_worth_a_copy(new, lent, worth):
    kept = KeptPrefixes(1, unlent=LONG)
    assert kept.is_worth_it(Prefix(tuple(range(new)), ""), lent=lent) is worth
    on_top = Prefix((*SYSTEM, *range(new)), "")
    assert kept_with(Prefix(SYSTEM, ""), unlent=LONG).is_worth_it(on_top, lent=lent) is worth


def test_nothing_is_kept_twice_nor_without_room():
    kept = kept_with(Prefix((*SYSTEM, 1), ""))
    assert not kept.is_worth_it(Prefix(SYSTEM, ""), lent=True)
    assert kept.is_worth_it(Prefix(SYSTEM, "another tenant"), lent=True)
    assert not KeptPrefixes(0).is_worth_it(Prefix(SYSTEM, ""), lent=True)


def test_a_longer_one_takes_the_place_of_those_it_begins_with():
    kept = kept_with(
        Prefix((*SYSTEM, 9), ""), Prefix(SYSTEM, "b"), Prefix(SYSTEM, None), Prefix(SYSTEM, "")
    )
    longer = kept.add(Prefix((*SYSTEM, 1), ""))
    assert kept.stored(longer, 100) == (Drop(4),)
    assert kept.find((*SYSTEM, 1), "") == KeptMatch(longer, 101, 101)
    assert kept.find((*SYSTEM, 9), "") == KeptMatch(1, 101, 101)


def test_but_not_where_states_serve_as_a_whole_only():
    kept = kept_with(Prefix(SYSTEM, ""), whole=True)
    longer = kept.add(Prefix((*SYSTEM, 1), ""))
    assert kept.stored(longer, 100) == ()


def test_a_shorter_whole_state_is_another_one():
    kept = kept_with(Prefix((*SYSTEM, 1), ""), whole=True)
    assert kept.is_worth_it(Prefix(SYSTEM, ""), lent=True)
    assert not kept.is_worth_it(Prefix((*SYSTEM, 1), ""), lent=True)


def test_the_least_recently_used_ones_make_room():
    kept = kept_with(*(Prefix((n, *SYSTEM), "") for n in range(9)), Prefix((99, *SYSTEM), None))
    kept.touch(1)
    key = kept.add(Prefix((50, *SYSTEM), ""))
    assert kept.stored(key, 150) == (Drop(2), Drop(3))
    assert kept.size == 950
    assert kept.find((1, *SYSTEM), "") is None
    assert kept.find((0, *SYSTEM), "") == KeptMatch(1, 101, 101)


def test_what_is_larger_than_all_the_room_does_not_stay_but_a_pin_does():
    kept = kept_with()
    key = kept.add(Prefix(SYSTEM, ""))
    assert kept.stored(key, 2000) == (Drop(key),)
    assert kept.find(SYSTEM, "") is None
    pin = kept.add(Prefix(SYSTEM, None))
    assert kept.stored(pin, 2000) == ()
    assert kept.find(SYSTEM, "x") == KeptMatch(pin, 100, 100)


def test_one_that_is_larger_than_all_the_room_takes_nothing_elses_place():
    kept = kept_with(Prefix(SYSTEM, "a"), Prefix(SYSTEM, "b"))
    key = kept.add(Prefix((*SYSTEM, 1), "a"))
    assert kept.stored(key, 2000) == (Drop(key),)
    assert kept.size == 200


def test_what_cannot_be_fetched_is_forgotten_and_the_next_best_taken():
    kept = kept_with(Prefix((*SYSTEM, 1, 2), ""), Prefix(SYSTEM, ""), fetch=lambda key: key == 2)
    assert kept.find((*SYSTEM, 1, 2, 3), "") == KeptMatch(2, 100, 100)
    assert kept.size == 100


def test_what_is_still_to_be_copied_cannot_be_had_yet_but_is_not_copied_twice():
    kept = KeptPrefixes(1000, fetch=lambda key: pytest.fail("it is not there yet"))
    key = kept.add(Prefix(SYSTEM, ""))
    assert kept.find(SYSTEM, "") is None
    assert not kept.is_worth_it(Prefix(SYSTEM, ""), lent=True)
    other = kept_with()
    other.stored(other.add(Prefix(SYSTEM, "")), 10_000)
    assert kept.stored(key, 10) == ()
    assert kept.size == 10


def job(number):
    """A prompt that is like no other."""
    return Prefix(tuple(range(10_000 * number, 10_000 * number + WORTH_KEEPING)), "")


def taken(kept, count):
    """Which of so many jobs' prompts are worth it."""
    return [n for n in range(count) if kept.is_worth_it(job(n), lent=False)]


def test_short_prompts_that_nobody_asks_for_again_are_rarely_kept():
    kept = KeptPrefixes(1000)
    assert taken(kept, 100) == [*range(FRUITLESS), *range(SAMPLED - 1, 100, SAMPLED)]
    assert kept.is_worth_it(job(200), lent=True)
    assert kept.is_worth_it(Prefix(tuple(range(LONG)), ""), lent=False)


def test_once_one_is_asked_for_they_are_kept_again():
    kept = kept_with(Prefix(SYSTEM, ""))
    taken(kept, 100)
    kept.touch(1)
    assert len(taken(kept, 100)) == len(taken(KeptPrefixes(1000), 100))
    assert taken(kept_with(Prefix(SYSTEM, "")), FRUITLESS) == [*range(FRUITLESS)]
