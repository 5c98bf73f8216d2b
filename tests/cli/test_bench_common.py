from __future__ import annotations

from local_worker.bench.html import Section
from local_worker.cli.bench_common import in_turns, show


def test_who_was_first_comes_last_in_the_next_pair():
    assert [in_turns("abc", pair) for pair in range(3)] == ["abc", "cba", "abc"]


def test_a_table_with_names_and_figures(capsys):
    show(Section("load", [["", "tokens/s"], ["ours", "12.5"]]))
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("load", "tokens/s", "ours", "12.5"))
