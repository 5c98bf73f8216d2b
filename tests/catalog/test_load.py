from __future__ import annotations

import pytest

from local_worker.catalog.load import find, find_file, find_quant, is_path, load, parse
from local_worker.errors import CatalogError

CATALOG = load()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gemma-4-26b", "gemma-4-26b"),
        ("Gemma-4-26B-A4B", "gemma-4-26b"),
        (" gpt-oss ", "gpt-oss-20b"),
        ("DEMO", "demo"),
    ],
)
def test_find_by_id_and_alias(name, model):
    assert find(CATALOG, name).id == model


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gema-4-31b", "did you mean gemma-4-31b or "),
        ("qwen3.5-3b", "did you mean qwen3.5-"),
        ("qwen", "did you mean qwen"),
        ("zzzzzz", "`local-worker models list` shows all"),
        ("", "`local-worker models list` shows all"),
    ],
)
def test_an_unknown_name_gets_near_ones(name, hint):
    with pytest.raises(CatalogError) as caught:
        find(CATALOG, name)
    assert str(caught.value).startswith(f"unknown model {name!r}: {hint}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "models.yaml is not valid YAML: "),
        ("", "models.yaml: the whole file: Input should be a valid dict"),
        ("date: '2026-11-22'\nmodels: []", "models.yaml: models: Tuple should have at least 1"),
        ("date: today\nmodels: []\nmore: 1", "models.yaml: date: String should match pattern"),
        ("!!python/object/apply:os.getcwd []", "models.yaml is not valid YAML: could not"),
    ],
)
def test_a_wrong_catalog_is_one_line(text, message):
    with pytest.raises(CatalogError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_load_from_a_path(tmp_path):
    with pytest.raises(CatalogError, match="cannot read the catalog"):
        load(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CatalogError, match="cannot read the catalog"):
        load(path)


def test_find_a_model_by_its_file():
    found = find_file(CATALOG, "/models/GEMMA-4-26b_q4_0-it.gguf")
    assert found is not None
    assert (found[0].id, found[1].quant) == ("gemma-4-26b", "Q4_0-QAT")
    assert find_file(CATALOG, "mine.gguf") is None


def test_find_a_quantisation():
    model = find(CATALOG, "gemma-4-26b")
    assert find_quant(model, None).quant == "Q4_0-QAT"
    assert find_quant(model, "q8_0").quant == "Q8_0"
    with pytest.raises(CatalogError, match="gemma-4-26b has no Q2_K: Q4_0-QAT, UD-Q4_K_XL-QAT"):
        find_quant(model, "Q2_K")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gemma-4-26b", False),
        ("qwen3.5-4b", False),
        ("x.gguf", True),
        ("./x", True),
        ("~/m/x.GGUF", True),
        ("models/x", True),
    ],
)
def test_is_path(name, path):
    assert is_path(name) is path
