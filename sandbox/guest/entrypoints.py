"""The classes that a tenant derives from, and how those it defined are found.

Specification: Cloudflare's Python SDK. A new object for each call, made with `(ctx, env)`; `Default` is the default
entrypoint; what counts are the names in the main module's `__all__`, or else those that do not begin with `_`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from typing import Any, Final

from cloister.ipc.capabilities import RpcTarget as RpcTarget
from cloister.ipc.capabilities import public_property

from . import scope
from .values import JsDict

_OLDER: Final = frozenset({"on_fetch", "on_scheduled", "test"})
"""Functions of the main module, which programs had before there were classes."""


class NoSuchEntrypoint(Exception):
    """The worker's main module defines no entrypoint class of that name."""


class _Entrypoint:
    def __init__(self, ctx: Any, env: Any) -> None:
        self.ctx = ctx
        self.env = env


class WorkerEntrypoint(_Entrypoint):
    """Base class of a worker's entrypoints: their public methods can be called from outside."""

    __module__ = "workers"


class WorkflowEntrypoint(_Entrypoint):
    """Base class of workflows: `async def run(self, event, step)` is a durable function."""

    __module__ = "workers"

    async def run(self, event: Any, step: Any) -> Any:
        """To be defined by the tenant."""
        raise TypeError(f"{type(self).__name__} does not define run(self, event, step)")


def discover(module: types.ModuleType) -> dict[str, type[_Entrypoint]]:
    """The entrypoint classes of a main module, by name."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {}
    for name in names:
        value = getattr(module, name, None)
        if inspect.isclass(value) and issubclass(value, _Entrypoint) and value.__module__ != "workers":
            found[name] = value
    if not _OLDER.isdisjoint(vars(module)) and "python_no_global_handlers" not in scope.flags:
        importlib.import_module(f"{__package__}.legacy").add(found, module)
    return found


def find(entrypoints: dict[str, type[_Entrypoint]], name: str | None, main: str) -> type[_Entrypoint]:
    """One of them; `NoSuchEntrypoint` says which there are."""
    wanted = "Default" if name in {None, "default"} else name
    found = entrypoints.get(wanted or "Default")
    if found is None:
        there = ", ".join(sorted(entrypoints)) or "none"
        raise NoSuchEntrypoint(f"Worker has no such entrypoint: {wanted} ({main} defines: {there})")
    return found


def method(instance: object, name: str, args: object = None) -> Any:
    """A public method of an entrypoint, or for no arguments at all what reads a property. `TypeError` with the SDK's
    words if there is none."""
    if args is False:
        return functools.partial(public_property, instance, name)
    function = None if name.startswith("_") or name in {"ctx", "env"} else getattr(type(instance), name, None)
    if not callable(function):
        raise TypeError(f"Method {name} does not exist")
    return getattr(instance, name)


def fit(function: Any, args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by name that a function has no names for come as one map after the others, as from JavaScript."""
    args = args or []
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARKEYWORDS:
        return args, kwargs
    names = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    if kwargs.keys() <= set(names) or len(args) + inspect.ismethod(function) >= code.co_argcount:
        return args, kwargs
    return [*args, JsDict(kwargs)], {}
