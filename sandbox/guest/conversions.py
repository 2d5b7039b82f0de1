"""Values as programs have them that speak to JavaScript: lists and maps that also have what those of JavaScript have.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cloister.ipc.errors import RemoteError

from .readers import Piece
from .values import JsDict

JsException = RemoteError
"""What was raised on the other side is what JavaScript's errors would be: it has a `name` and a `message`."""


class NotJson(json.JSONDecodeError, RemoteError):
    """Text is not JSON, for programs that expect an error of JavaScript's."""

    def __init__(self, error: json.JSONDecodeError) -> None:
        json.JSONDecodeError.__init__(self, error.msg, error.doc, error.pos)
        self.name, self.message = "SyntaxError", str(error)


class JsArray(list[Any]):
    """A list that JavaScript made."""

    def to_py(self, **_: Any) -> list[Any]:
        """The same as a plain list."""
        return plain(self)  # type: ignore[no-any-return]

    @property
    def length(self) -> int:
        """How many there are."""
        return len(self)

    def push(self, *items: Any) -> int:
        """Some more."""
        self.extend(items)
        return len(self)

    def map(self, function: Callable[[Any], Any]) -> JsArray:
        """What a function gives for each."""
        return JsArray(function(item) for item in self)


class Moment(datetime.datetime):
    """A moment as it came, which can also be asked what a date of JavaScript's can."""

    def toISOString(self) -> str:  # noqa: N802 - the names of JavaScript
        """As `2026-01-02T03:04:05.678Z`."""
        there = self if self.tzinfo is None else self.astimezone(datetime.UTC)
        return f"{there.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"

    toJSON = toISOString  # noqa: N815

    def getTime(self) -> int:  # noqa: N802
        """Milliseconds since 1970."""
        return round((self if self.tzinfo else self.replace(tzinfo=datetime.UTC)).timestamp() * 1000)

    valueOf = getTime  # noqa: N815


def attribute(value: Any) -> Any:
    """A list or a moment, as who reads it as an attribute has it."""
    if isinstance(value, list):
        return JsArray(value)
    moment = Moment.combine(value.date(), value.timetz())
    return moment.replace(fold=value.fold)


class JsMap(JsDict):
    """A map, or an object, that JavaScript made."""

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def as_object_map(self, **_: Any) -> JsMap:
        """Itself."""
        return self

    def object_entries(self) -> JsArray:
        """Names and values."""
        return JsArray(JsArray(pair) for pair in self.items())

    def object_keys(self) -> JsArray:
        """Names."""
        return JsArray(self)

    def object_values(self) -> JsArray:
        """Values."""
        return JsArray(self.values())


def to_js(
    obj: Any,
    /,
    *,
    depth: int = -1,
    pyproxies: Any = None,
    create_pyproxies: bool = True,
    dict_converter: Callable[[Iterable[Any]], Any] | None = None,
    default_converter: Callable[..., Any] | None = None,
    eager_converter: Callable[..., Any] | None = None,
) -> Any:
    """A copy of lists, tuples and maps, all the way down; anything else as it is."""
    if depth == 0:
        return obj
    rest: dict[str, Any] = {"depth": depth - 1, "dict_converter": dict_converter}
    match obj:
        case Mapping() if not hasattr(type(obj), "__capability__"):  # such as headers, which stay what they are
            pairs = [(key, to_js(value, **rest)) for key, value in obj.items()]
            return JsMap(pairs) if dict_converter is None else dict_converter(pairs)
        case list() | tuple():
            return JsArray(to_js(value, **rest) for value in obj)
        case bytes() | bytearray() | memoryview():
            return Piece(obj)
    return obj


def plain(value: Any) -> Any:
    """A copy of lists and maps as Python's own, all the way down."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
