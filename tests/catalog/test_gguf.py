from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_worker.catalog.gguf import SkippedArray, read_header
from local_worker.catalog.gguf_facts import read_facts
from local_worker.catalog.guess import guess_thinking
from local_worker.errors import ModelFileError


def test_reads_metadata_and_tensors(tiny):
    header = read_header(tiny())
    assert header.version == 3
    assert header.metadata["general.name"] == "Tiny"
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(4)
    assert [(t.name, t.type_name, t.offset, t.size) for t in header.tensors] == [
        ("token_embd.weight", "Q8_0", 0, 272),
        ("blk.0.attn_q.weight", "Q8_0", 288, 8704),
        ("blk.0.ffn_up_exps.weight", "Q8_0", 8992, 26112),
        ("output_norm.weight", "F32", 35104, 256),
    ]
    assert header.tensor_bytes == 272 + 8704 + 26112 + 256


def test_reads_every_scalar_and_array_type(tmp_path, gguf):
    path = tmp_path / "a.gguf"
    path.write_bytes(
        gguf({"a": True, "b": 7, "c": 0.5, "d": "x", "e": [1, -2], "f": [True, False]})
    )
    assert dict(read_header(path).metadata) == {
        "a": True,
        "b": 7,
        "c": 0.5,
        "d": "x",
        "e": (1, -2),
        "f": (True, False),
    }


def test_steps_over_a_long_vocabulary(tmp_path, gguf):
    path = tmp_path / "a.gguf"
    tokens = [f"token{i}" * (i % 7) for i in range(200_000)]
    path.write_bytes(gguf({"t": tokens, "n": list(range(5_000)), "last": "end"}))
    assert dict(read_header(path).metadata) == {
        "t": SkippedArray(200_000),
        "n": SkippedArray(5_000),
        "last": "end",
    }


def test_a_string_longer_than_the_window_is_stepped_over(tmp_path, gguf):
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf({"t": ["x" * 3_000_000, "y"], "last": "end"}))
    assert read_header(path).metadata["last"] == "end"


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a GGUF file (it has 0 bytes)"),
        (b"GG", "is not a GGUF file (it has 2 bytes)"),
        (b"PK\x03\x04" + b"\0" * 40, "is not a GGUF file (starts with b'PK\\x03\\x04')"),
        (b"GGUF", "is truncated: the header ends at byte 8 but the file has 4"),
        (b"GGUF" + struct.pack("<I", 1), "has GGUF version 1; versions 2 and 3 can be loaded"),
        (b"GGUF" + struct.pack(">I", 3), "is a big-endian GGUF file; only little-endian ones can"),
        (b"GGUF" + struct.pack("<IQ", 3, 0), "is truncated: the header ends at byte 24"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
            "is truncated or corrupt: it claims 9,223,372,036,854,775,808 metadata values",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0),
            "is truncated or corrupt: it claims 1,099,511,627,776 tensors",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + b"\0" * 20,
            "is truncated: the name of metadata value 0 ends at byte 4,611,686,018,427,387,936",
        ),
        (
            HEAD + struct.pack("<I", 99) + b"\0" * 9,
            "is corrupt: metadata value 'k' has the unknown",
        ),
        (HEAD + struct.pack("<IQ", 8, 2**64 - 1), "is truncated: metadata value 'k' ends at byte"),
        (
            HEAD + struct.pack("<IIQ", 9, 9, 1),
            "is corrupt: metadata value 'k' is an array of arrays",
        ),
        (HEAD + struct.pack("<IIQ", 9, 77, 1), "is an array of the unknown type 77"),
        (HEAD + struct.pack("<IIQ", 9, 4, 2**40), "is truncated: metadata value 'k' of 1,099,511"),
        (HEAD + struct.pack("<IIQ", 9, 8, 2**61), "is truncated: metadata value 'k' of 2,305,843"),
        (
            HEAD + struct.pack("<IIQQ", 9, 8, 1, 2**63),
            "is truncated: metadata value 'k' ends at byte",
        ),
    ],
)
def test_a_broken_header_is_one_clear_line(tmp_path, data, message):
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_tensor_is_named(tiny):
    path = tiny()
    data = path.read_bytes()
    path.write_bytes(data[:-32])
    header_end = len(data) - (288 + 8704 + 26112 + 256)
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert str(caught.value) == (
        f"{path} is truncated: tensor output_norm.weight ends at byte {header_end + 35360:,}"
        f" but the file has {len(data) - 32:,}"
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a", (32, 0), 8)], "is corrupt: tensor a has the impossible shape (32, 0)"),
        ([("a", (31,), 8)], "is corrupt: rows of tensor a do not divide into blocks of 32"),
        ([("a", (1,), 0), ("a", (1,), 0)], "is corrupt: the tensor a occurs twice"),
        ([("a", (1,) * 5, 0)], "is corrupt: tensor a has 5 dimensions, more than 4"),
        ([("n" * 65, (1,), 0)], "is corrupt: the name of tensor 0 is 65 bytes long, more than 64"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, gguf, tensors, message):
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf({"a": 1}, tensors))
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "kind", "offset", "message"),
    [
        ((2**62, 8), 0, 0, "is corrupt: tensor t has the impossible shape"),
        ((1,), 4, 0, "has tensor t of type 4, which is not known here"),
        ((1,), 1000, 0, "has tensor t of type 1000, which is not known here"),
        ((1,), 0, 32, "is corrupt: tensor t starts at 32, not at 0"),
        ((2**40,), 0, 0, "is truncated: tensor t ends at byte 4,398,046,511,168"),
    ],
)
def test_tensor_entries_that_lie(tmp_path, shape, kind, offset, message):
    entry = struct.pack("<Q", 1) + b"t" + struct.pack("<I", len(shape))
    entry += struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)
    path = tmp_path / "a.gguf"
    path.write_bytes((b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry).ljust(128, b"\0"))
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("alignment", [0, 3, 48, 1 << 21])
def test_alignment_must_be_a_power_of_two(tmp_path, alignment):
    path = tmp_path / "a.gguf"
    key = b"general.alignment"
    value = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, alignment)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + value)
    with pytest.raises(ModelFileError, match="is not a power of two"):
        read_header(path)


def test_a_repeated_key_is_refused(tmp_path):
    pair = struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 1)
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair + pair)
    with pytest.raises(ModelFileError, match="the metadata key 'k' occurs twice"):
        read_header(path)


def test_names_from_the_file_cannot_reprogram_a_terminal(tmp_path, gguf):
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf({"a": 1}, [("\x1b[2J\n", (31,), 8)]))
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert str(caught.value).isprintable()


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match="does not exist"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="is not a file"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="is not a file"):
        read_header(tmp_path / "pipe.gguf")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFileError, match="cannot be read: Permission denied"):
        read_header(path)


def test_counts_that_a_huge_file_could_hold_are_refused(tmp_path):
    """A file of zeros can be as long as it likes without taking any disk."""
    path = tmp_path / "a.gguf"
    for head, message in (
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 17), "it claims 131,072 metadata values"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 19, 0), "it claims 524,288 tensors"),
        (HEAD + struct.pack("<IIQ", 9, 8, 1 << 25), "claims 33,554,432 strings"),
        (HEAD + struct.pack("<IQ", 8, 9 << 20), "is 9,437,184 bytes long, more than 8,388,608"),
    ):
        path.write_bytes(head)
        os.truncate(path, 1 << 30)
        with pytest.raises(ModelFileError, match=message):
            read_header(path)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_files_raise_nothing_else(tiny, data):
    path = Path(tiny())
    content = bytearray(path.read_bytes()[: data.draw(st.integers(0, 40_000))])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, 1_600))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    assert outcome(path).isprintable()


def outcome(path: Path) -> str:
    """The error's text; anything but a ModelFileError fails the test by itself."""
    try:
        facts = read_facts(path)
    except ModelFileError as error:
        return str(error)
    guess_thinking(facts.chat_template, facts.architecture)
    return "fits" if facts.tensor_bytes <= facts.file_bytes else "\n"
