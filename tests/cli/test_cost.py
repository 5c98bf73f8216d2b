from __future__ import annotations

import json
import time

import pytest

from local_worker.cli import main
from local_worker.economics.costs import default_text
from local_worker.economics.ledger import Ledger
from tests.economics.test_ledger import row


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path, 30)
    for number in range(4):
        effort = "low" if number else "high"
        ledger.add(row(number, time=time.time() - 3600 * number, effort=effort))
    ledger.close()
    return str(path)


def test_what_was_done_is_told_with_its_cost(path, capsys):
    assert main(["cost", "--ledger", path, "--by", "effort"]) == 0
    shown = capsys.readouterr().out
    assert "low" in shown
    assert "0.04 USD" in shown
    assert "energy: RAPL" in shown
    assert "the same tokens at Claude Haiku 5.5" in shown


def test_json_has_the_same(path, capsys):
    assert main(["cost", "--ledger", path, "--by", "effort", "--since", "90m", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {line["group"]: line["requests"] for line in found["lines"]} == {"low": 1, "high": 1}
    assert found["total"][0]["requests"] == 2
    assert found["total"][0]["elsewhere_usd"]["GPT-6 Luna"] > 0


def test_other_costs_are_reckoned_with(path, tmp_path, capsys):
    costs = tmp_path / "costs.yaml"
    costs.write_text("currency: EUR\none_usd: 0.9\nhardware: {price: 0, upkeep_per_year: 0}\n"
                     "electricity: {price_per_kwh: 3600}\n")  # fmt: skip
    assert main(["cost", "--ledger", path, "--costs", str(costs), "--json"]) == 0
    (total,) = json.loads(capsys.readouterr().out)["total"]
    assert total["currency"] == "EUR"
    # 20 J, and three seconds of idling at 2.5 W for each of 1.6
    assert total["cost"] == pytest.approx((20 + 3 * 1.6 * 2.5) / 3.6e6 * 3600)


def test_nothing_of_that_time_is_said(path, capsys):
    assert main(["cost", "--ledger", path, "--since", "2100-01-01"]) == 0
    assert "nothing of that time" in capsys.readouterr().out


def test_the_shipped_files_can_be_had(capsys):
    assert main(["cost", "defaults"]) == 0
    assert capsys.readouterr().out == default_text()
    assert main(["cost", "prices"]) == 0
    assert "GPT-6 Luna" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ledger", "/nowhere/ledger.sqlite3"], "no ledger at"),
        (["--since", "soon"], "--since 'soon'"),
        (["--costs", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["--json", "report"], "come after it"),
        (["--costs", "x.yaml", "defaults"], "come after it"),
        (["report", "--html", "/nowhere/x.html"], "cannot be written"),
        (["report", "--price", "GPT-6 Luna"], "--price is of a server at --url"),
        (["report", "--api-key", "k"], "--api-key is of a server at --url"),
        (["report", "--url", "x", "--price", "nobody"], "--price 'nobody' is none of GPT-6.1"),
        (["report", "nothing"], "there are embedded, finance"),
    ],
)
def test_what_cannot_be_says_why(arguments, words, capsys):
    assert main(["cost", *arguments]) == 1
    assert words in capsys.readouterr().err


SUITE = """
name: small
about: a few
bar: 0.9
generate:
  - {family: classify, count: 4, seed: 3}
"""


def test_a_report_of_a_suite(demo_server, tmp_path, capsys):
    suite, html = tmp_path / "small.yaml", tmp_path / "cost.html"
    suite.write_text(SUITE)
    arguments = [str(suite), "--url", demo_server.url, "--efforts", "none,high",
                 "--html", str(html), "--json", str(tmp_path / "cost.json")]  # fmt: skip
    assert main(["cost", "report", *arguments]) == 0
    assert "cheapest effort that gets 90 % right: none" in capsys.readouterr().out
    text = html.read_text()
    for words in ("accuracy against cost", "tokens per second of machine time", "joules per output",
                  "From which volume on", "What this rests on", "estimated from"):  # fmt: skip
        assert words in text
    assert "<script" not in text
    found = json.loads((tmp_path / "cost.json").read_text())
    assert all(row["cost"]["per_accepted"] > 0 for row in found["rows"])
    assert all(answer["machine_seconds"] > 0 for answer in found["answers"])


def test_a_report_of_an_api_is_reckoned_by_its_price(demo_server, tmp_path, capsys):
    suite = tmp_path / "small.yaml"
    suite.write_text(SUITE)
    arguments = [str(suite), "--url", demo_server.url, "--efforts", "none",
                 "--price", "GPT-6 Luna", "--html", str(tmp_path / "x.html")]  # fmt: skip
    assert main(["cost", "report", *arguments]) == 0
    capsys.readouterr()
    text = (tmp_path / "x.html").read_text()
    assert "per 1,000 accepted" in text
    assert "From which volume on" not in text
