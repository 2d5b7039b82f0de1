"""What surrounds a tenant's code while it runs: `env`, `ctx`, work that outlives the answer, and runs that are over.

A run that was parked must have no further effect: whatever the tenant's `finally` blocks try then is refused with a
`Suspended`, which `except Exception` does not catch.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .values import JsDict


class Suspended(BaseException):
    """The run was parked or ended from outside; it goes on elsewhere, or later, or not at all. Nothing to catch."""

    __module__ = "workers"


class Run:
    """A durable run inside this sandbox: whether it is still wanted."""

    over = False


current_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("run", default=None)


def still_wanted() -> None:
    """Raise `Suspended` if the run that this code belongs to is over."""
    run = current_run.get()
    if run is not None and run.over:
        raise Suspended("this run was parked or ended; if it goes on, it does so from its records")


class Env(JsDict):
    """The worker's bindings, as attributes and as items."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the worker's env has no binding {name!r}") from None


_env = Env()


def env() -> Env:
    """The bindings that the host granted."""
    return _env


def set_env(bindings: Mapping[str, Any]) -> None:
    """Called once, before the tenant's code is imported."""
    _env.clear()
    _env.update(bindings)


class Background:
    """Work that a tenant asked to go on after its answer; `changed` is told how much of it there is."""

    def __init__(self, changed: Callable[[int], None], failed: Callable[[str, BaseException], None]) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()
        self._changed = changed
        self._failed = failed

    def add(self, work: Awaitable[Any]) -> None:
        """Take on a coroutine, task or future."""
        if not inspect.isawaitable(work):
            raise TypeError(f"wait_until() takes a coroutine, a task or a future, not {type(work).__name__}")
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        self._changed(len(self._tasks))
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        self._changed(len(self._tasks))
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed("work given to wait_until() failed", error)


_background: list[Background] = []


def set_background(background: Background) -> None:
    """Called once, before the host is greeted."""
    _background[:] = [background]


def wait_until(work: Awaitable[Any]) -> None:
    """Let work go on after the answer was given; the sandbox stays until it is done."""
    _background[0].add(work)


class Context:
    """The `ctx` of an entrypoint."""

    def __init__(self, props: Any) -> None:
        self.props = props

    def waitUntil(self, work: Awaitable[Any]) -> None:  # noqa: N802 - the SDK's name
        """See `wait_until`."""
        wait_until(work)

    wait_until = waitUntil
