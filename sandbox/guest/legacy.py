"""Handlers of an older form: `on_fetch(request, env, ctx)` and the like as functions of the main module.

Each is called with as much of its arguments as it wants. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import types
from typing import Any

from . import entrypoints, scope
from .handlers import wanted
from .worker import result


def add(found: dict[str, Any], module: types.ModuleType) -> None:
    """Make a default entrypoint of them, where there is no class that is one."""
    if "Default" in found:
        if "disable_python_no_global_handlers" in scope.flags:
            raise TypeError("Cannot define multiple default entrypoints")
        return

    def call(name: str, subject: Any, worker: Any) -> Any:
        function = getattr(module, name, None)
        if not callable(function):
            raise TypeError(f'Python entrypoint "{module.__file__}" does not export a handler named "{name}"')
        return result(function, *wanted(function, [subject, worker.env, worker.ctx]))

    class Default(entrypoints.WorkerEntrypoint):
        async def fetch(self, request: Any) -> Any:
            return await call("on_fetch", request, self)

        async def scheduled(self, controller: Any, env: Any, ctx: Any) -> Any:
            return await call("on_scheduled", controller, self)

        async def test(self, controller: Any) -> Any:
            return await call("test", controller, self)

    found["Default"] = Default
