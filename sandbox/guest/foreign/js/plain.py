"""Of the language itself: objects, arrays, JSON, dates, numbers, the console, timers."""

from __future__ import annotations

import asyncio
import builtins
import copy
import datetime
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from cloister.sandbox.guest.conversions import JsArray, JsException, JsMap, to_js

undefined = None


class Object:
    """Maps with text keys."""

    @staticmethod
    def new(*args: Any, **fields: Any) -> Any:
        """A new one."""
        return JsMap(*args, **fields)

    @staticmethod
    def fromEntries(entries: Iterable[Any]) -> Any:  # noqa: N802
        """Of pairs; also of a map's."""
        return JsMap(entries.items() if isinstance(entries, dict) else entries)

    @staticmethod
    def entries(value: Any) -> Any:
        """Names and values."""
        return JsArray(JsArray(pair) for pair in value.items())

    @staticmethod
    def keys(value: Any) -> Any:
        """Names."""
        return JsArray(value)

    @staticmethod
    def values(value: Any) -> Any:
        """Values."""
        return JsArray(value.values())

    @staticmethod
    def assign(target: Any, *sources: Any) -> Any:
        """The first, with what is in the others."""
        for source in sources:
            target.update(source or {})
        return target

    @staticmethod
    def freeze(value: Any) -> Any:
        """The same: nothing holds it still."""
        return value


class Map:
    """Maps."""

    @staticmethod
    def new(entries: Iterable[Any] = ()) -> Any:
        """Of pairs."""
        return JsMap(entries)


class Set:
    """Sets."""

    @staticmethod
    def new(items: Iterable[Any] = ()) -> builtins.set[Any]:
        """Of items."""
        return set(items)


class Array:
    """Lists."""

    @staticmethod
    def new(*items: Any) -> Any:
        """Of so many places, or of these items."""
        alone = items[0] if len(items) == 1 else None
        return JsArray([None] * alone if isinstance(alone, int) else items)

    @staticmethod
    def of(*items: Any) -> Any:
        """Of these items."""
        return JsArray(items)

    @staticmethod
    def isArray(value: Any) -> bool:  # noqa: N802
        """Whether it is one."""
        return isinstance(value, list)


def _from(items: Iterable[Any], function: Callable[[Any], Any] | None = None) -> Any:
    return JsArray(items if function is None else map(function, items))


setattr(Array, "from", staticmethod(_from))  # which is no name of Python's


def _as_json(value: Any) -> Any:
    """What JSON has no word for: a moment is text, an object says itself what it is, or has nothing to be seen."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value.toJSON() if hasattr(value, "toJSON") else {}


class JSON:
    """JSON, written as JavaScript does."""

    @staticmethod
    def stringify(value: Any, replacer: Any = None, space: Any = None) -> str:
        """As text."""
        indent = space if isinstance(space, int) and space else None
        separators = (",", ":") if indent is None else (",", ": ")
        return json.dumps(value, separators=separators, indent=indent, ensure_ascii=False, default=_as_json)

    @staticmethod
    def parse(text: str) -> Any:
        """From text."""
        return to_js(json.loads(text))


class Number:
    """Numbers."""

    MAX_SAFE_INTEGER = 2**53 - 1

    def __new__(cls, value: Any = 0) -> Any:
        """Of a text."""
        return cls.new(value)

    @staticmethod
    def new(value: Any = 0) -> Any:
        """Of a text."""
        number = float(value)
        return int(number) if number.is_integer() else number

    @staticmethod
    def isInteger(value: Any) -> bool:  # noqa: N802
        """Whether it is a whole one."""
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


class String:
    """Text."""

    def __new__(cls, value: Any = "") -> Any:
        """Of anything."""
        return str(value)

    new = staticmethod(str)


class Boolean:
    """Yes or no."""

    def __new__(cls, value: Any = False) -> Any:
        """Of anything."""
        return bool(value)


class Error(JsException):
    """An error."""

    @classmethod
    def new(cls, message: str = "", *_: Any) -> Error:
        """One of them."""
        return cls(cls.__name__, message)


TypeError = Error  # noqa: A001


class Math:
    """Numbers."""

    PI, E = math.pi, math.e
    random = staticmethod(random.random)
    floor, ceil, sqrt, pow = math.floor, math.ceil, math.sqrt, math.pow
    abs, min, max = abs, min, max
    round = staticmethod(lambda value: math.floor(value + 0.5))


class Promise:
    """What can be awaited."""

    @staticmethod
    async def all(waits: Iterable[Any]) -> Any:
        """All of them."""
        return JsArray(await asyncio.gather(*waits))

    @staticmethod
    async def resolve(value: Any = None) -> Any:
        """The value."""
        return value


class _Console:
    """Lines that are printed."""

    @staticmethod
    def log(*parts: Any) -> None:
        """One line."""
        print(*parts)

    @staticmethod
    def error(*parts: Any) -> None:
        """One line, as an error."""
        print(*parts, file=sys.stderr)

    info = debug = trace = log
    warn = error


class _Performance:
    @staticmethod
    def now() -> float:
        """Milliseconds since some moment."""
        return time.monotonic() * 1000


console, performance = _Console(), _Performance()


def setTimeout(function: Callable[..., Any], delay: float = 0, *args: Any) -> Any:  # noqa: N802
    """Call it after so many milliseconds."""

    def call() -> None:
        result = function(*args)
        if asyncio.iscoroutine(result):
            asyncio.ensure_future(result)  # noqa: RUF006

    return asyncio.get_running_loop().call_later(delay / 1000, call)


def clearTimeout(timer: Any) -> None:  # noqa: N802
    """Do not."""
    if timer is not None:
        timer.cancel()


def queueMicrotask(function: Callable[[], Any]) -> None:  # noqa: N802
    """Call it soon."""
    asyncio.get_running_loop().call_soon(function)


def structuredClone(value: Any, *_: Any) -> Any:  # noqa: N802
    """A copy."""
    return copy.deepcopy(value)
