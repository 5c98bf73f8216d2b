from __future__ import annotations

import json

import pytest

from local_worker import __version__
from local_worker.catalog.load import find, load
from local_worker.cli import main
from local_worker.cli.chat import Timing, summary
from local_worker.cli.models import repo_of
from local_worker.cli.serve import parse_engine_args
from local_worker.errors import CatalogError, ConfigError


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["serv"], ["serve", "--prot", "1"], ["models"]])
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: local-worker" in capsys.readouterr().err


def test_probe_prints_backend_and_models(capsys):
    assert main(["probe", "--skip-bandwidth"]) == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert main(["probe", "--skip-bandwidth", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"hardware", "software", "choice", "models"} <= set(report)
    assert report["models"]["demo"]["fits"]


def test_models_list_and_show(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_WORKER_HOME", str(tmp_path))
    assert main(["models", "list"]) == 0
    assert "gemma-4-26b" in capsys.readouterr().out
    assert main(["models", "show", "gemma-4-26b"]) == 0
    assert "14.4" in capsys.readouterr().out


def test_an_unknown_model_gets_near_names(capsys):
    assert main(["models", "show", "gema-4-26b"]) == 1
    assert "gemma-4-26b" in capsys.readouterr().err


def test_verify_says_what_to_do_when_nothing_is_here(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_WORKER_HOME", str(tmp_path))
    assert main(["models", "verify", "gemma-4-26b"]) == 1
    assert "models pull" in capsys.readouterr().err
    assert main(["models", "rm", "gemma-4-26b"]) == 0
    assert "0.00 GB" in capsys.readouterr().err


def test_the_embedded_model_is_here_and_whole(capsys):
    assert main(["models", "verify", "demo"]) == 0
    assert "demo.gguf" in capsys.readouterr().out


@pytest.mark.llama
def test_chat_streams_an_answer(demo_server, capsys):
    question = "Add up this invoice.\npens 3x14\ncups 2x9"
    assert main(["chat", "--url", demo_server.url, "--effort", "high", question]) == 0
    out = capsys.readouterr().out
    assert "Total:" in out
    assert "tokens/s" in out
    assert "effort high" in out.replace("\n", " ")


def test_chat_without_a_server_says_so(capsys):
    assert main(["chat", "--url", "http://127.0.0.1:9", "Hi"]) == 1
    assert "is `local-worker serve` running?" in capsys.readouterr().err


@pytest.mark.llama
def test_chat_shows_the_servers_own_complaint(demo_server, capsys):
    assert main(["chat", "--url", demo_server.url, "--max-tokens", "9999", "Hi"]) == 1
    assert "exceed the context" in capsys.readouterr().err


def test_the_line_under_an_answer():
    last = {
        "usage": {"completion_tokens": 11},
        "reasoning": {
            "effort": "low", "used_tokens": 5, "budget_tokens": 32, "closed_by": "model",
        },
    }  # fmt: skip
    assert summary(Timing(asked=1.0, first=1.5, last=2.5), last) == (
        "[11 tokens, 10.0 tokens/s, first after 0.50 s, effort low: 5 of 32 thinking tokens, "
        "closed by model]"
    )


def test_engine_arguments_are_json_where_they_read_as_such():
    found = parse_engine_args(
        ["seed=7", "dtype=float16", "enforce-eager=True", 'speculative_config={"method": "ngram"}']
    )
    assert found == {
        "seed": 7,
        "dtype": "float16",
        "enforce_eager": True,
        "speculative_config": {"method": "ngram"},
    }


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["seed"], "name=value"),
        (["=7"], "name=value"),
        (["a b=7"], "name=value"),
        (["seed=1", "seed=2"], "given twice"),
        (["model=x"], "use --model"),
        (["max-model-len=auto"], "use --context"),
        (["tensor-parallel-size=2"], "use --tensor-parallel"),
    ],
)
def test_engine_arguments_that_are_none(pairs, message):
    with pytest.raises(ConfigError, match=message):
        parse_engine_args(pairs)


def test_several_nodes_need_the_cluster_that_joins_them(capsys):
    assert main(["serve", "--nodes", "2", "--port", "0"]) == 1
    assert "--ray-address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quant", "repo"),
    [
        (None, "RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic"),
        ("NVFP4", "RedHatAI/gemma-4-26B-A4B-it-NVFP4"),
        ("bf16", "google/gemma-4-26B-A4B-it"),
    ],
)
def test_which_repository_is_pulled_for_vllm(quant, repo):
    assert repo_of(find(load(), "gemma-4-26b"), quant) == repo


def test_a_format_that_the_model_does_not_have_for_vllm():
    with pytest.raises(CatalogError, match=r"gemma-4-26b has no awq for vLLM: .*fp8"):
        repo_of(find(load(), "gemma-4-26b"), "awq")


def test_models_for_vllm_that_are_not_here(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORKER_HOME", str(tmp_path))
    assert main(["models", "verify", "gemma-4-26b", "--engine", "vllm"]) == 1
    assert "models pull gemma-4-26b --engine vllm" in capsys.readouterr().err
    assert main(["models", "rm", "gemma-4-26b", "--engine", "vllm"]) == 0
    assert "0.00 GB freed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --model to serve one, or --url"),
        (["--url", "http://127.0.0.1:9", "--model", "demo"], "give --model"),
        (["--url", "http://127.0.0.1:9", "--vs-arg=--threads=1"], "--vs-arg needs --model"),
        (["--model", "demo", "--vs-arg=--port=1"], "cannot say where"),
        (["--url", "http://127.0.0.1:9", "--pairs", "0"], "--pairs must be at least 1"),
        (["--url", "http://127.0.0.1:9", "--scenario", "x"], "there is no scenario 'x'"),
        (["--url", "http://127.0.0.1:9"], "ConnectError"),
        (["--url", "http://x", "--vs", "llama-server"], "needs --model FILE.gguf"),
    ],
)
def test_a_benchmark_that_cannot_begin_says_why(arguments, words, capsys):
    assert main(["bench", "serve", *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.llama
def test_a_benchmark_shows_a_table_and_writes_every_run(demo_server, tmp_path, capsys):
    path = tmp_path / "runs.json"
    scenario = tmp_path / "tiny.yaml"
    scenario.write_text(
        "{name: tiny, about: it, clients: 2, requests: 2, own_tokens: 5, max_tokens: 3}"
    )
    arguments = ["--url", demo_server.url + "/v1", "--vs", demo_server.url, "--pairs", "2"]
    page = tmp_path / "page.html"
    arguments += ["--scenario", str(scenario), "--json", str(path), "--report", str(page)]
    assert main(["bench", "serve", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "tiny: it" in shown
    assert "ratio to" in shown
    assert "tiny: it" in page.read_text()
    runs = json.loads(path.read_text())["tiny"]["runs"]
    assert [len(found) for found in runs.values()] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pairs", "0"], "must be at least 1"),
        (["--sequences", "0,4"], "must be at least 1"),
        (["--vs", "llama-batched-bench", "--llama-batched-bench", "/nowhere"], "no program"),
        (["--model", "nonsense"], "nonsense"),
    ],
)
@pytest.mark.llama
def test_a_benchmark_of_decoding_that_cannot_begin_says_why(arguments, words, capsys):
    assert main(["bench", "decode", "--model", "demo", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_lists_of_numbers_are_checked(capsys):
    for text in ("1,x", "-1", ""):
        with pytest.raises(SystemExit):
            main(["bench", "decode", "--model", "demo", f"--sequences={text}"])
    assert "is not a list of numbers" in capsys.readouterr().err


@pytest.mark.llama
def test_a_benchmark_of_decoding_shows_what_steps_are_spent_on(tmp_path, capsys):
    path = tmp_path / "runs.json"
    page = tmp_path / "page.html"
    arguments = ["--sequences=1,3", "--depths=0,20", "--steps=5", "--pairs=2", "--json", str(path)]
    arguments += ["--report", str(page)]
    assert main(["bench", "decode", "--model", "demo", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown
    assert "schedule" in shown
    sizes = json.loads(path.read_text())["sizes"]
    assert [(s["sequences"], s["depth"]) for s in sizes] == [(1, 0), (3, 0), (1, 20), (3, 20)]
    assert all(len(size["local-worker"]) == 2 for size in sizes)
    assert page.read_text().count("<rect") == 4
    assert all(size["local-worker"][0]["microseconds"]["compute"] > 0 for size in sizes)
