from __future__ import annotations

from local_worker.engines.llama_cpp.filling import FORGET, Filling, choose


def learnt(seconds, *, separate=False):
    filling = Filling()
    filling.change(separate=separate)
    for rows, tokens, taken in seconds:
        filling.observe(rows, tokens, taken, decode=1.0)
    return filling


def test_chunks_fill_up_the_rows_that_streams_leave():
    assert Filling().counts(7, 60) == [9, 25, 41, 57]
    assert Filling().counts(16, 40) == [16, 32]


def test_one_of_a_few_tokens_is_not_worth_a_step():
    assert Filling().counts(9, 30) == [23]
    assert Filling().counts(8, 30) == [8, 24]


def test_where_cells_are_separate_they_fill_up_a_pass_of_their_own():
    assert learnt([], separate=True).counts(7, 60) == [17, 33, 49]


def test_what_steps_take_is_known_by_their_rows():
    filling = learnt([(7, 9, 2.0), (7, 25, 5.0)])
    assert [filling.seconds(7, n, 1.0) for n in (9, 25, 41)] == [2.0, 5.0, None]
    assert filling.seconds(6, 10, 1.0) == 2.0


def test_a_step_that_is_not_filled_teaches_nothing():
    assert learnt([(7, 8, 2.0)]).seconds(7, 8, 1.0) is None


def test_a_pass_of_its_own_takes_what_it_takes_beside_any_streams():
    filling = learnt([(7, 17, 3.0)], separate=True)
    assert filling.seconds(7, 17, 1.0) == 3.0
    assert filling.seconds(4, 17, 0.5) == 2.5


def test_a_pass_of_its_own_never_counts_as_nothing():
    """Or it would count as that for ever: an average of nothing and outliers."""
    filling = learnt([(7, 17, 0.8)] + [(7, 17, 3.0)] * 50, separate=True)
    assert filling.seconds(7, 17, 1.0) > 2.5


def test_another_layout_is_learnt_anew():
    filling = learnt([(7, 9, 2.0)])
    filling.change(separate=False)
    assert filling.seconds(7, 9, 1.0) is None


def test_the_cheapest_is_chosen_once_all_are_known():
    costs = {9: 3.0, 25: None, 41: 2.0}
    assert choose(costs, 100) == 25
    costs[25] = 1.0
    assert choose(costs, 100) == 25


def test_of_those_that_are_as_cheap_the_largest_is_chosen():
    costs = {9: 1.0, 25: 1.05, 41: 1.2}
    assert choose(costs, 100) == 25


def test_no_more_than_there_is_to_compute():
    assert choose({9: 2.0, 25: 1.0, 41: None}, 30) == 25
    assert choose({9: 2.0, 25: None, 41: None}, 5) == 9


def test_prompts_do_not_wait_for_ever_for_cheap_steps():
    costs = {9: 1.0, 25: 2.0, 41: 3.0}
    assert choose(costs, 32 * 9) == 9
    assert choose(costs, 32 * 9 + 1) == 25
    assert choose(costs, 10_000) == 41


def test_what_steps_take_is_forgotten_in_time():
    filling = learnt([(7, 9, 2.0)] * (FORGET - 1))
    assert filling.seconds(7, 9, 1.0) == 2.0
    filling.observe(7, 25, 5.0, 1.0)
    assert [filling.seconds(7, n, 1.0) for n in (9, 25)] == [None, 5.0]
