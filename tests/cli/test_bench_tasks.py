from __future__ import annotations

import json

import pytest
import yaml

from local_worker.cli import bench_tasks, main
from local_worker.errors import BenchError

SUITE = """
name: small
about: a few held-out tasks
bar: 0.9
generate:
  - {family: classify, count: 6, seed: 3}
  - {family: invoice, count: 6, seed: 3, difficulty: 6}
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return str(path)


def test_a_suite_at_three_efforts(demo_server, suite, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("a.jsonl", "a.json", "a.html")}
    arguments = [
        suite, "--url", f"{demo_server.url}/v1", "--efforts", "none,high,auto",
        "--results", str(files["a.jsonl"]), "--json", str(files["a.json"]),
        "--report", str(files["a.html"]),
    ]  # fmt: skip
    assert main(["bench", "tasks", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "auto chose: high 6, none 6" in shown, "six to look up, and six to add up"
    found = json.loads(files["a.json"].read_text())
    rows = {row["effort"]: row for row in found["rows"]}
    assert rows["none"]["thinking_tokens"] == 0
    assert 0 < rows["auto"]["thinking_tokens"] < rows["high"]["thinking_tokens"]
    assert rows["auto"]["accuracy"] == rows["high"]["accuracy"] == 1.0
    assert rows["auto"]["router_tokens"] > 0
    assert len(found["answers"]) == len(files["a.jsonl"].read_text().splitlines()) - 1 == 36
    assert "<svg" in files["a.html"].read_text()

    assert main(["bench", "tasks", *arguments]) == 0
    assert json.loads(files["a.json"].read_text())["answers"] == found["answers"], "none anew"


def test_a_table_is_calibrated_and_served(demo_server, tmp_path, start_server, capsys):
    suite, table = tmp_path / "s.yaml", tmp_path / "table.yaml"
    suite.write_text(SUITE.replace("count: 6", "count: 3"))
    arguments = [str(suite), "--url", demo_server.url, "--calibrate", str(table)]
    assert main(["bench", "tasks", *arguments]) == 0
    assert f"written: {table}" in capsys.readouterr().out
    written = yaml.safe_load(table.read_text())
    assert written["model"] == "demo"
    assert isinstance(written["early_exit"], bool)
    server = start_server("--calibration", str(table))
    with server.client() as client:
        (model,) = client.get("/v1/models").json()["data"]
        assert model["reasoning_budgets"] == written["effort"]
        body = {"messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": "high"}
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["reasoning"]["budget_tokens"] == written["effort"]["high"]


def test_a_ceiling_is_calibrated_below(start_server, tmp_path, capsys):
    suite, table = tmp_path / "s.yaml", tmp_path / "table.yaml"
    suite.write_text(SUITE.replace("count: 6", "count: 1"))
    server = start_server("--max-thinking-tokens", "40")
    assert main(["bench", "tasks", str(suite), "--url", server.url, "--calibrate", str(table)]) == 0
    capsys.readouterr()
    assert max(yaml.safe_load(table.read_text())["effort"].values()) <= 40


def test_what_was_not_asked_everywhere_gives_no_table(
    demo_server, suite, tmp_path, monkeypatch, capsys
):
    table = tmp_path / "table.yaml"

    async def stop(*_):
        raise BenchError("stopped")

    monkeypatch.setattr(bench_tasks, "run_tasks", stop)
    arguments = [suite, "--url", demo_server.url, "--calibrate", str(table)]
    assert main(["bench", "tasks", *arguments]) == 1
    assert "stopped" in capsys.readouterr().err
    assert not table.exists()


def test_a_calibration_of_another_model_is_refused(tmp_path, capsys):
    table = tmp_path / "table.yaml"
    table.write_text(
        "model: other\neffort: {none: 0, minimal: 8, low: 8, medium: 9, high: 9, xhigh: 9}\n"
    )
    assert main(["serve", "--port", "0", "--no-ledger", "--calibration", str(table)]) == 1
    assert "is of 'other', and 'demo' is to be served" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--efforts", "low,hgih"], "'hgih' is no number and none of none"),
        (["--concurrency", "0"], "--concurrency"),
        (["--url", "http://127.0.0.1:9"], "is no OpenAI-compatible server"),
        (["--model", "gpt-7"], "gpt-7"),
    ],
)
def test_what_cannot_begin_says_why(suite, arguments, words, capsys):
    assert main(["bench", "tasks", suite, *arguments]) == 1
    assert words in capsys.readouterr().err
    assert main(["bench", "tasks", "nothing"]) == 1
    assert "there are embedded, finance" in capsys.readouterr().err
