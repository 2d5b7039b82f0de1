"""The verbs that take away: delete an instance, begin it anew, and sweep up what is left of the deleted.

A deleted instance is gone at once, and its other rows follow in bounded chunks. See `schema_4.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..records import FINAL, Address, ErrorRecord, Key, Status
from . import children, ending, instances
from .steps import BEGAN_BEFORE, check_recorded

if TYPE_CHECKING:
    from .store import Store

DELETED = ErrorRecord("Terminated", "the instance was deleted")
EXPIRE_CHUNK = 64
SWEEP_ROWS = 256
SWEEP_BYTES = 4 * 1024 * 1024
_KEPT = frozenset({"labels", "changes", "interventions"})
"""What is said of an instance, whichever run it is at."""
_BULKY = {"steps": "value", "chunks": "data"}


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep took: instances whose time was over, whether there is more, and when the next one's is."""

    expired: int
    more: bool
    next_at: int | None


def delete(store: Store, address: Address, now: int) -> None:
    """It is gone, whatever it was doing, and its id is free."""
    number, status = instances.find(store, address)
    if status not in FINAL:  # whoever awaits it, and what it awaits, are told
        ending.finish(store, number, Status.TERMINATED, None, DELETED, now)
    _bury(store, number)
    store.expect(now)


def restart(store: Store, address: Address, step: Key | None, now: int) -> None:
    """A new run, on the newest code and with the params it was created with; or from a step, on the code it has.

    What began before that step keeps its record. Everything later is wiped, and so are events that nobody took.
    """
    number, status = instances.find(store, address)
    if status is not Status.QUEUED or not instances.never_ran(store, number):
        store.backlog.add(store.key(address.workflow), address.scope, 1)
    if step is None:
        for table in store.tables_of_instances:
            if table not in _KEPT:
                store.execute(f"DELETE FROM {table} WHERE instance = ?", (number,))
    else:
        _wipe_from(store, number, step)
    ending.end_all(store, number, children.GIVEN_UP, now, orphans=True)
    store.ended_beside.discard(number)
    store.execute(
        "UPDATE instances SET status = ?, run = run + 1, started = NULL, ended = NULL, wake_at = NULL,"
        " paused_at = NULL, losses = 0, postponed = 0, progress = 0, output = NULL, error = NULL, expires = NULL,"
        " undoing = NULL, undone = NULL,"
        " code = CASE WHEN ? THEN code END WHERE number = ?",
        (Status.QUEUED.value, step is not None, number),
    )
    store.change(number, now, Status.QUEUED.value)


def _wipe_from(store: Store, number: int, step: Key) -> None:
    check_recorded(store, number, step)
    store.execute(
        "DELETE FROM steps WHERE instance = ? AND (kind, name, count) IN (SELECT steps.kind, steps.name, steps.count"
        " FROM steps JOIN steps AS chosen ON chosen.instance = steps.instance AND chosen.kind = ? AND chosen.name = ?"
        f" AND chosen.count = ? WHERE steps.instance = ? AND NOT {BEGAN_BEFORE})",
        (number, *step, number),
    )
    store.execute("DELETE FROM events WHERE instance = ?", (number,))
    store.execute("DELETE FROM event_ids WHERE instance = ?", (number,))


def _bury(store: Store, number: int) -> None:
    store.execute("DELETE FROM labels WHERE instance = ?", (number,))
    store.execute("DELETE FROM instances WHERE number = ?", (number,))
    store.execute("INSERT INTO graves VALUES (?)", (number,))
    store.touch(number)


def sweep(store: Store, now: int) -> Swept:
    """One chunk of work: bury what has expired, take rows from one grave, and drop code that nobody needs."""
    expired = store.execute(
        "SELECT number FROM instances WHERE expires <= ? ORDER BY expires LIMIT ?", (now, EXPIRE_CHUNK)
    ).fetchall()
    for (number,) in expired:
        _bury(store, number)
    rows = SWEEP_ROWS
    for (number,) in store.execute("SELECT instance FROM graves LIMIT ?", (EXPIRE_CHUNK,)).fetchall():
        for table in sorted(
            store.tables_of_instances
        ):  # chunks before their steps, which would take them along at once
            rows -= _take_rows(store, table, number, rows)
        if rows <= 0:
            break
        store.execute("DELETE FROM graves WHERE instance = ?", (number,))
    more = store.codes.sweep() or store.execute("SELECT 1 FROM graves LIMIT 1").fetchone() is not None
    next_at = store.execute("SELECT min(expires) FROM instances WHERE expires IS NOT NULL").fetchone()[0]
    return Swept(len(expired), more or (next_at is not None and next_at <= now), next_at)


def _take_rows(store: Store, table: str, number: int, rows: int) -> int:
    """Delete up to so many rows, and no more bytes of results than one transaction should; how many it cost."""
    if rows <= 0:
        return 0
    if bulk := _BULKY.get(table):
        sizes = store.execute(
            f"SELECT coalesce(length({bulk}), 0) FROM {table} WHERE instance = ? LIMIT ?", (number, rows)
        ).fetchall()
        total, fit = 0, 0
        for (size,) in sizes:
            total += size
            fit += 1
            if total > SWEEP_BYTES:
                break
        took = _delete(store, table, number, fit)
        return rows if total > SWEEP_BYTES else took
    return _delete(store, table, number, rows)


def _delete(store: Store, table: str, number: int, rows: int) -> int:
    key = store.tables_of_instances[table]
    return store.execute(
        f"DELETE FROM {table} WHERE instance = ? AND ({key}) IN (SELECT {key} FROM {table} WHERE instance = ? LIMIT ?)",
        (number, number, rows),
    ).rowcount
