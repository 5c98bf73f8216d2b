from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter

from local_worker.documents import Record, line_of, parse, read
from local_worker.errors import ConfigError


class Item(Record):
    name: str
    price: Annotated[float, Field(gt=0)] = 1.0


class Order(Record):
    items: tuple[Item, ...] = Field(strict=False)


ORDER = TypeAdapter(Order)
TEXT = "items:\n- name: pen\n  price: 2\n- name: cup\n  price: 3.5\n"


def test_a_text_becomes_a_record():
    assert parse(ORDER, TEXT, "here") == Order(
        items=(Item(name="pen", price=2.0), Item(name="cup", price=3.5))
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("price: 3.5", "price: -1", "order.yaml, line 5: items.1.price: Input should be greater"),
        (
            "price: 2",
            "price: '2'",
            "order.yaml, line 3: items.0.price: Input should be a valid num",
        ),
        ("name: cup", "nmae: cup", "order.yaml, line 4: items.1.name: Field required"),
        ("items:", "goods:", "order.yaml, line 1: items: Field required"),
        ("- name: pen", "- {name: [", "order.yaml is not valid YAML"),
    ],
)
def test_a_wrong_one_is_refused_with_its_line(tmp_path, old, new, words):
    path = tmp_path / "order.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        read(ORDER, path, "order.yaml")
    assert words in str(refused.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        read(ORDER, tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml cannot be read"):
        read(ORDER, binary)


def test_a_place_is_found_by_its_line():
    assert line_of(TEXT, ("items", 1, "price")) == 5
    assert line_of(TEXT, ("items", 1, "missing")) == 4
