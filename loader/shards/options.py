"""What an instance is created with, or sent, on its way to the shard: the tenant's own value as the bytes that will be
stored, which nobody reads on the way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cloister.engine import Encoded
from cloister.ipc import values

_OPAQUE: Final = ("params", "payload")


def packed(options: object) -> dict[str, Any]:
    """Options as they are sent. `CodecError`, `TypeError`."""
    if not isinstance(options, Mapping):
        raise TypeError(f"the options of an instance are a dict, not {type(options).__name__}")
    sent = dict(options)
    for name in _OPAQUE:
        if name in sent:
            value = sent[name]
            sent[name] = value.data if isinstance(value, Encoded) else values.dumps(value)
    if "retention" in sent:
        sent["retention"] = _durations(sent["retention"])
    return sent


def unpacked(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The same options again."""
    return {name: Encoded(value) if name in _OPAQUE else value for name, value in sent.items()}


def each_packed(batch: object) -> Any:
    """A batch as it is sent: a list of options, or a dict that has one, or that is of many alike."""
    if not isinstance(batch, Mapping):
        return [packed(options) for options in batch]  # type: ignore[attr-defined]  # or `TypeError`
    sent, listed = packed(batch), batch.get("instances")
    if isinstance(listed, Sequence) and not isinstance(listed, str | bytes):
        sent["instances"] = [packed(options) for options in listed]
    return sent


def each_unpacked(sent: Any) -> Any:
    """The same batch again."""
    if isinstance(sent, list):
        return [unpacked(options) for options in sent]
    batch, listed = unpacked(sent), sent.get("instances")
    return {**batch, "instances": each_unpacked(listed)} if isinstance(listed, list) else batch


def size(sent: Mapping[str, Any]) -> int:
    """Bytes of what is large in them."""
    return sum(len(sent.get(name, b"")) for name in _OPAQUE)


def _durations(retention: object) -> object:
    """The wire has no durations, and an engine takes milliseconds as well."""
    if isinstance(retention, dt.timedelta):
        return retention / dt.timedelta(milliseconds=1)
    if isinstance(retention, Mapping):
        return {name: _durations(each) for name, each in retention.items()}
    return retention
