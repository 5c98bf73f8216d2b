from __future__ import annotations

import pytest

from local_worker.guidance import ONE_LINE, with_guidance


def test_json_is_one_line_unless_the_schema_wishes_otherwise():
    assert with_guidance({"type": "object"}) == {"type": "object", "x-guidance": ONE_LINE}
    found = with_guidance({"x-guidance": {"item_separator": " ,\n"}}, lenient=True)
    assert found["x-guidance"] == ONE_LINE | {"lenient": True, "item_separator": " ,\n"}


def test_the_schema_itself_is_left_alone():
    schema = {"x-guidance": {"lenient": True}}
    with_guidance(schema)
    assert schema == {"x-guidance": {"lenient": True}}


@pytest.mark.parametrize(
    "wish", [{"key_separator": "="}, {"item_separator": ""}, {"key_separator": 1}]
)
def test_a_wish_that_would_be_no_json_is_refused(wish):
    with pytest.raises(ValueError, match=next(iter(wish))):
        with_guidance({"x-guidance": wish})
