"""A worker's own entrypoints, as it has them from inside: `ctx.exports.Other(props={...}).method()`.

Each call makes a new object of the class, as one from outside does. Passed on, it is a binding like any other. Not
imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cloister.ipc.capabilities import Capability, Served
from cloister.ipc.errors import CapabilityError

from . import entrypoints, handlers, http
from .worker import result

Make = Callable[[str, Any], Any]
"""Given the name of a class and props: an object that answers one call."""


class Exports:
    """`ctx.exports`: its attributes are entrypoints by name."""

    __module__ = "workers"

    def __init__(self, make: Make) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Loopback:
        if name.startswith("_"):
            raise AttributeError(name)
        return Loopback(self._make, name, None)


class Loopback:
    """One of them. Called, it is the same with props of its own; its attributes are methods."""

    __module__ = "workers"

    def __init__(self, make: Make, name: str, props: Any) -> None:
        self._make, self._name, self._props = make, name, props

    def __call__(self, options: Mapping[str, Any] | None = None, /, *, props: Any = None) -> Loopback:
        return Loopback(self._make, self._name, (options or {}).get("props", props))

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return functools.partial(self._fetch if method == "fetch" else self._ask, method)

    async def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await result(entrypoints.method(self._make(self._name, self._props), method), *args, **kwargs)

    async def _fetch(self, method: str, resource: Any, options: Any = None, /, **more: Any) -> Any:
        request = http.Request(resource, **{**(options or {}), **more})
        return await handlers.fetch(entrypoints.method(self._make(self._name, self._props), method), request)

    def __capability__(self) -> Capability:
        """What it is for whoever it is passed on to."""
        return Served(self, self._public, {})

    def _public(self, method: str) -> Callable[..., Any]:
        if not method or method.startswith("_"):
            raise CapabilityError(f"no method {method!r} may be called from outside")
        return self.__getattr__(method)
