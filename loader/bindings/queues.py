"""Durable queues, after Cloudflare's: `Queue(store, tenant, "jobs")` sends, and a tenant's entrypoint is the consumer.

What is acknowledged to the sender is on disk. A message is delivered at least once, in batches, and goes when its
consumer is done with it; what comes back too often goes to another queue, or is dropped. Each delivery is counted
before it is made, so that a message which takes its sandbox down with it comes to an end too.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cloister.ipc import CodecError, RpcTarget, values

from . import options as given
from .shelf import Shelf, owner, stored

MOST_BODY: Final = 128 * 1024
MOST_DELAY: Final = 14 * 24 * 3600
MOST_AT_ONCE: Final = 100
_TENANTS: Final = """
WITH RECURSIVE tenants (tenant) AS (
  SELECT min(tenant) FROM messages WHERE queue = :queue
  UNION ALL
  SELECT (SELECT min(tenant) FROM messages WHERE queue = :queue AND tenant > tenants.tenant) FROM tenants
  WHERE tenants.tenant IS NOT NULL
)
"""
"""One step in the index for each tenant, however much it has waiting."""
_OF_ONE: Final = "FROM messages WHERE queue = :queue AND messages.tenant = tenants.tenant AND due"
_DUE: Final = f"""{_TENANTS}
SELECT tenant, (SELECT count(*) FROM (SELECT 1 {_OF_ONE} <= :now LIMIT :most)),
  (SELECT min(due) {_OF_ONE} <= :now) AS since
FROM tenants WHERE since IS NOT NULL ORDER BY since
"""
_FOLLOWING: Final = f"{_TENANTS} SELECT min((SELECT min(due) {_OF_ONE} > :now)) FROM tenants"
_OPTIONS: Final = "delay_seconds content_type"


class QueueStore(Shelf):
    """Where the messages of all tenants lie: `async with QueueStore("queues.db") as store`."""

    schema = """
    CREATE TABLE IF NOT EXISTS messages (
      number   INTEGER PRIMARY KEY,
      id       TEXT NOT NULL,
      tenant   TEXT NOT NULL,
      queue    TEXT NOT NULL,
      body     BLOB NOT NULL,
      sent     REAL NOT NULL,
      due      REAL NOT NULL,
      attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX IF NOT EXISTS waiting ON messages (queue, tenant, due);
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.listeners: list[Any] = []
        """Called with the name of a queue when something was sent to it."""

    async def send(self, tenant: str, queue: str, entries: list[tuple[bytes, float]]) -> list[str]:
        """Messages with the seconds that each is to wait; their ids."""
        now, made = self.now(), [uuid.uuid4().hex for _ in entries]

        def work(connection: sqlite3.Connection) -> None:
            self.charge(connection, tenant, sum(len(body) for body, _ in entries), len(entries))
            connection.executemany(
                "INSERT INTO messages (id, tenant, queue, body, sent, due) VALUES (?, ?, ?, ?, ?, ?)",
                [(made[n], tenant, queue, body, now, now + delay) for n, (body, delay) in enumerate(entries)],
            )

        await self.work(tenant, work)
        for listener in list(self.listeners):
            listener(queue)
        return made

    async def drop(self, tenant: str) -> None:
        """Delete everything that is a tenant's."""

        def work(connection: sqlite3.Connection) -> None:
            size, entries = stored(connection, tenant)
            connection.execute("DELETE FROM messages WHERE tenant = ?", (tenant,))
            self.charge(connection, tenant, -size, -entries)

        await self.work(tenant, work)

    async def waiting(
        self, queue: str, busy: frozenset[str], most: int = MOST_AT_ONCE
    ) -> tuple[list[Backlog], float | None]:
        """Each tenant that has messages which are due, the longest waiting first, and when the next one is due.
        Messages are counted up to `most`: a long queue takes no longer to look at than a short one."""
        now = self.now()

        def work(connection: sqlite3.Connection) -> tuple[list[Backlog], float | None]:
            due = connection.execute(_DUE, {"queue": queue, "now": now, "most": most}).fetchall()
            (following,) = connection.execute(_FOLLOWING, {"queue": queue, "now": now}).fetchone()
            return [Backlog(*row) for row in due if row[0] not in busy], following

        return await self.look("", work)

    async def take(self, tenant: str, queue: str, most: int, until: float) -> list[Delivery]:
        """Messages that are due, each counted as delivered once more; nobody else is given them before `until`."""
        now = self.now()

        def work(connection: sqlite3.Connection) -> list[Delivery]:
            rows = connection.execute(
                "UPDATE messages SET attempts = attempts + 1, due = ? WHERE number IN (SELECT number FROM messages"
                " WHERE queue = ? AND tenant = ? AND due <= ? ORDER BY due, number LIMIT ?)"
                " RETURNING number, id, body, sent, attempts",
                (until, queue, tenant, now, most),
            ).fetchall()
            return sorted(Delivery(*row) for row in rows)

        return await self.work(tenant, work)

    async def settle(
        self,
        tenant: str,
        done: list[Delivery],
        again: list[tuple[Delivery, float]],
        dead: list[Delivery],
        to: str | None,
    ) -> None:
        """What has become of a delivery: gone, due again after so many seconds, or moved to another queue. What was
        delivered twice, since its time was over, is settled once; its number may be another message's by then."""
        now = self.now()

        def work(connection: sqlite3.Connection) -> None:
            for message in done if to is not None else done + dead:
                gone = connection.execute("DELETE FROM messages WHERE number = ? AND id = ?", message[:2]).rowcount
                self.charge(connection, tenant, -gone * len(message.body), -gone)
            connection.executemany(
                "UPDATE messages SET due = ?, attempts = ? WHERE number = ? AND id = ?",
                [(now + delay, message.attempts, *message[:2]) for message, delay in again],
            )
            if to is not None:
                connection.executemany(
                    "UPDATE messages SET queue = ?, due = ?, attempts = 0 WHERE number = ? AND id = ?",
                    [(to, now, *message[:2]) for message in dead],
                )

        await self.work(tenant, work)
        if dead and to is not None:
            for listener in list(self.listeners):
                listener(to)


class Backlog(NamedTuple):
    """What a tenant has waiting in a queue."""

    tenant: str
    messages: int
    since: float


class Delivery(NamedTuple):
    """One message that is being delivered."""

    number: int
    id: str
    body: bytes
    sent: float
    attempts: int


class Queue(RpcTarget):
    """`env={"JOBS": Queue(store, tenant_id, "jobs")}`: `send`, `send_batch`."""

    def __init__(self, store: QueueStore, tenant: str, name: str) -> None:
        self._store, self._tenant, self._name = store, owner(tenant), given.key(name, 128)

    async def send(self, body: object, options: object = None, /, **more: object) -> None:
        """Send a plain value. Options: `delay_seconds`. `StorageQuotaExceeded` when too many wait already."""
        await self._store.send(
            self._tenant, self._name, [_entry(body, given.options(options, more, _OPTIONS, "send()"))]
        )

    async def send_batch(self, messages: object, options: object = None, /, **more: object) -> None:
        """Send up to 100, each `{"body": ..., "delay_seconds": ...}`: all of them or none."""
        found = given.options(options, more, _OPTIONS, "send_batch()")
        if not isinstance(messages, list) or len(messages) > MOST_AT_ONCE:
            raise TypeError(f"a batch is a list of at most {MOST_AT_ONCE} messages")
        entries = []
        for message in messages:
            if not isinstance(message, Mapping) or "body" not in message:
                raise TypeError("a message of a batch is a dict with a body")
            own = given.options({**message, "body": None}, {}, f"body {_OPTIONS}", "a message")
            entries.append(_entry(message["body"], {**found, **own}))
        if entries:
            await self._store.send(self._tenant, self._name, entries)

    async def sendBatch(self, messages: object, options: object = None, /, **more: object) -> None:  # noqa: N802
        """See `send_batch`."""
        await self.send_batch(messages, options, **more)


def _entry(body: object, found: Mapping[str, Any]) -> tuple[bytes, float]:
    try:
        data = values.dumps(body, limit=MOST_BODY)
    except CodecError as error:
        raise ValueError(f"a message is plain data of at most {MOST_BODY:,} bytes: {error}") from error
    return data, given.number(found, "delay_seconds", 0, 0, MOST_DELAY)
