from __future__ import annotations

import pytest

from local_worker.cli.pins import read_pin
from local_worker.errors import ConfigError

MESSAGE = {"role": "system", "content": "You are a clerk."}


def test_a_text_is_a_system_message(tmp_path):
    path = tmp_path / "clerk.txt"
    path.write_text("You are a clerk.\n")
    assert read_pin(path).messages == (MESSAGE,)
    assert read_pin(path).name == "clerk.txt"


@pytest.mark.parametrize("text", ["[%s]", '{"messages": [%s], "model": "x"}'])
def test_messages_are_a_list_or_a_body(tmp_path, text):
    path = tmp_path / "clerk.json"
    path.write_text(text % '{"role": "system", "content": "You are a clerk."}')
    assert read_pin(path).messages == (MESSAGE,)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"{}", "list of messages"),
        ("a.json", b"[]", "list of messages"),
        ("a.json", b'["x"]', "a message is an object"),
    ],
)
def test_files_that_are_neither(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        read_pin(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_pin(tmp_path / "nothing.txt")
