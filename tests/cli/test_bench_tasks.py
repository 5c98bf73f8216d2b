from __future__ import annotations

import json

import pytest

from local_worker.cli import main

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--efforts", "low,hgih"], "'hgih' is none of none, minimal"),
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
