from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from local_worker.bench.html import LABEL, WIDTH, Bar, Chart, Section, page

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
