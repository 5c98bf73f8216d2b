from __future__ import annotations

import pytest

from local_worker.engines.llama_cpp.shapes import (
    DECODE,
    MOST_PADDING,
    PROBATION,
    PROMPTS,
    WORTH_LEARNING,
    Shape,
    Shapes,
    StepShapes,
)


def run(shapes, rows, steps, cost):
    """Steps of one size on a machine with these costs; the shapes they had."""
    used = []
    for _ in range(steps):
        shape = shapes.choose(rows)
        shapes.observe(rows, shape, cost(shape))
        used.append(shape)
    return used


def cheap_at_16(shape):
    return (0.1 if shape.rows % 16 == 0 else 0.01 * shape.rows) / shape.threads


def test_it_starts_as_configured_and_in_its_own_rows():
    assert Shapes(4, 512).choose(7) == Shape(4, 7)


def test_rows_are_added_where_that_is_faster():
    shapes = Shapes(2, 512)
    run(shapes, 14, 60, cheap_at_16)
    assert shapes.best(14) == Shape(2, 16)
    run(shapes, 3, 60, cheap_at_16)
    assert shapes.best(3) == Shape(2, 3)


def test_no_rows_are_added_where_there_is_no_room_or_no_way():
    for shapes in (Shapes(2, 15), Shapes(2, 512, pads=False)):
        assert {s.rows for s in run(shapes, 14, 400, cheap_at_16)} == {14}


@pytest.mark.parametrize("rows", range(1, 40))
def test_never_more_padding_than_there_are_cells_for(rows):
    used = run(Shapes(1, 512), rows, 300, lambda shape: 1 / shape.rows)
    assert all(rows <= shape.rows <= rows + MOST_PADDING for shape in used)


def test_threads_that_help_stay():
    shapes = Shapes(8, 512)
    run(shapes, 1, 500, lambda shape: 0.1 / shape.threads)
    assert shapes.best(1) == Shape(8, 1)


def test_threads_that_neither_help_nor_hurt_stay():
    shapes = Shapes(2, 512)
    run(shapes, 1, 600, lambda shape: 0.025)
    assert shapes.best(1) == Shape(2, 1)


def test_what_was_seen_of_larger_steps_is_not_tried_again():
    shapes = Shapes(2, 512, fewer=False)
    for rows in (8, 12, 16):
        run(shapes, rows, DECODE.first, lambda shape: shape.rows / 100)
    used = run(shapes, 7, 60, lambda shape: shape.rows / 100)
    assert set(used) == {Shape(2, 7)}


def test_down_the_whole_ladder_and_up_again():
    shapes = Shapes(8, 512)
    run(shapes, 1, 600, lambda shape: 0.1 * shape.threads)
    assert shapes.best(1).threads == 1
    run(shapes, 1, 2000, lambda shape: 1 / shape.threads)
    assert shapes.best(1).threads == 8


def test_only_the_configured_threads_where_fewer_make_no_sense():
    used = run(Shapes(4, 512, fewer=False), 5, 300, lambda shape: 0.1 * shape.threads)
    assert {shape.threads for shape in used} == {4}


def test_a_neighbour_is_noticed_within_a_few_steps():
    shapes = Shapes(2, 512, pads=False)
    run(shapes, 1, 500, lambda shape: 0.05 / shape.threads)
    assert shapes.best(1).threads == 2
    used = run(shapes, 1, 20, lambda shape: 0.15 if shape.threads == 2 else 0.05)
    assert shapes.best(1).threads == 1
    assert sum(shape.threads == 2 for shape in used) < 10


def test_prompts_learn_from_few_steps():
    shapes = Shapes(2, 512, pads=False, trials=PROMPTS)
    used = run(shapes, 128, 6, lambda shape: 3.0 if shape.threads == 2 else 1.0)
    assert [shape.threads for shape in used] == [2, 2, 1, 1, 1, 1]
    run(shapes, 128, PROMPTS.longest + 2, lambda shape: 1 / shape.threads)
    assert shapes.best(128).threads == 2


def test_and_so_is_its_end():
    shapes = Shapes(2, 512, pads=False)
    run(shapes, 1, 100, lambda shape: 0.15 if shape.threads == 2 else 0.05)
    assert shapes.best(1).threads == 1
    run(shapes, 1, DECODE.longest + 2 * DECODE.steps, lambda shape: 0.05 / shape.threads)
    assert shapes.best(1).threads == 2


def test_what_a_neighbour_does_to_one_size_it_does_to_the_next():
    shapes = Shapes(2, 512, pads=False)
    run(shapes, 4, 100, lambda shape: 0.15 if shape.threads == 2 else 0.05)
    assert shapes.choose(5).threads == 1


def test_trials_cost_little():
    used = run(Shapes(8, 512), 12, 5000, lambda shape: 0.8 / shape.threads + shape.rows / 100)
    assert sum(shape != Shape(8, 12) for shape in used) < 100


def test_a_trial_that_was_won_by_luck_is_taken_back():
    shapes = Shapes(2, 512, pads=False)
    run(shapes, 1, DECODE.first, lambda shape: 0.05)
    run(shapes, 1, DECODE.steps, lambda shape: 0.04)
    assert shapes.best(1).threads == 1
    run(shapes, 1, PROBATION * DECODE.steps, lambda shape: 0.053)
    assert shapes.best(1).threads == 2
    assert {s.threads for s in run(shapes, 1, 60, lambda shape: 0.05)} == {2}


def test_a_single_slow_step_decides_nothing():
    shapes = Shapes(2, 512, pads=False)
    steps = iter(range(10_000))

    def cost(shape):
        return 5.0 if next(steps) % 37 == 0 else 0.05 / shape.threads

    run(shapes, 1, 2000, cost)
    assert shapes.best(1).threads == 2


def test_steps_that_take_no_time_are_not_experimented_with():
    used = run(Shapes(4, 512), 14, 500, lambda shape: WORTH_LEARNING / 2)
    assert set(used) == {Shape(4, 14)}


def test_steps_with_prompts_learn_by_the_row_and_add_none():
    shapes = StepShapes(2, 512, pads=True, fewer=True)
    used = []
    for rows in (70, 80, 90, 100, 110, 120):
        choice = shapes.choose(rows, 0, only_decoding=False)
        choice.observe(rows * (0.03 if choice.threads == 2 else 0.01))
        used.append(choice.threads)
        assert choice.padding == 0
    assert used == [2, 2, 1, 1, 1, 1]
    assert shapes.choose(7, 7, only_decoding=True).threads == 2


def test_padding_of_steps_that_only_decode():
    shapes = StepShapes(1, 512, pads=True, fewer=True)
    for _ in range(100):
        choice = shapes.choose(14, 14, only_decoding=True)
        choice.observe(cheap_at_16(Shape(choice.threads, 14 + choice.padding)))
    assert choice.padding == 2


def beside(shapes, rows, seconds):
    """A step with a prompt beside eight streams; its threads."""
    choice = shapes.choose(rows, 8, only_decoding=False)
    choice.observe(seconds[choice.threads])
    return choice.threads


def test_nothing_is_tried_while_others_stream_and_nothing_has_changed():
    shapes = StepShapes(2, 512, pads=True, fewer=True)
    # The longer a prompt, the slower its steps: that is no change to find out about.
    assert {beside(shapes, 24, {1: 2 * s, 2: s}) for s in range(1, 200)} == {2}


def test_a_neighbour_that_short_steps_have_noticed_is_found_there_too():
    shapes = StepShapes(2, 512, pads=True, fewer=True)
    seconds = {1: 0.1, 2: 0.2}
    for _ in range(100):
        choice = shapes.choose(8, 8, only_decoding=True)
        choice.observe(seconds[choice.threads])
    assert shapes.choose(8, 8, only_decoding=True).threads == 1
    assert [beside(shapes, 24, seconds) for _ in range(100)][-1] == 1
