"""A write of a live run, from when it is queued until it is durable, or is known not to be.

What the run knows in memory is kept in step with the store by whoever writes, and not by whoever waits for it: who
waits may have been cancelled by then, and the write is made all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

Told = Callable[[Any, BaseException | None], object]
"""Hears once what came of a write: its result, or what it was refused or failed with."""


class Bookkeeper(Protocol):
    """Whoever has its memory kept in step."""

    def wrote(self, write: Write) -> None:
        """It is durable."""

    def failed(self, write: Write, error: BaseException) -> None:
        """It was refused, or could not be stored."""


class Write:
    """What a writer settles, as it would a future: see `Writer.submit_for`. `replaces` is for the bookkeeper."""

    __slots__ = ("_bookkeeper", "_told", "progress", "replaces")

    def __init__(self, bookkeeper: Bookkeeper, told: Told, progress: bool, replaces: Any) -> None:
        self._bookkeeper, self._told = bookkeeper, told
        self.progress, self.replaces = progress, replaces

    def done(self) -> bool:
        """Nobody can take it back."""
        return False

    def set_result(self, result: Any) -> None:
        self._bookkeeper.wrote(self)
        self._told(result, None)

    def set_exception(self, error: BaseException) -> None:
        self._bookkeeper.failed(self, error)
        self._told(None, error)


class PromptWrite(Write):
    """One of which whoever waits hears within a call, and not a turn later: when it is time, see `Telling`. `told` is
    given the write itself, and `waiter` is for whoever is told.
    """

    __slots__ = ("_error", "waiter")

    waiter: Any

    def set_result(self, result: Any) -> None:
        self._error: BaseException | None = None
        self._bookkeeper.wrote(self)

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._bookkeeper.failed(self, error)

    def tell(self) -> None:
        """It is time."""
        self._told(self, self._error)


class Unwaited:
    """A write that nobody waits for. `failed` hears why there is none, if so."""

    __slots__ = ("_failed",)

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed

    def done(self) -> bool:
        """Nobody can take it back."""
        return False

    def set_result(self, result: Any) -> None:
        """As it was to be."""

    def set_exception(self, error: BaseException) -> None:
        self._failed(error)


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> bool:
    """Tell whoever waits for a future; whether somebody still does."""
    if future.done():
        return False
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
    return True
