from __future__ import annotations

import pytest

from local_worker.errors import ConfigError
from local_worker.rules import EffortRule, When, read_calibration, read_rules


def test_a_file_of_rules(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        """
- name: extraction
  when: {response_format: json_schema, prompt_tokens_below: 4000}
  effort: none
- name: audits
  when: {metadata: {team: audit}, model: auditor}
  effort: high
"""
    )
    assert read_rules(path) == (
        EffortRule(
            name="extraction",
            when=When(response_format="json_schema", prompt_tokens_below=4000),
            effort="none",
        ),
        EffortRule(
            name="audits", when=When(metadata={"team": "audit"}, model="auditor"), effort="high"
        ),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: a, when: {modle: b}, effort: low}", r"0.when.modle: Extra"),
        ("- {name: a, when: {model: b}, effort: auto}", r"0.effort: Input should be"),
        ("- {name: a, when: {model: b}}", r"0.effort: Field required"),
        ("- {name: a, when: {}, effort: low}", "says nothing"),
        ("- {when: {model: b}, effort: low}", r"0.name"),
        ("- {name: a, when: {prompt_tokens_above: -1}, effort: low}", "prompt_tokens_above"),
        ("name: a", "line 1: Input should be a valid tuple"),
        ("- {name: [", "is not valid YAML"),
        ("- 2026-13-01", "is not valid YAML"),
        ("", "line 1: Input should be"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, text, words):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_rules(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_rules(tmp_path / "rules.yaml")


TABLE = "model: m\neffort: {none: 0, minimal: 8, low: 8, medium: 9, high: 9, xhigh: 9}\n"


def test_a_calibration_is_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(TABLE)
    found = read_calibration(path)
    assert (found.model, found.effort["high"], found.early_exit) == ("m", 9, None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("none: 0", "none: 1", "from 0 on"),
        ("high: 9", "high: 7", "never falls"),
        ("low: 8, ", "", "lists none, minimal, low"),
        ("minimal: 8", "minimal: -8", "line 2: effort.minimal"),
        ("model: m", "modle: m", "Field required"),
    ],
)
def test_a_wrong_calibration_is_refused(tmp_path, old, new, words):
    path = tmp_path / "c.yaml"
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        read_calibration(path)
