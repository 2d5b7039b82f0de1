"""`pyodide.ffi`: conversions to a language that is not there, and back. What goes through them is copied.

`to_js` gives lists and maps that also have what programs ask of JavaScript's.
"""

from __future__ import annotations

import inspect
from typing import Any

from cloister.ipc.capabilities import serve
from cloister.sandbox.guest.conversions import JsArray, JsException, JsMap, to_js
from cloister.sandbox.guest.nesting import run_sync
from cloister.sandbox.guest.readers import Piece

__all__ = ["ConversionError", "JsArray", "JsException", "JsMap", "JsNull", "JsProxy", "can_run_sync",
           "create_once_callable", "create_proxy", "destroy_proxies", "jsnull", "register_js_module", "run_sync",
           "to_js"]  # fmt: skip


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return type(instance).__module__.partition(".")[0] == "js" or isinstance(instance, JsArray | JsMap)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return type.__subclasscheck__(cls, subclass)


class JsProxy(metaclass=_Kind):
    """What objects of the module `js` are, and what `to_js` gives. Values that came over the wire are Python's."""


class ConversionError(Exception):
    """It cannot be converted."""


JsNull = type(None)
jsnull = None


class Proxy:
    """A function that JavaScript would have been given."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._function == (other._function if isinstance(other, Proxy) else other))

    def __hash__(self) -> int:
        return hash(self._function)

    def __capability__(self) -> Any:
        return serve(self._function)

    def copy(self) -> Proxy:
        """The same."""
        return self

    def destroy(self) -> None:
        """Python lets go of it by itself."""


def create_proxy(obj: Any, /, **_: Any) -> Any:
    """The object: nothing needs to stand for it, but what programs let go of, or ask for its buffer."""
    if isinstance(obj, bytes | bytearray | memoryview):
        return Piece(obj)
    return Proxy(obj) if inspect.isroutine(obj) else obj


create_once_callable = create_proxy


def destroy_proxies(_: Any) -> None:
    """There are none."""


def can_run_sync() -> bool:
    """Yes: `run_sync` waits for a coroutine while the loop goes on."""
    return True


def register_js_module(name: str, module: Any) -> None:
    """`ImportError`: there is no JavaScript here."""
    raise ImportError(f"{name!r} cannot be registered: there is no JavaScript in a sandbox")
