from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from pydantic import ValidationError

from local_worker.catalog.schema import (
    Artifact,
    ArtifactFile,
    Catalog,
    KvLayers,
    ModelEntry,
    Shape,
    ThinkingSpec,
    json_schema,
)

EFFORT = {"none": 0, "minimal": 1, "low": 2, "medium": 3, "high": 4, "xhigh": 5}
THINKING: dict[str, Any] = {
    "start": "<think>",
    "end": "</think>",
    "close": "</think>",
    "primed": True,
    "switch": "always",
    "default_on": True,
    "effort": EFFORT,
    "answer_allowance": 128,
    "default_effort": "low",
}
SHAPE: dict[str, Any] = {"layers": 1, "hidden": 2, "vocab": 3, "context": 4, "kv": [[1, 2, 3]]}
ARTIFACT: dict[str, Any] = {"repo": "a/b", "quant": "Q8_0", "files": [["f.gguf"]]}
MODEL: dict[str, Any] = {
    "id": "m",
    "family": "f",
    "license": "MIT",
    "params": {"total": 2, "active": 1},
    "shape": SHAPE,
    "artifacts": [ARTIFACT],
}


def test_the_schema_file_is_up_to_date():
    text = (resources.files("local_worker.catalog") / "models.schema.json").read_text("utf-8")
    assert text == json_schema(), "run python -m local_worker.catalog.schema > models.schema.json"


def test_a_minimal_model():
    model = ModelEntry.model_validate(MODEL)
    assert model.shape.kv == (KvLayers(1, 2, 3),)
    assert model.artifacts[0].files == (ArtifactFile("f.gguf", None, None),)
    assert model.thinking is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("sizes",), "Extra inputs are not permitted"),
        (("shape", "heads"), "Extra inputs are not permitted"),
        (("artifacts", 0, "sha"), "Extra inputs are not permitted"),
        (("params", "count"), "Extra inputs are not permitted"),
    ],
)
def test_unknown_keys_are_refused(path, message):
    model: dict[str, Any] = {**MODEL, "shape": {**SHAPE}, "artifacts": [{**ARTIFACT}]}
    model["params"] = {**MODEL["params"]}
    target: Any = model
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = 1
    with pytest.raises(ValidationError, match=message):
        ModelEntry.model_validate(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Not An Id"}, "String should match pattern"),
        ({"artifacts": []}, "at least 1 item"),
        ({"artifacts": [ARTIFACT, ARTIFACT]}, "two artifacts have the same `quant`"),
        ({"artifacts": [{**ARTIFACT, "packaged": True}]}, "either `packaged` or has a `repo`"),
        ({"artifacts": [{**ARTIFACT, "repo": None}]}, "either `packaged` or has a `repo`"),
        ({"artifacts": [{**ARTIFACT, "repo": "../x"}]}, "String should match pattern"),
        ({"hf": "no-owner"}, "String should match pattern"),
        ({"artifacts": [{**ARTIFACT, "revision": "main"}]}, "String should match pattern"),
        ({"shape": {**SHAPE, "layers": 0}}, "greater than 0"),
        ({"shape": {**SHAPE, "swa": [[1, 1, 1]]}}, "`swa` layers need a `swa_window`"),
    ],
)
def test_wrong_models_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        ModelEntry.model_validate({**MODEL, **changes})


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../x", "a//x", "a\\x", "", ".", "a\0"])
def test_file_names_stay_inside(name):
    with pytest.raises(ValidationError, match="is not a plain relative path"):
        Artifact.model_validate({**ARTIFACT, "files": [[name]]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effort": {"none": 0}}, "`effort` must list none, minimal, low"),
        ({"effort": {**EFFORT, "max": 9}}, "`effort` must list"),
        ({"effort": {**EFFORT, "none": 1}}, "must start with none: 0"),
        ({"effort": {**EFFORT, "low": 9}}, "never fall"),
        ({"native_levels": {"low": "low"}}, "`native_levels` must be empty or list"),
        ({"switch": "sometimes"}, "Input should be"),
        ({"default_effort": "some"}, "Input should be"),
        ({"probe": {"labels": {"none": "no"}}}, "at least 2"),
        ({"probe": {"labels": {"some": "no", "low": "l"}}}, "Input should be"),
        ({"close": ""}, "at least 1 character"),
    ],
)
def test_wrong_thinking_is_refused(changes, message):
    ThinkingSpec.model_validate(THINKING)
    with pytest.raises(ValidationError, match=message):
        ThinkingSpec.model_validate({**THINKING, **changes})


def test_a_name_is_used_once():
    with pytest.raises(ValidationError, match="the name 'm' is used twice"):
        Catalog.model_validate(
            {"date": "2026-11-22", "models": [MODEL, {**MODEL, "id": "n", "aliases": ["M"]}]}
        )


def test_entries_are_frozen():
    model = ModelEntry.model_validate(MODEL)
    with pytest.raises(ValidationError, match="frozen"):
        model.id = "other"  # type: ignore[misc]


def test_sizes_need_every_file():
    files = [["a.gguf", 1], ["b.gguf", 2]]
    assert Artifact.model_validate({**ARTIFACT, "files": files}).total_bytes == 3
    files[1].pop()
    assert Artifact.model_validate({**ARTIFACT, "files": files}).total_bytes is None


def test_elements_per_token():
    shape = Shape.model_validate(
        {**SHAPE, "kv": [[5, 2, 512]], "swa": [[25, 8, 256]], "swa_window": 1024}
    )
    assert shape.kv_elements_per_token == 10_240
    assert shape.swa_elements_per_token == 102_400
