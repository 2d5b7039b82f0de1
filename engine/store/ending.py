"""The verb that ends an instance, however. In the same transaction what it awaits ends too, and whoever awaits it is
answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloister.ipc import values

from ..errors import RunOver
from ..records import Address, ErrorRecord, Status
from . import instances
from .columns import pack_error
from .kin import Answer

if TYPE_CHECKING:
    from .store import Store

PARENT_ENDED = ErrorRecord("Terminated", "the instance that awaited it has ended")


def finish(
    store: Store,
    number: int,
    status: Status,
    output: bytes | None,
    error: ErrorRecord | None,
    now: int,
    childless: bool = False,
) -> None:
    """The end, whichever: it is final. Events that nobody waited for go with it, and so do instances that it awaits
    (`childless` says that there are none). Whoever awaits it is answered.
    """
    failure = store.seal_text(pack_error(error))
    kept = "keep_success" if status is Status.COMPLETE else "keep_error"
    done = store.run(
        "UPDATE instances SET status = ?, output = ?, error = ?, ended = ?, wake_at = NULL, expires = ? + coalesce("
        f"{kept}, (SELECT {kept} FROM workflows WHERE number = workflow)) WHERE number = ? AND ended IS NULL"
        " RETURNING workflow, scope, started IS NULL AND paused_at IS NULL, expires, parent, awaited,"
        " EXISTS (SELECT 1 FROM events WHERE instance = instances.number)"
        " OR EXISTS (SELECT 1 FROM event_ids WHERE instance = instances.number)",
        (status.value, output and store.seal(output), failure, now, now, number),
    ).fetchall()
    if not done:
        raise RunOver
    key, scope, was_queued, expires, parent, awaited, has_events = done[0]
    if was_queued:
        store.backlog.add(key, scope, -1)
    store.expect(expires)
    if not childless:
        end_all(store, number, PARENT_ENDED, now)  # of which its history tells before its end, the last that it tells
    store.change(number, now, status.value, error=failure)
    if parent is not None:
        _answer(store, (parent, awaited), status, output, error, now)
    if has_events:
        store.execute("DELETE FROM events WHERE instance = ?", (number,))
        store.execute("DELETE FROM event_ids WHERE instance = ?", (number,))


def _answer(
    store: Store, place: tuple[int, str], status: Status, output: bytes | None, error: ErrorRecord | None, now: int
) -> None:
    """An awaited instance has ended: so has the step that awaited it, if it still does."""
    parent, awaited = place
    count, _, name = awaited.partition(" ")
    value = values.join(
        {
            "status": values.dumps(status.value),
            "output": values.dumps(None) if output is None else output,
            "error": values.dumps(None if error is None else [error.name, error.message, ""]),
        }
    )
    told = store.execute(
        "UPDATE steps SET state = 'done', value = ?, ended = ?, finished = ?"
        " WHERE instance = ? AND kind = 'child' AND name = ? AND count = ? AND state = 'waiting'",
        (store.seal(value), now, store.next_number(), parent, name, int(count)),
    )
    if not told.rowcount:
        return
    store.touch(parent)
    address, standing = _address(store, parent)
    if standing is Status.WAITING:
        instances.stand(store, parent, Status.QUEUED, now, wake_at=now)
        store.relate().queued.add(address.workflow)
    elif standing is Status.RUNNING:
        instances.go_on(store, parent)
    store.relate().answers.append(Answer(address, name, int(count), value))


def end_all(store: Store, number: int, error: ErrorRecord, now: int, *, orphans: bool = False) -> None:
    """End what this instance has begun and awaits; only what no step of it awaits any longer, if so said."""
    only = (
        " AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.instance = instances.parent AND kind = 'child'"
        " AND awaited = steps.count || ' ' || steps.name)"
    )
    rows = store.execute(
        f"SELECT number FROM instances WHERE parent = ? AND ended IS NULL{only if orphans else ''}", (number,)
    ).fetchall()
    for (child,) in rows:
        end(store, child, error, now)


def end(store: Store, number: int, error: ErrorRecord, now: int) -> None:
    """Terminate an instance that another one has begun."""
    address, _ = _address(store, number)
    finish(store, number, Status.TERMINATED, None, error, now)
    store.ended_beside.add(number)
    store.relate().ended.append((number, address, error))


def _address(store: Store, number: int) -> tuple[Address, Status]:
    workflow, scope, name, status = store.execute(
        "SELECT workflows.name, scope, id, status FROM instances JOIN workflows ON workflows.number = workflow"
        " WHERE instances.number = ?",
        (number,),
    ).fetchone()
    return Address(workflow, scope, name), Status(status)
