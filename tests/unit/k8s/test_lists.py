"""A list is read object by object, and is what it would be as a whole."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.k8s import lists

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(), VALUES)


def whole(document: Any, **form: Any) -> bytes:
    return json.dumps(document, **form).encode()


@given(
    items=st.lists(OBJECTS),
    metadata=OBJECTS,
    more=OBJECTS,
    is_last=st.booleans(),
    indent=st.none() | st.just(2),
)
def test_a_list_is_read_as_it_would_be_whole(
    items: list[Any], metadata: Any, more: Any, is_last: bool, indent: int | None
):
    """Whatever is in it, and whether what is told of all of it comes before the objects or after them."""
    parts = {"metadata": metadata, "items": items}
    told = {**more, **(dict(reversed(parts.items())) if is_last else parts)}

    page = lists.parse(whole(told, indent=indent, ensure_ascii=bool(indent)), dict)

    assert (items, metadata) == (page.items, page.metadata)


@pytest.mark.parametrize("content", [{"items": None, "metadata": None}, {}, {"items": []}])
def test_a_list_may_be_empty(content: Any):
    """Go has two ways of saying so."""
    page = lists.parse(whole(content), dict)

    assert ([], {}) == (page.items, page.metadata)


def test_each_object_is_cut_before_the_next_one_is_read():
    """That is what keeps a large list small: here the third cannot be read."""
    seen: list[Any] = []

    def keep(document: Any) -> Any:
        seen.append(document["a"])
        return document

    with pytest.raises(ValueError, match="Expecting"):
        lists.parse(b'{"items": [{"a": 1}, {"a": 2}, {"a"', keep)

    assert [1, 2] == seen


LIST = whole(
    {"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [{"a": "ü"}, {}]}, ensure_ascii=False
)


@pytest.mark.parametrize("length", range(len(LIST)))
def test_a_list_that_was_cut_off_is_none(length: int):
    """Wherever: what is missing must not be taken for deleted."""
    with pytest.raises(ValueError):
        lists.parse(LIST[:length], dict)


@pytest.mark.parametrize("content", [b"[]", b"1", b'"items"', b'{"items" 1}', b"{1", b"\xff", b"<html>"])
def test_what_is_no_list_is_refused(content: bytes):
    """A proxy may answer anything."""
    with pytest.raises(ValueError):
        lists.parse(content, dict)
