"""Events that a worker is handed, beside calls of its methods: a request, a batch of messages, what others did.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from . import failure
from .http import FetchResponse
from .values import JsDict
from .worker import result


async def fetch(method: Callable[..., Any], request: Any) -> FetchResponse:
    """A request to answer. Called with as much of it as the method wants to have."""
    answer = await result(method, *wanted(method, [request]))
    while inspect.isawaitable(answer):  # `return fetch(request)`, which a promise would have been
        answer = await answer
    if not isinstance(answer, FetchResponse):
        raise TypeError(f"fetch() must return a Response, not {type(answer).__name__}")
    return answer


async def queue(method: Callable[..., Any], about: JsDict) -> dict[str, Any]:
    """A batch of messages to take: which are to come again after how many milliseconds, None for the usual delay. When
    it raises, all come again about which nothing was said before."""
    batch, error = MessageBatch(about), ""
    try:
        await result(method, *wanted(method, [batch, None, None]))
    except Exception as raised:
        error = failure.trace(raised)
        batch.retry_all()
    again = {message.id: message.again for message in batch.messages if message.again is not False}
    return {"again": again, "error": error}


async def tail(method: Callable[..., Any], events: list[Any]) -> None:
    """What other workers did."""
    await result(method, *wanted(method, [events]))


async def scheduled(method: Callable[..., Any], about: JsDict) -> dict[str, str]:
    """A moment that was waited for."""
    await result(method, *wanted(method, [Controller(about), None, None]))
    return {"outcome": "ok"}


async def test(method: Callable[..., Any], about: JsDict) -> None:
    """Whoever wrote it wants to know whether it works."""
    await result(method, *wanted(method, [about, None, None]))


async def email(method: Callable[..., Any], about: JsDict) -> JsDict:
    """A message came by mail."""
    from . import mails

    return await mails.handle(method, about)


HANDLERS: Final[dict[str, Callable[..., Any]]] = {
    "fetch": fetch, "queue": queue, "tail": tail, "scheduled": scheduled, "email": email,
    "test": test,
}  # fmt: skip


class Controller:
    """Which moment it is: `cron` says the schedule, `scheduledTime` is in milliseconds since 1970."""

    __module__ = "workers"
    type = "scheduled"

    def __init__(self, about: JsDict) -> None:
        self.cron: str = about.get("cron") or ""
        self.scheduledTime: float | None = about.get("scheduledTime")

    def noRetry(self) -> None:  # noqa: N802
        """Nobody tries again."""


class Message:
    """One message of a batch. Neither acknowledged nor sent back, it counts as acknowledged when the batch is done."""

    __module__ = "workers"

    def __init__(self, about: JsDict) -> None:
        self.id, self.body, self.attempts, self.timestamp = about.id, about.body, about.attempts, about.timestamp
        self.again: float | bool | None = False
        self._decided = False

    def ack(self) -> None:
        """It is done with, whatever becomes of the rest. The first word counts."""
        self._decided = True

    def retry(self, options: Any = None, *, delay_seconds: float | None = None) -> None:
        """Let it come again."""
        if not self._decided:
            self._decided = True
            delay = (options or {}).get("delaySeconds", delay_seconds)
            self.again = None if delay is None else delay * 1000


class MessageBatch:
    """Messages of one queue."""

    __module__ = "workers"

    def __init__(self, about: JsDict) -> None:
        self.queue: str = about.queue
        self.messages = [Message(message) for message in about.messages]

    def ack_all(self) -> None:
        """All are done with, but for those about which something was said."""
        for message in self.messages:
            message.ack()

    def retry_all(self, options: Any = None, *, delay_seconds: float | None = None) -> None:
        """Let all come again, but for those about which something was said."""
        for message in self.messages:
            message.retry(options, delay_seconds=delay_seconds)

    ackAll, retryAll = ack_all, retry_all  # noqa: N815 - the names of the SDK


def wanted(method: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    """The arguments that fit into its signature, from the left."""
    parameters = inspect.signature(method).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return arguments
    places = [one for one in parameters if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    return arguments[: len(places)]
