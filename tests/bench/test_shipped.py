from __future__ import annotations

import pytest

from local_worker.bench.shipped import text_of
from local_worker.errors import ConfigError


def test_a_shipped_one_by_its_name_and_ones_own_by_its_path(tmp_path):
    assert text_of("suite", "embedded")[0] == "embedded.yaml"
    assert "clients" in text_of("scenario", "stream")[1]
    path = tmp_path / "mine.yml"
    path.write_text("a: 1")
    assert text_of("suite", str(path)) == (str(path), "a: 1")


@pytest.mark.parametrize("kind", ["suite", "scenario"])
def test_what_is_not_there_or_no_text_is_refused(kind, tmp_path):
    with pytest.raises(ConfigError, match=f"there is no {kind} 'x'; there are"):
        text_of(kind, "x")
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xe9")
    for name in (str(path), str(tmp_path / "none.yaml")):
        with pytest.raises(ConfigError, match=f"the {kind} .* cannot be read"):
            text_of(kind, name)
