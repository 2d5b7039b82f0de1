"""Where in a value is what cannot be sent, in the words of whoever gave it."""

from __future__ import annotations

import pytest

from cloister.ipc import CodecError, values


class _Pair(values.Named):
    names = ("first", "second")


def told(value: object) -> str:
    """What is said of a value."""
    with pytest.raises(CodecError) as caught:
        values.dumps(value)
    return str(caught.value)


def test_the_way_is_told_from_the_value_that_was_given() -> None:
    """The value itself needs no place."""
    assert told({"a": [1, object()]}).endswith("send plain values, at value['a'][1]")
    assert told(object()).endswith("send plain values")


def test_what_is_sent_together_is_called_by_its_name() -> None:
    """And from there on by keys."""
    assert told(values.Named(([object()], {}))).endswith("at args[0]")
    assert told(values.Named(([], {"a": {"b": object()}}))).endswith("at kwargs['a']['b']")


def test_of_what_was_wrapped_for_the_way_only_the_inside_is_told() -> None:
    """Whoever gave it knows nothing of what is around it, be it one layer or two."""
    inside = values.Named(([1, [object()]], {}))
    assert told([1, {"x": inside}]).endswith("at args[1][0]")
    assert told(values.Named(("t", _Pair((1, [inside]))))).endswith("at args[1][0]")
    assert told(values.Named(("t", _Pair((1, [object()]))))).endswith("at second[0]")
