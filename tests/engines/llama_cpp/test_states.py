from __future__ import annotations

import shutil

import pytest

from local_worker.engines.llama_cpp.kept import KeptMatch, KeptPrefixes, Prefix
from local_worker.engines.llama_cpp.states import FileStates, MemoryStates, identity_of

SYSTEM = tuple(range(1000, 1100))
DATA = memoryview(bytearray(b"state" * 1000))


@pytest.fixture(params=["memory", "files"])
def states(request, tmp_path):
    states = MemoryStates() if request.param == "memory" else FileStates(tmp_path, "me")
    yield states
    states.close()


def test_what_is_put_can_be_fetched(states):
    states.put(1, Prefix(SYSTEM, ""), DATA)
    assert states.fetch(1)
    assert states.get(1) == DATA


def test_what_was_fetched_is_there_until_the_step_is_over(states):
    states.put(1, Prefix(SYSTEM, ""), DATA)
    states.put(2, Prefix(SYSTEM[1:], ""), DATA)
    assert states.fetch(1)
    states.drop(1)
    assert states.get(1) == DATA
    assert states.fetch(2)
    states.settle()
    with pytest.raises(KeyError):
        states.get(1)


def written(folder, identity="me", salt=""):
    states = FileStates(folder, identity)
    states.put(1, Prefix(SYSTEM, salt), DATA)
    states.close()
    (path,) = folder.glob("*.kv")
    return path


def restored(folder, identity="me"):
    states = FileStates(folder, identity)
    kept = KeptPrefixes(10**6, fetch=states.fetch)
    return states, kept, states.restore(kept)


def test_the_next_process_finds_them(tmp_path):
    path = written(tmp_path)
    assert path.stat().st_mode & 0o077 == 0  # prompts are nobody else's business
    states, kept, counts = restored(tmp_path)
    assert counts == (1, 0)
    assert kept.size == len(DATA)
    assert kept.find((*SYSTEM, 1), "") == KeptMatch(1, 100, 100)
    assert states.get(1) == DATA
    states.close()


def test_files_of_another_model_or_build_are_left_alone(tmp_path):
    path = written(tmp_path)
    states, kept, counts = restored(tmp_path, "another")
    assert counts == (0, 1)
    assert kept.find(SYSTEM, "") is None
    states.close()
    assert path.exists()


@pytest.mark.parametrize("damage", ["header", "cut short", "empty", "longer"])
def test_files_that_are_not_whole_are_not_listed(tmp_path, damage):
    path = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        {"header": b"x" + data[1:], "cut short": data[:-1], "empty": b"", "longer": data + b"x"}[
            damage
        ]
    )
    states, _, counts = restored(tmp_path)
    assert counts == (0, 1)
    states.close()


def test_a_header_that_was_changed_is_not_believed(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1000,1001", b"1000,1002"))
    states, kept, counts = restored(tmp_path)
    assert counts == (0, 1)
    assert kept.size == 0
    states.close()


def test_what_is_more_than_there_is_room_for_goes_at_the_start(tmp_path):
    written(tmp_path)
    states = FileStates(tmp_path, "me")
    states.restore(KeptPrefixes(100, fetch=states.fetch))
    states.close()
    assert not list(tmp_path.glob("*.kv"))


def test_a_state_that_was_changed_is_never_loaded(tmp_path, caplog):
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    states, kept, counts = restored(tmp_path)
    assert counts == (1, 0)
    assert kept.find(SYSTEM, "") is None
    assert not path.exists()
    assert "not what was written" in caplog.text
    states.close()


def test_a_file_that_has_gone_is_no_match(tmp_path):
    path = written(tmp_path)
    states, kept, _ = restored(tmp_path)
    path.unlink()
    assert kept.find(SYSTEM, "") is None
    states.close()


def test_what_belonged_to_a_tenant_of_an_earlier_process_is_removed(tmp_path):
    path = written(tmp_path, salt="secret of that process")
    states, _, counts = restored(tmp_path)
    assert counts == (0, 0)
    assert not path.exists()
    states.close()


def test_dropped_files_are_removed(tmp_path):
    states = FileStates(tmp_path, "me")
    states.put(1, Prefix(SYSTEM, ""), DATA)
    states.drop(1)
    states.close()
    assert not list(tmp_path.glob("*.kv"))


def test_half_written_files_are_cleared_away(tmp_path):
    (tmp_path / "x.part").write_bytes(b"half")
    FileStates(tmp_path, "me").close()
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written_to_is_said_once_and_ends_nothing(tmp_path, caplog):
    folder = tmp_path / "cache"
    states = FileStates(folder, "me")
    shutil.rmtree(folder)
    for key in (1, 2):
        states.put(key, Prefix(SYSTEM[key:], ""), DATA)
    states._writer.submit(lambda: None).result()
    assert caplog.text.count("cannot be kept") == 1
    assert not states.fetch(1)
    states.close()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, caplog):
    path = written(tmp_path)
    part = path.with_suffix(".part")
    path.unlink()
    states = FileStates(tmp_path, "me")
    part.symlink_to("/dev/full")
    states.put(1, Prefix(SYSTEM, ""), DATA)
    states.close()
    assert "No space left" in caplog.text
    assert not part.is_symlink()
    assert not path.exists()


def test_one_server_a_folder(tmp_path):
    states = FileStates(tmp_path, "me")
    with pytest.raises(OSError, match="another server"):
        FileStates(tmp_path, "me")
    states.close()
    FileStates(tmp_path, "me").close()


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        FileStates(tmp_path / "file", "me")


def test_what_tells_models_apart(tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    first = identity_of(model, "1", "f16")
    assert first == identity_of(model, "1", "f16")
    others = {identity_of(model, "2", "f16"), identity_of(model, "1", "q8_0")}
    model.write_bytes(b"weightz")
    others.add(identity_of(model, "1", "f16"))
    assert len(others | {first}) == 4


def test_every_part_of_a_split_model_counts(tmp_path):
    parts = [tmp_path / f"m-{number:05}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"weights")
    (tmp_path / "n-00002-of-00002.gguf").write_bytes(b"another model")
    first = identity_of(parts[0], "1", "f16")
    parts[1].write_bytes(b"weightz")
    assert identity_of(parts[0], "1", "f16") != first
