from __future__ import annotations

from local_worker.bench.report import as_json, table
from local_worker.bench.scenario import load_scenario
from local_worker.bench.stats import Timed, summarise


def run(speed):
    return summarise([Timed(0.0, (1 / speed, 2 / speed), 2, 10)], seconds=2 / speed)


def test_medians_and_ratios_of_pairs():
    head, ours, theirs, ratios = table({"ours": [run(2), run(4), run(3)], "theirs": [run(1)] * 3})
    assert head[:3] == ["", "tokens/s", "TTFT p50, ms"]
    assert ours[:3] == ["ours", "3.0", "333"]
    assert theirs[:3] == ["theirs", "1.0", "1,000"]
    assert ratios[:2] == ["ratio to theirs", "3.00 (2.00-4.00) (noisy)"]


def test_columns_that_nobody_has_are_left_out():
    head, *_ = table({"ours": [run(1)]})
    assert "goodput/s" not in head


def test_a_peer_that_failed_half_way_is_compared_as_far_as_it_went():
    *_, ratios = table({"ours": [run(2), run(9)], "theirs": [run(1)]})
    assert ratios[1] == "2.00 (2.00-2.00)"


def test_json_holds_every_run():
    found = as_json(load_scenario("chat"), {"ours": [run(1), run(2)]})
    assert found["scenario"]["name"] == "chat"
    assert [r["tokens_per_s"] for r in found["runs"]["ours"]] == [1.0, 2.0]
