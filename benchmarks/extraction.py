"""Extraction under a JSON schema on the embedded model: is it valid, is it right, and how fast.

Eight clients extract five fields from records (held-out tasks, temperature 1), with the schema and
without it; beside llama-server on the same file, in alternating pairs. Clients are threads with a
plain HTTP connection: a heavier one would take more of two cores than the servers do.

    python benchmarks/extraction.py [--requests 200] [--pairs 4] [--llama-server PATH]

Prints the figures, then one JSON line. Exits with 1 when an answer under the schema is not valid.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common import CHAT, server_at, tell
from jsonschema import Draft202012Validator

from local_worker.bench import peers
from local_worker.demo import families, gguf_path

if TYPE_CHECKING:
    from local_worker.demo.task import Task

CLIENTS = 8
CELLS = 32768


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run."""

    valid: int
    right: int
    tokens_per_second: float
    jumped: int
    tokens: int


def schema_of(answer: str) -> dict[str, Any]:
    """The form of a gold answer: its keys, in its order, and their types."""
    fields = json.loads(answer)
    properties = {
        key: {"type": "integer" if isinstance(value, int) else "string"}
        for key, value in fields.items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def ask(url: str, task: Task, *, held: bool) -> dict[str, Any]:
    """One request over a connection of its own."""
    body: dict[str, Any] = {
        "messages": task.messages,
        "temperature": 1,
        "max_tokens": 200,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    if held:
        schema = {"name": "record", "strict": True, "schema": schema_of(task.answer)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def is_valid(task: Task, text: str) -> bool:
    """Whether an answer follows the schema."""
    try:
        return bool(Draft202012Validator(schema_of(task.answer)).is_valid(json.loads(text)))
    except ValueError:
        return False


def run(url: str, tasks: list[Task], *, held: bool) -> Outcome:
    """All tasks, eight at a time."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        start = time.perf_counter()
        answers = list(clients.map(lambda task: ask(url, task, held=held), tasks))
        seconds = time.perf_counter() - start
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    usages = [answer["usage"] for answer in answers]
    tokens = sum(usage["completion_tokens"] for usage in usages)
    details = [usage.get("completion_tokens_details") or {} for usage in usages]
    return Outcome(
        sum(map(is_valid, tasks, texts)),
        sum(map(families.check, tasks, texts)),
        tokens / seconds,
        sum(detail.get("jumped_tokens", 0) for detail in details),
        tokens,
    )


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Runs everything."""
    with ExitStack() as stack:
        ours = stack.enter_context(server_at(options.url))
        theirs = None
        if options.llama_server:
            peer = peers.llama_server(
                options.llama_server, str(gguf_path()), slots=CLIENTS, cells=CELLS
            )
            stack.callback(peer.stop)
            peer.wait()
            theirs = peer.target.url
        held, free, ratios = [], [], []
        for pair in range(options.pairs):
            tasks = families.generate("extract", 7000 + pair, options.requests)
            order = [ours, theirs] if pair % 2 else [theirs, ours]
            runs = {url: run(url, tasks, held=True) for url in order if url}
            held.append(runs[ours])
            free.append(run(ours, tasks, held=False))
            if theirs:
                ratios.append(runs[ours].tokens_per_second / runs[theirs].tokens_per_second)
    count = options.pairs * options.requests
    found: dict[str, Any] = {
        "requests": count,
        "valid under the schema": sum(o.valid for o in held),
        "right under the schema": sum(o.right for o in held),
        "valid without": sum(o.valid for o in free),
        "right without": sum(o.right for o in free),
        "tokens jumped over": round(sum(o.jumped for o in held) / sum(o.tokens for o in held), 3),
        "tokens/s, schema to none": _spread(
            [a.tokens_per_second / b.tokens_per_second for a, b in zip(held, free, strict=True)]
        ),
        "tokens/s to llama-server": _spread(ratios) if ratios else "not measured",
    }
    return {**found, "defects": count - found["valid under the schema"]}


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--requests", type=int, default=200, help="in each run")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--llama-server", metavar="PATH", help="to measure beside it")
    return tell(report(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
