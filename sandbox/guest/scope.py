"""What surrounds a tenant's code while it runs: `env`, `ctx`, work that outlives the answer, and runs that are over.

A run that was parked must have no further effect: whatever the tenant's `finally` blocks try then is refused with a
`Suspended`, which `except Exception` does not catch.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .values import JsDict

_SOON = 60.0


class Suspended(BaseException):
    """The run was parked or ended from outside; it goes on elsewhere, or later, or not at all. Nothing to catch."""

    __module__ = "workers"


class Calls:
    """How many calls are being answered in this sandbox."""

    count = 0


calls = Calls()


class Run:
    """A durable run inside this sandbox: whether it is still wanted, and what it is doing beside waiting for the host.

    `busy` counts step bodies, calls of bindings, work in threads and an outcome that is about to be told; `asking`
    counts questions to the journal.
    """

    journal = 0
    """The host's number for its journal."""

    def __init__(self) -> None:
        self.over = False
        self.busy = 0
        self.asking = 0

    def done(self) -> None:
        """Something that it was busy with is."""
        self.busy -= 1

    def only_waits(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether nothing of this run is going on, and no timer of its own will go off soon.

        Which run a timer was set in is known from its context. A far one is a time limit around a wait, as a rule.
        """
        soon = loop.time() + _SOON
        timers: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
        return (
            self.rests(loop)
            and not self.busy
            and not any(
                not timer.cancelled() and timer.when() < soon and timer._context.get(current_run) is self  # type: ignore[attr-defined]
                for timer in timers
            )
        )

    def rests(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the program has nothing left to do at once. What was just told to it may have yet to wake it."""
        ready: deque[asyncio.Handle] = loop._ready  # type: ignore[attr-defined]
        return not ready or not any(handle._context.get(current_run) is self for handle in ready)  # type: ignore[attr-defined]


_NO_RUN = Run()
inside: contextvars.ContextVar[str | None] = contextvars.ContextVar("inside", default=None)
"""The attempt of the step whose body this code belongs to."""
current_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("run", default=None)


def still_wanted() -> Run:
    """The run that this code belongs to, or one that stands for none. `Suspended` if it is over."""
    run = current_run.get() or _NO_RUN
    if run.over:
        raise Suspended("this run was parked or ended; if it goes on, it does so from its records")
    return run


class Env(JsDict):
    """The worker's bindings, as attributes and as items."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the worker's env has no binding {name!r}") from None


_env = Env()
flags: frozenset[str] = frozenset()
"""The compatibility flags that are on."""
outbound: Any = None
"""What the host granted for the network at large, None where it granted nothing."""
held_up = False
"""Whether somebody waits for the host without giving the loop its turn."""
pump: Callable[[float | None], None]
"""Takes what the host sends while the loop is held up, waiting for so many seconds at most."""
loop: asyncio.AbstractEventLoop
"""The loop that the host is talked to on."""


def env() -> Env:
    """The bindings that the host granted."""
    return _env


def set_env(bindings: Mapping[str, Any], network: Any = None) -> None:
    """Called once, before the tenant's code is imported."""
    global outbound
    _env.clear()
    _env.update(bindings)
    outbound = network


_MOMENT = 0.002  # seconds between two words of it, of which each costs the host as much as a call


class Background:
    """Work that a tenant asked to go on after its answer; `changed` is told how much of it there is: that there is some
    at once, and otherwise what has become of it a moment later."""

    def __init__(self, changed: Callable[[int], object], failed: Callable[[str, BaseException], None]) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()
        self._changed = changed
        self._failed = failed
        self._told = 0
        self._later: asyncio.TimerHandle | None = None

    def add(self, work: Awaitable[Any]) -> None:
        """Take on a coroutine, task or future."""
        if not inspect.isawaitable(work):
            raise TypeError(f"wait_until() takes a coroutine, a task or a future, not {type(work).__name__}")
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        if self._told and asyncio._get_running_loop() is not None:  # on another thread there is no later
            self._tell_later()
        else:
            self._tell()
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        self._tell_later()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed("work given to wait_until() failed", error)

    def _tell_later(self) -> None:
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_MOMENT, self._tell_at_last)

    def _tell_at_last(self) -> None:
        self._later = None
        self._tell()

    def _tell(self) -> None:
        if self._told != len(self._tasks):
            self._told = len(self._tasks)
            self._changed(self._told)


_background: list[Background] = []


def set_background(background: Background) -> None:
    """Called once, before the host is greeted."""
    _background[:] = [background]


def wait_until(work: Awaitable[Any]) -> None:
    """Let work go on after the answer was given; the sandbox stays until it is done."""
    _background[0].add(work)


class Context:
    """The `ctx` of an entrypoint."""

    def __init__(self, props: Any, make: Callable[[str, Any], Any]) -> None:
        self.props = props
        self._make = make

    @property
    def exports(self) -> Any:
        """The worker's own entrypoints."""
        from . import loopback

        return loopback.Exports(self._make)

    def waitUntil(self, work: Awaitable[Any]) -> None:  # noqa: N802 - the SDK's name
        """See `wait_until`."""
        wait_until(work)

    wait_until = waitUntil

    def passThroughOnException(self) -> None:  # noqa: N802
        """There is nothing behind a worker here that could answer instead."""
