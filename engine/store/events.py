"""The verbs of events: sent, kept until they are waited for, and taken in the transaction that records the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import EventBufferFull
from ..records import Address, ErrorRecord, Standing, Status
from ..rules import MAX_EVENTS
from . import instances, steps, usage
from .columns import pack_error

if TYPE_CHECKING:
    from .rows import Row
    from .store import Store

MOST_BUFFERS = 4096
"""Of how many instances it is remembered how many events they may have."""


def take_event(
    store: Store,
    number: int,
    name: str,
    count: int,
    position: int,
    event_type: str,
    within: str | None,
    due: int,
    now: int,
) -> bytes | None:
    """The oldest buffered event of the type, consumed by this wait; without one the wait is recorded as
    waiting.
    """
    row = store.execute(
        "SELECT number, event FROM events WHERE instance = ? AND type = ? ORDER BY number LIMIT 1",
        (number, event_type),
    ).fetchone()
    if row is None:
        rest: Row = (event_type, None, None, None, within, None, now, position, None)
        steps.record(store, now, number, "wait", name, count, position, "waiting", 0, due, *rest)
        return None
    event = store.unseal(row[1])
    rest = (event_type, event, None, None, within, None, now, position, now)
    steps.record(store, now, number, "wait", name, count, position, "done", 0, due, *rest)
    store.execute("DELETE FROM events WHERE number = ?", (row[0],))
    return event


def expire(store: Store, number: int, name: str, count: int, error: ErrorRecord, now: int) -> bytes | None:
    """Record that the wait timed out, unless an event came first: then that event."""
    key = (number, name, count)
    expired = store.execute(
        "UPDATE steps SET state = 'failed', error = ?, ended = ?, finished = ?"
        " WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ? AND state = 'waiting'",
        (store.seal_text(pack_error(error)), now, store.next_number(), *key),
    )
    if expired.rowcount:
        store.touch(number)
        return None
    event: bytes = store.execute(
        "SELECT value FROM steps WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ?", key
    ).fetchone()[0]
    return store.unseal(event)


def send_event(
    store: Store, address: Address, event_type: str, event: bytes, event_id: str | None, now: int
) -> tuple[Standing, tuple[str, int] | None]:
    """Give the event to the first wait for its type, else keep it. Which wait took it, if one did."""
    number, status = instances.unfinished(store, address)
    event = store.seal(event)
    if event_id is not None and _taken_before(store, number, event_id):
        return Standing(status), None
    usage.check_instance(store, number, len(event))
    wait = store.execute(
        "SELECT name, count FROM steps"
        " WHERE instance = ? AND type = ? AND kind = 'wait' AND state = 'waiting'"
        " ORDER BY position LIMIT 1",
        (number, event_type),
    ).fetchone()
    if wait is None and not _buffers_one_more(store, number):
        raise EventBufferFull(
            f"instance {address.id!r} has {MAX_EVENTS:,} events that nobody has waited for; send again when some"
            " have been, or have the workflow wait for more of them"
        )
    if event_id is not None:
        store.execute("INSERT INTO event_ids (instance, id) VALUES (?, ?)", (number, event_id))
    if wait is None:
        store.execute("INSERT INTO events (instance, type, event) VALUES (?, ?, ?)", (number, event_type, event))
        return Standing(status), None
    store.execute(
        "UPDATE steps SET state = 'done', value = ?, ended = ?, finished = ?"
        " WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ?",
        (event, now, store.next_number(), number, *wait),
    )
    store.touch(number)
    if status is Status.WAITING:
        return instances.stand(store, number, Status.QUEUED, now, wake_at=now), wait
    if status is Status.RUNNING:
        instances.go_on(store, number)
    return Standing(status), wait


def _taken_before(store: Store, number: int, event_id: str) -> bool:
    query = "SELECT 1 FROM event_ids WHERE instance = ? AND id = ?"
    return store.execute(query, (number, event_id)).fetchone() is not None


def _buffers_one_more(store: Store, number: int) -> bool:
    """Whether an instance may have one more event that nobody waits for. They are counted when it is first sent
    one, and when it may have all that it may.
    """
    most = store.buffered.get(number, MAX_EVENTS)
    if most >= MAX_EVENTS:
        query = "SELECT count(*) FROM (SELECT 1 FROM events WHERE instance = ? LIMIT ?)"
        most = int(store.execute(query, (number, MAX_EVENTS)).fetchone()[0])
    if len(store.buffered) >= MOST_BUFFERS:
        store.buffered.clear()
    store.buffered[number] = most + 1
    return most < MAX_EVENTS
