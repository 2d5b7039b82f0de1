"""Who delivers: one `Consumer` hands the messages of a queue, whosever they are, to each tenant's own entrypoint.

A tenant has one batch at a time, and tenants take turns, so that a long queue holds up nobody else's. What the tenant's
code does wrong counts against its messages; what the host could not do (no room, no code to be had) does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from cloister.ipc import IpcError, values
from cloister.ipc.quotes import quote
from cloister.sandbox import LimitExceeded, SandboxDied

from ..errors import LoaderError, LoadFailed, NoCapacity, TenantError, TenantThrottled
from ..quoting import quoted
from .queues import MOST_DELAY, Delivery, QueueStore

_log = logging.getLogger("cloister.queue")
_log.addFilter(quote)
_AFTER_FAILURE: Final = 1.0
_THE_TENANTS: Final = (TenantError, LimitExceeded, SandboxDied)
_THE_HOSTS: Final = (LoadFailed, NoCapacity, TenantThrottled)


class Handles(Protocol):
    """What takes batches: an `Entrypoint` does."""

    async def handle(self, event: Any, subject: Any) -> Any:
        """Which messages are to come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """How a queue is delivered. Retries beyond `max_retries` go to the queue `dead_letter`, or nowhere."""

    batch_size: int = 10
    max_wait_s: float = 0.1
    """How long the first message of a batch waits for others to come."""
    max_retries: int = 3
    retry_s: float = 1.0
    """Before the first retry; twice as long before each next one."""
    retry_most_s: float = 3600.0
    dead_letter: str | None = None
    at_once: int = 8
    """Batches that are being handled, each of another tenant."""
    visibility_s: float = 120.0
    """After so long a batch whose host has died is delivered again. Longer than a call may take."""


class Consumer:
    """`async with Consumer(store, "jobs", lambda tenant_id: host.tenant(tenant_id)):` delivers while it is open.

    The tenant's entrypoint defines `async def queue(self, batch, env, ctx)`.
    """

    def __init__(
        self,
        store: QueueStore,
        queue: str,
        entrypoint: Callable[[str], Handles],
        *,
        delivering: Delivering | None = None,
    ) -> None:
        self._store, self._queue, self._entrypoint = store, queue, entrypoint
        self._how = delivering or Delivering()
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._store.listeners.append(self._sent)
        self._loop = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop. Batches that are being handled are finished first."""
        self._store.listeners.remove(self._sent)
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})
        if self._busy:
            await asyncio.wait(self._busy.values())

    def _sent(self, queue: str) -> None:
        if queue == self._queue:
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause = await self._look()
            except Exception:  # noqa: BLE001 - a store that fails once must not end all delivery
                _log.exception("the queue %r cannot be read; it is tried again in %g s", self._queue, _AFTER_FAILURE)
                pause = _AFTER_FAILURE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _look(self) -> float | None:
        """Begin what is due: the seconds until more is, None if nothing waits."""
        due, following = await self._store.waiting(self._queue, frozenset(self._busy), self._how.batch_size)
        now = self._store.now()
        moments = [] if following is None else [following]
        for backlog in due[: max(self._how.at_once - len(self._busy), 0)]:
            ripe = backlog.since + self._how.max_wait_s
            if backlog.messages >= self._how.batch_size or ripe <= now:
                self._begin(backlog.tenant)
            else:
                moments.append(ripe)
        return min(moments) - now if moments else None

    def _begin(self, tenant: str) -> None:
        task = self._busy[tenant] = asyncio.ensure_future(self._deliver(tenant))
        task.add_done_callback(lambda done: self._finished(tenant, done))

    def _finished(self, tenant: str, task: asyncio.Task[None]) -> None:
        del self._busy[tenant]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a batch of %r for %r was not settled; it will come again", self._queue, tenant, exc_info=error)

    async def _deliver(self, tenant: str) -> None:
        how, now = self._how, self._store.now()
        batch = await self._store.take(tenant, self._queue, how.batch_size, now + how.visibility_s)
        if not batch:
            return
        about = {"queue": self._queue, "messages": [_told(message) for message in batch]}
        try:
            answer = await self._entrypoint(tenant).handle("queue", about)
            again = _wanted(answer)
        except (*_THE_TENANTS, *_THE_HOSTS, LoaderError, IpcError) as error:
            _log.warning("a batch of %d of %r for %r comes again: %s", len(batch), self._queue, tenant, quoted(error))
            if isinstance(error, _THE_HOSTS) or not isinstance(error, _THE_TENANTS):
                await self._put_off(tenant, batch)
                return
            again = dict.fromkeys([message.id for message in batch])
        await self._settle(tenant, batch, again)

    async def _put_off(self, tenant: str, batch: list[Delivery]) -> None:
        """It was not the tenant's fault, so it does not count."""
        as_before = [(message._replace(attempts=message.attempts - 1), self._how.retry_s) for message in batch]
        await self._store.settle(tenant, [], as_before, [], None)

    async def _settle(self, tenant: str, batch: list[Delivery], again: dict[str, float | None]) -> None:
        how = self._how
        done = [message for message in batch if message.id not in again]
        back = [message for message in batch if message.id in again]
        dead = [message for message in back if message.attempts > how.max_retries]
        delays = [(message, self._delay(message, again[message.id])) for message in back if message not in dead]
        if dead:
            where = "are dropped" if how.dead_letter is None else f"go to {how.dead_letter!r}"
            _log.warning("%d messages of %r for %r came back too often and %s", len(dead), self._queue, tenant, where)
        await self._store.settle(tenant, done, delays, dead, how.dead_letter)

    def _delay(self, message: Delivery, wanted: float | None) -> float:
        if wanted is not None:
            return min(max(wanted / 1000, 0.0), MOST_DELAY)
        return min(self._how.retry_s * 2.0 ** min(message.attempts - 1, 60), self._how.retry_most_s)


def _told(message: Delivery) -> dict[str, Any]:
    sent = datetime.datetime.fromtimestamp(message.sent, datetime.UTC).replace(tzinfo=None)
    body = values.loads(message.body, trusted=True)  # a tenant's was looked at when it was sent; the host's may be more
    return {"id": message.id, "body": body, "attempts": message.attempts, "timestamp": sent}


def _wanted(answer: Any) -> dict[str, float | None]:
    """Which messages are to come again, as the tenant has said it: hostile like all that it says."""
    match answer:
        case {"again": dict(again), "error": str(error)} if all(
            delay is None or (type(delay) in {int, float} and delay == delay) for delay in again.values()
        ):
            if error:
                _log.warning("a consumer raised %s", quoted(error))
            return again
    raise TenantError("TypeError", f"queue() gave {type(answer).__name__}, which says nothing of its messages")
