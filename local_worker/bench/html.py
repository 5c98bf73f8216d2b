"""Tables and plots as one self-contained page: no script, nothing fetched. Pure."""

from __future__ import annotations

import html
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WIDTH, LABEL, BAR, GAP = 640, 190, 18, 8
"""Of a chart, in pixels: whole, left of the bars, a bar's height, between two."""

HEIGHT, MARGIN, FOOT, NAMES, LINE = 360, 70, 50, 190, 18
"""Of a plot, in pixels: whole, left and below the axes, right of them for names, a line."""

COLOURS = (
    "#2b6cb0", "#dd8452", "#55a868", "#8172b2", "#c44e52", "#937860", "#da8bc3", "#64b5cd",
)  # fmt: skip

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .7em;text-align:right;
border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}
figure{margin:1.5em 0}figcaption{font-weight:600}svg text{font:12px system-ui,sans-serif;fill:#222}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """What was measured under a name, run by run; `series` picks its colour."""

    label: str
    values: Sequence[float]
    series: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars of one unit: each as long as the median of its runs, with a line from least to most."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of a name: joined by a line, or a dot each with its own."""

    label: str
    points: Sequence[tuple[float, float]]
    line: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure against another; both axes begin where the points do, or at 0 if that is near."""

    title: str
    x: str
    y: str
    series: Sequence[Series]


@dataclass(frozen=True, slots=True)
class Section:
    """A table, its first row the head, charts and plots, and notes below them."""

    title: str
    table: Sequence[Sequence[str]]
    charts: Sequence[Chart] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = ()


def page(title: str, sections: Iterable[Section]) -> str:
    """The whole page."""
    body = "\n".join(part for section in sections for part in _section(section))
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style>\n<h1>{name}</h1>\n{body}\n</html>\n"
    )


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{html.escape(section.title)}</h2>"
    head, *rows = section.table
    yield "<table>" + _row("th", head) + "".join(_row("td", row) for row in rows) + "</table>"
    for chart in section.charts:
        yield _figure(chart.title, _svg(chart))
    for plot in section.plots:
        yield _figure(plot.title, plot_svg(plot))
    if section.notes:
        yield "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in section.notes) + "</ul>"


def _figure(title: str, drawn: str) -> str:
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{drawn}</figure>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _svg(chart: Chart) -> str:
    most = max((value for bar in chart.bars for value in bar.values), default=0.0) or 1.0
    scale = (WIDTH - LABEL - 70) / most
    height = len(chart.bars) * (BAR + GAP)
    shapes = "".join(
        _bar(bar, number * (BAR + GAP), scale) for number, bar in enumerate(chart.bars)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{html.escape(chart.title)}">{shapes}</svg>'
    )


def _bar(bar: Bar, top: int, scale: float) -> str:
    median, middle = statistics.median(bar.values), top + BAR / 2
    least, most = (LABEL + scale * bound for bound in (min(bar.values), max(bar.values)))
    colour = COLOURS[bar.series % len(COLOURS)]
    return (
        f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{html.escape(bar.label)}</text>'
        f'<rect x="{LABEL}" y="{top}" width="{scale * median:.1f}" height="{BAR}" fill="{colour}"/>'
        f'<line x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}" stroke="#222"/>'
        f'<text x="{most + 6:.1f}" y="{middle + 4}">{median:,.4g}</text>'
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """From figures to pixels."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Four to eight round figures."""
        step = round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(size: float) -> float:
    """1, 2 or 5 times a power of ten, about so large."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= size * 0.999)


def plot_svg(plot: Plot) -> str:
    """The drawing alone: a whole SVG file, too."""
    points = [point for series in plot.series for point in series.points]
    across = _axis([x for x, _ in points], MARGIN, WIDTH - NAMES)
    up = _axis([y for _, y in points], HEIGHT - FOOT, 15)
    shapes = [*_grid(plot, across, up)]
    labels = []
    for number, series in enumerate(plot.series):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across.at(x), up.at(y)) for x, y in series.points]
        shapes += _marks(places, colour, line=series.line)
        labels.append((colour, series.label))
    shapes += _legend(labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{html.escape(plot.title)}" '
        f'font-family="system-ui,sans-serif" font-size="12">{"".join(shapes)}</svg>'
    )


def _marks(places: Sequence[tuple[float, float]], colour: str, *, line: bool) -> Iterator[str]:
    if line:
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>'
    else:
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'


def _legend(labels: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names beside the plot, each behind its colour."""
    left = WIDTH - NAMES + 10
    for number, (colour, text) in enumerate(labels):
        y = 24 + LINE * number
        yield f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{left + 15}" y="{y}">{html.escape(text)}</text>'


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if 0 <= low < high / 2:
        low = 0.0
    if high <= low:
        low, high = low - 0.5, low + 0.5
    spare = 0.05 * (high - low)
    return _Axis(low if low == 0 else low - spare, high + spare, begin, end)


def _grid(plot: Plot, across: _Axis, up: _Axis) -> Iterator[str]:
    for value in up.ticks():
        y = up.at(value)
        ends = f'x1="{across.begin}" x2="{across.end}" y1="{y:.1f}" y2="{y:.1f}"'
        yield f'<line {ends} stroke="#ddd"/>'
        yield f'<text x="{across.begin - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.4g}</text>'
    for value in across.ticks():
        x = across.at(value)
        yield f'<line y1="{up.begin}" y2="{up.end}" x1="{x:.1f}" x2="{x:.1f}" stroke="#eee"/>'
        place = f'x="{x:.1f}" y="{up.begin + 16}"'
        yield f'<text {place} text-anchor="middle">{value:,.4g}</text>'
    middle = (across.begin + across.end) / 2
    yield (
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(plot.x)}</text>'
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {HEIGHT / 2})">{html.escape(plot.y)}</text>'
    )
