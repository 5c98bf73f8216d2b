from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, subprocess, sys, time
from local_worker.engines.vllm.tail import Tail
result = os.dup(1)
tail = Tail.begin()
os.write(2, b"one\\n")
subprocess.run([sys.executable, "-c", "print('two', flush=True)"])
deadline = time.monotonic() + 10
while len(tail.lines()) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
{then}
"""


def run(then):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(then=then)],
        capture_output=True,
        text=True,
        check=True,
    )


def test_lines_of_a_start_are_kept_and_what_comes_later_is_let_through():
    done = run("""tail.let_through(); os.write(1, b"three\\n"); time.sleep(0.5)""")
    assert (done.stdout, done.stderr) == ("", "three\n")


def test_a_failed_start_leaves_all_of_them_in_a_file():
    done = run("os.write(result, tail.save().encode())")
    path = Path(done.stdout)
    assert path.read_text() == "one\ntwo\n"
    assert done.stderr == ""
    path.unlink()
