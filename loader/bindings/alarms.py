"""When durable objects want to be called: one alarm each, on disk before it is promised, and tried again when it fails.

It refuses to know what an object is: whoever opens it says what is to be done. What the tenant's code does wrong counts
against its alarm; what the host could not do (no room, no code to be had) does not. An alarm that is set while the one
before it rings waits until that is over.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Self

from cloister.ipc import IpcError
from cloister.ipc.quotes import quote
from cloister.sandbox import LimitExceeded, SandboxDied, SandboxError

from ..errors import LoaderError, TenantError
from ..quoting import quoted
from .shelf import Shelf
from .storage import StorageQuotaExceeded

_log = logging.getLogger("cloister.objects")
_log.addFilter(quote)
_MOST_TRIES: Final = 6
"""After the first."""
_AT_ONCE: Final = 16
_EACH: Final = 4
"""Of one tenant's, so that those which take long hold up nobody else's."""
_THE_TENANTS: Final = (TenantError, LimitExceeded, SandboxDied)
_THE_HOSTS: Final = (LoaderError, SandboxError, IpcError)
Key = tuple[str, str, str]
_LONGEST: Final = 3600.0  # seconds between two looks, for a clock that is set


class Alarm(NamedTuple):
    """One that is due."""

    tenant: str
    namespace: str
    id: str
    name: str | None
    tries: int


class Alarms(Shelf):
    """Of all objects of a host. `ring` calls one; `retry_s` are the seconds before the second try, then twice as many
    each time. A tenant has `most` that are set."""

    schema = """
CREATE TABLE IF NOT EXISTS alarms (
  tenant    TEXT NOT NULL,
  namespace TEXT NOT NULL,
  id        TEXT NOT NULL,
  name      TEXT,
  at        REAL NOT NULL,
  tries     INTEGER NOT NULL DEFAULT 0,
  ringing   INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, namespace, id)
) WITHOUT ROWID, STRICT;
CREATE INDEX IF NOT EXISTS alarms_at ON alarms (ringing, at);
UPDATE alarms SET ringing = 0;
"""

    def __init__(
        self,
        path: str | os.PathLike[str],
        ring: Callable[[Alarm], Awaitable[None]],
        *,
        most: int = 10_000,
        retry_s: float = 2.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, now=now)
        self._ring, self._most, self._retry_s = ring, most, retry_s
        self._changed = asyncio.Event()
        self._ringing: dict[Key, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._watch = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [*self._ringing.values(), *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().__aexit__(*exc)

    async def set(self, alarm: Alarm, at_ms: float | None) -> None:
        """Set an object's alarm, or take it back. `StorageQuotaExceeded` if it would be one too many."""

        def work(connection: sqlite3.Connection) -> None:
            gone = connection.execute("DELETE FROM alarms WHERE (tenant, namespace, id) = (?, ?, ?)", alarm[:3])
            if at_ms is None:
                return
            if not gone.rowcount:
                query = "SELECT count(*) FROM alarms WHERE tenant = ?"
                (count,) = connection.execute(query, (alarm.tenant,)).fetchone()
                if count >= self._most:
                    raise StorageQuotaExceeded(f"{count:,} alarms are set; at most {self._most:,} may be")
            connection.execute("INSERT INTO alarms VALUES (?, ?, ?, ?, ?, 0, 0)", (*alarm[:4], at_ms))

        await self.work(alarm.tenant, work)
        self._changed.set()

    async def get(self, tenant: str, namespace: str, id_: str) -> float | None:
        """When it is, in milliseconds since 1970. While it rings it is not set."""
        query = "SELECT at FROM alarms WHERE (tenant, namespace, id, ringing) = (?, ?, ?, 0)"
        key = tenant, namespace, id_
        row = await self.look(tenant, lambda connection: connection.execute(query, key).fetchone())
        return None if row is None else row[0]

    async def forget(self, tenant: str) -> None:
        """A tenant's are not set any longer."""
        query = "DELETE FROM alarms WHERE tenant = ?"
        await self.work(tenant, lambda connection: connection.execute(query, (tenant,)))

    async def _look(self) -> None:
        while True:
            self._changed.clear()
            try:
                due, next_ms = await self.work("", functools.partial(self._due, ringing=list(self._ringing)))
                for alarm in due:
                    self._ringing[alarm[:3]] = task = asyncio.create_task(self._ring_one(alarm))
                    task.add_done_callback(functools.partial(self._rung, alarm[:3]))
                wait = _LONGEST if next_ms is None else max(next_ms / 1000 - self.now(), 0.0)
            except sqlite3.Error:
                _log.exception("alarms could not be looked up")
                wait = self._retry_s
            try:
                async with asyncio.timeout(min(wait, _LONGEST)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _rung(self, key: Key, _: asyncio.Task[None]) -> None:
        del self._ringing[key]
        self._changed.set()

    def _due(self, connection: sqlite3.Connection, ringing: list[Key]) -> tuple[list[Alarm], float | None]:
        """Those that are to ring now, beside others that do, and when to look again unless one of them is over."""
        now_ms = self.now() * 1000
        due: list[Alarm] = []
        inside = Counter(tenant for tenant, *_ in ringing)
        while len(ringing) + len(due) < _AT_ONCE:
            full = [tenant for tenant, count in inside.items() if count >= _EACH]
            others = "".join(" AND tenant <> ?" for _ in full)
            others += "".join(" AND (tenant, namespace, id) <> (?, ?, ?)" for _ in ringing)
            row = connection.execute(
                f"SELECT tenant, namespace, id, name, tries FROM alarms WHERE ringing = 0 AND at <= ?{others}"
                " ORDER BY at LIMIT 1",
                (now_ms, *full, *(part for key in ringing for part in key)),
            ).fetchone()
            if row is None:
                query = "SELECT min(at) FROM alarms WHERE ringing = 0 AND at > ?"
                (next_ms,) = connection.execute(query, (now_ms,)).fetchone()
                return due, next_ms
            alarm = Alarm(*row)
            connection.execute("UPDATE alarms SET ringing = 1 WHERE (tenant, namespace, id) = (?, ?, ?)", alarm[:3])
            inside[alarm.tenant] += 1
            due.append(alarm)
        return due, None

    async def _ring_one(self, alarm: Alarm) -> None:
        again = None
        try:
            await self._ring(alarm)
        except Exception as error:  # noqa: BLE001 - whatever became of it, it is tried again
            if isinstance(error, _THE_HOSTS) and not isinstance(error, _THE_TENANTS):
                again = alarm.tries
                _log.warning("the alarm of an object of %r is put off: %s", alarm.tenant, quoted(error))
            else:
                again = alarm.tries + 1
                about = None if isinstance(error, _THE_TENANTS) else error
                _log.warning("the alarm of an object of %r failed: %s", alarm.tenant, quoted(error), exc_info=about)
        await self._settle(alarm, again)

    async def _settle(self, alarm: Alarm, again: int | None) -> None:
        """It is over, or tried again as one that failed so many times."""
        mine = "WHERE (tenant, namespace, id, ringing) = (?, ?, ?, 1)"  # unless it was set anew meanwhile

        def work(connection: sqlite3.Connection) -> None:
            if again is not None and again <= _MOST_TRIES:
                later = (self.now() + self._retry_s * 2**alarm.tries) * 1000
                row = (again, later, *alarm[:3])
                connection.execute(f"UPDATE alarms SET ringing = 0, tries = ?, at = ? {mine}", row)
            else:
                connection.execute(f"DELETE FROM alarms {mine}", alarm[:3])

        while True:
            try:
                return await self.work(alarm.tenant, work)
            except sqlite3.Error:
                _log.exception("what became of an alarm could not be stored")
                await asyncio.sleep(self._retry_s)
