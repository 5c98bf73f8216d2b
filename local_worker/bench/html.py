"""Tables and plots as one self-contained page: no script, nothing fetched. Pure."""

from __future__ import annotations

import html
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WIDTH, LABEL, BAR, GAP = 640, 190, 18, 8
"""Of a chart, in pixels: whole, left of the bars, a bar's height, between two."""

COLOURS = ("#2b6cb0", "#dd8452", "#55a868", "#8172b2")

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
class Section:
    """A table, its first row the head, and charts."""

    title: str
    table: Sequence[Sequence[str]]
    charts: Sequence[Chart] = ()


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
        yield f"<figure><figcaption>{html.escape(chart.title)}</figcaption>{_svg(chart)}</figure>"


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
