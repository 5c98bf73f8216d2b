from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from local_worker.bench.html import (
    HEIGHT,
    LABEL,
    LINE,
    NAMES,
    WIDTH,
    Bar,
    Chart,
    Plot,
    Section,
    Series,
    page,
    plot_svg,
    round_step,
)

SECTION = Section(
    "a <load>",
    [["", "tokens/s"], ["ours & theirs", "12.5"]],
    [Chart("tokens/s", [Bar("ours", [10.0, 20.0, 30.0]), Bar("theirs", [5.0], series=1)])],
)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_everything_is_in_it_and_nothing_is_fetched():
    text = page("bench", [SECTION])
    reader = read(text)
    assert {"a <load>", "ours & theirs", "12.5", "ours", "theirs"} <= set(reader.text)
    names = {name for _, attributes in reader.tags for name in attributes}
    assert not names & {"src", "href"}
    assert "http" not in text
    assert "script" not in {tag for tag, _ in reader.tags}


def test_bars_are_as_long_as_their_medians():
    reader = read(page("bench", [SECTION]))
    widths = [float(attributes["width"]) for tag, attributes in reader.tags if tag == "rect"]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    ends = [float(attributes["x2"]) for tag, attributes in reader.tags if tag == "line"]
    assert LABEL < min(ends) < max(ends) < WIDTH


def test_a_chart_of_nothing_but_zeros():
    chart = Chart("none", [Bar("a", [0.0])])
    assert re.search(r'width="0.0"', page("x", [Section("s", [["a"]], [chart])]))


NAMES_X = str(WIDTH - NAMES + 25)

PLOT = Plot(
    "a <month>",
    "tasks",
    "USD",
    [
        Series("here", [(0.0, 50.0), (1000.0, 50.0)], line=True),
        Series("there", [(0.0, 0.0), (1000.0, 100.0)], line=True),
        Series("there too", [(0.0, 0.0), (1000.0, 100.0)], line=True),
        Series("a dot", [(500.0, 75.0)]),
    ],
)


def test_a_plot_has_its_lines_dots_axes_and_names():
    reader = read(plot_svg(PLOT))
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("polyline") == 3
    assert tags.count("circle") == 1
    assert {"tasks", "USD", "here", "there", "there too", "a dot", "0", "500", "1,000"} <= set(
        reader.text
    )


def test_points_are_where_their_figures_say():
    reader = read(plot_svg(PLOT))
    ways = [a["points"].split() for tag, a in reader.tags if tag == "polyline"]
    flat, rising = ([tuple(map(float, p.split(","))) for p in way] for way in ways[:2])
    assert flat[0][1] == flat[1][1]
    assert flat[0][1] == pytest.approx((rising[0][1] + rising[1][1]) / 2, abs=0.2)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in flat + rising)


def test_names_do_not_lie_on_each_other():
    reader = read(plot_svg(PLOT))
    places = [
        (a["x"], float(a["y"])) for tag, a in reader.tags if tag == "text" and a["x"] == NAMES_X
    ]
    ys = sorted(y for _, y in places)
    assert len(ys) == 4
    assert all(below - above >= LINE for above, below in pairwise(ys))
    squares = [a["fill"] for tag, a in reader.tags if tag == "rect"]
    assert len(set(squares)) == 4


@pytest.mark.parametrize(
    ("size", "step"), [(1.0, 1), (1.2, 2), (3.3, 5), (7.0, 10), (0.012, 0.02), (4000, 5000)]
)
def test_ticks_are_round(size, step):
    assert round_step(size) == pytest.approx(step)


def test_a_plot_of_one_point_or_none_can_be_drawn():
    assert "<circle" in plot_svg(Plot("p", "x", "y", [Series("one", [(3.0, 3.0)])]))
    assert "<svg" in plot_svg(Plot("p", "x", "y", []))


def test_notes_are_below_the_table():
    text = page("p", [Section("s", [["a"]], notes=["one & two"], plots=[PLOT])])
    assert "<li>one &amp; two</li>" in text
    assert text.index("<polyline") < text.index("<li>")
