from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, subprocess, sys, time
from local_worker.engines.vllm.tail import Tail
tail = Tail.of_stderr()
os.write(2, b"one\\n")
subprocess.run([sys.executable, "-c", "import os; os.write(2, b'two\\\\n')"])
deadline = time.monotonic() + 10
while len(tail.lines()) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
print(tail.lines())
tail.let_through(kept={kept})
os.write(2, b"three\\n")
while len(tail.lines()) < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
"""


def run(*, kept):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(kept=kept)],
        capture_output=True,
        text=True,
        check=True,
    )


def test_lines_are_kept_until_the_model_is_loaded():
    done = run(kept=False)
    assert done.stdout.strip() == r"['one\n', 'two\n']"
    assert done.stderr == "three\n"


def test_a_failed_start_shows_all_of_them():
    assert run(kept=True).stderr == "one\ntwo\nthree\n"
