"""When durable objects want to be called: one alarm each, on disk before it is promised, and tried again when it fails.

It refuses to know what an object is: whoever opens it says what is to be done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Self

from .shelf import Shelf

_log = logging.getLogger("cloister.objects")
_MOST_TRIES: Final = 6
"""After the first."""
_AT_ONCE: Final = 16
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
    each time."""

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
        retry_s: float = 2.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, now=now)
        self._ring, self._retry_s = ring, retry_s
        self._changed = asyncio.Event()
        self._ringing: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._watch = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [*self._ringing, *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().__aexit__(*exc)

    async def set(self, alarm: Alarm, at_ms: float | None) -> None:
        """Set an object's alarm, or take it back."""
        tenant, namespace, id_, name, _ = alarm

        def work(connection: sqlite3.Connection) -> None:
            if at_ms is None:
                connection.execute("DELETE FROM alarms WHERE (tenant, namespace, id) = (?, ?, ?)", alarm[:3])
            else:
                row = (tenant, namespace, id_, name, at_ms)
                connection.execute("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?, ?, ?, 0, 0)", row)

        await self.work(tenant, work)
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
                due, next_ms = await self.work("", self._due)
                for alarm in due:
                    task = asyncio.create_task(self._ring_one(alarm))
                    self._ringing.add(task)
                    task.add_done_callback(self._rung)
                wait = _LONGEST if next_ms is None else max(next_ms / 1000 - self.now(), 0.0)
            except sqlite3.Error:
                _log.exception("alarms could not be looked up")
                wait = self._retry_s
            try:
                async with asyncio.timeout(min(wait, _LONGEST)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _rung(self, task: asyncio.Task[None]) -> None:
        self._ringing.discard(task)
        self._changed.set()

    def _due(self, connection: sqlite3.Connection) -> tuple[list[Alarm], float | None]:
        room, now_ms = _AT_ONCE - len(self._ringing), self.now() * 1000
        query = (
            "UPDATE alarms SET ringing = 1 WHERE (tenant, namespace, id) IN (SELECT tenant, namespace, id FROM alarms"
            " WHERE ringing = 0 AND at <= ? ORDER BY at LIMIT ?) RETURNING tenant, namespace, id, name, tries"
        )
        due = [Alarm(*row) for row in connection.execute(query, (now_ms, max(room, 0))).fetchall()]
        (next_ms,) = connection.execute("SELECT min(at) FROM alarms WHERE ringing = 0").fetchone()
        return due, next_ms if room > len(due) else None  # when all places are taken, one that gets free says so

    async def _ring_one(self, alarm: Alarm) -> None:
        key: tuple[Any, ...] = alarm[:3]
        failed = False
        try:
            await self._ring(alarm)
        except Exception:  # noqa: BLE001 - whatever became of it, it is tried again
            failed = True
            _log.warning("the alarm of an object of %r failed", alarm.tenant, exc_info=True)

        def settle(connection: sqlite3.Connection) -> None:
            mine = "WHERE (tenant, namespace, id, ringing) = (?, ?, ?, 1)"  # unless it was set anew meanwhile
            if failed and alarm.tries < _MOST_TRIES:
                later = (self.now() + self._retry_s * 2**alarm.tries) * 1000
                connection.execute(f"UPDATE alarms SET ringing = 0, tries = tries + 1, at = ? {mine}", (later, *key))
            else:
                connection.execute(f"DELETE FROM alarms {mine}", key)

        await self.work(alarm.tenant, settle)
