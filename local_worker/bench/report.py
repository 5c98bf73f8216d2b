"""Runs and ratios as tables, pages and JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from local_worker.bench.html import Bar, Chart, Section
from local_worker.bench.stats import Ratio, Summary, ratio
from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from local_worker.bench.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Figure:
    """A column: what it is called, which field it shows, and in which unit."""

    title: str
    field: str
    in_milliseconds: bool


FIGURES = (
    Figure("tokens/s", "tokens_per_s", False),
    Figure("TTFT p50, ms", "ttft_p50", True),
    Figure("TTFT p99", "ttft_p99", True),
    Figure("ITL p50", "itl_p50", True),
    Figure("ITL p99", "itl_p99", True),
    Figure("E2E p50", "e2e_p50", True),
    Figure("goodput/s", "goodput", False),
    Figure("ITL p99 beside the long prompt", "beside", True),
)

Runs = dict[str, list[Summary]]
"""By the server's name, in the order of the pairs."""


def figures_of(runs: Mapping[str, Sequence[Summary]]) -> tuple[Figure, ...]:
    """The columns that have something in them."""
    every = [summary for summaries in runs.values() for summary in summaries]
    return tuple(f for f in FIGURES if any(getattr(s, f.field) is not None for s in every))


def table(runs: Mapping[str, Sequence[Summary]]) -> list[list[str]]:
    """Medians of each server, the first one's ratios to each of the others below; with a head."""
    figures = figures_of(runs)
    rows = [["", *(f.title for f in figures)]]
    for name, summaries in runs.items():
        medians = (statistics.median(_values(summaries, f)) for f in figures)
        rows.append([name, *(_number(v, f) for v, f in zip(medians, figures, strict=True))])
    names = list(runs)
    for other in names[1:]:
        cells = [cell(r) for r in ratios(runs[names[0]], runs[other], figures)]
        rows.append([f"ratio to {other}", *cells])
    return rows


def ratios(
    ours: Sequence[Summary], theirs: Sequence[Summary], figures: Sequence[Figure]
) -> Iterator[Ratio]:
    """Ours to theirs, figure by figure."""
    pairs = min(len(ours), len(theirs))
    for figure in figures:
        yield ratio(_values(ours[:pairs], figure), _values(theirs[:pairs], figure))


def section(scenario: Scenario, runs: Mapping[str, Sequence[Summary]]) -> Section:
    """The same for a page, with a chart for each figure."""
    charts = []
    for figure in figures_of(runs):
        factor = 1000 if figure.in_milliseconds else 1
        bars = [
            Bar(name, [factor * value for value in _values(summaries, figure)], number)
            for number, (name, summaries) in enumerate(runs.items())
        ]
        charts.append(Chart(figure.title, bars))
    return Section(f"{scenario.name}: {scenario.about}", table(runs), charts)


def as_json(scenario: Scenario, runs: Mapping[str, Sequence[Summary]]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "scenario": scenario.model_dump(),
        "runs": {name: [asdict(s) for s in summaries] for name, summaries in runs.items()},
    }


def write_json(path: Path | None, found: dict[str, Any]) -> None:
    """Writes what was measured, if somebody wants it.

    Raises:
        ConfigError: there is no writing to that file.
    """
    write(path, json.dumps(found, indent=1) + "\n")


def write(path: Path | None, text: str) -> None:
    """Writes a file, if somebody wants it.

    Raises:
        ConfigError: there is no writing to that file.
    """
    if path is None:
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _values(summaries: Sequence[Summary], figure: Figure) -> list[float]:
    return [float(getattr(s, figure.field) or 0.0) for s in summaries]


def _number(value: float, figure: Figure) -> str:
    return f"{value * 1000:,.0f}" if figure.in_milliseconds else f"{value:,.1f}"


def cell(found: Ratio) -> str:
    """Of a table: the median ratio, the lowest and highest pair, and a mark where they differ."""
    mark = " (noisy)" if found.is_noisy else ""
    return f"{found.median:.2f} ({found.lowest:.2f}-{found.highest:.2f}){mark}"
