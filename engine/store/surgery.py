"""The verbs by which an operator changes what happened: a new instance that begins in the middle of another one's
history, and an outcome that is replaced. Both are on record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..records import Address, ErrorRecord, Key, Status
from . import instances, steps, usage
from .columns import unpack_error

if TYPE_CHECKING:
    from ..options import Creation
    from .store import Store

_COLUMNS = (
    "kind, name, count, position, state, attempts, due, type, value, error, config, started, began, ended, finished,"
    " within, size"
)
_CHOSEN = "chosen.instance = ? AND chosen.kind = ? AND chosen.name = ? AND chosen.count = ?"
_STEP = "instance = ? AND kind = ? AND name = ? AND count = ?"
_BEFORE = f"(SELECT {steps.BEGAN_BEFORE} FROM steps AS chosen WHERE {_CHOSEN})"
_ENDED = "kind != 'undo' AND state IN ('done', 'failed')"


class Intervention(NamedTuple):
    """What somebody changed: when, who, why, which step, and what was recorded before."""

    at: int
    author: str
    reason: str
    step: Key
    value: bytes | None
    error: ErrorRecord | None


def fork(store: Store, address: Address, step: Key | None, creation: Creation, now: int) -> bool:
    """Create an instance with the params, code and time of creation of another one, and with a copy of what that one
    has recorded of steps that began before `step`, or of all. Whether it was created: False if there is one of that id.
    """
    number, _ = instances.find(store, address)
    if step is not None:
        steps.check_recorded(store, number, step)
    chosen, place = (_ENDED, ()) if step is None else (f"{_ENDED} AND {_BEFORE}", (number, *step))
    usage.check_copy(store, number, chosen, place)
    made = instances.insert(store, address.workflow, address.scope, creation, now)
    if made is None:
        return False
    store.execute(
        "UPDATE instances SET (params, created, code, started) = (SELECT params, created,"
        " (SELECT codes.number FROM codes WHERE codes.number = instances.code), ? FROM instances WHERE number = ?)"
        " WHERE number = ?",
        (now, number, made),
    )
    store.backlog.add(store.key(address.workflow), address.scope, -1)  # it has been running, as it were
    store.execute(
        f"INSERT INTO steps (instance, {_COLUMNS}) SELECT ?, {_COLUMNS} FROM steps WHERE instance = ? AND {chosen}",
        (made, number, *place),
    )
    store.execute(
        "INSERT INTO chunks (instance, name, count, number, data) SELECT ?, name, count, number, data FROM chunks"
        " WHERE instance = ? AND EXISTS (SELECT 1 FROM steps WHERE steps.instance = ? AND steps.kind = 'do'"
        " AND steps.name = chunks.name AND steps.count = chunks.count)",
        (made, number, made),
    )
    return True


def override(
    store: Store,
    address: Address,
    step: Key,
    outcome: tuple[bytes | None, str | None],
    account: tuple[str, str],
    now: int,
) -> None:
    """Replace the outcome of a recorded step. What the instance was doing, it does again from its records."""
    number, status = instances.unfinished(store, address)
    value, error = outcome
    value, words = None if value is None else store.seal(value), store.seal_text(error)
    steps.check_recorded(store, number, step)
    usage.check_instance(store, number, sum(len(text or "") for text in (value, words, *account)))
    key = (number, *step)
    store.execute(
        "INSERT INTO interventions (instance, at, author, reason, kind, name, count, value, error)"
        f" SELECT instance, ?, ?, ?, kind, name, count, value, error FROM steps WHERE {_STEP}",
        (now, *account, *key),
    )
    steps.drop_chunks(store, number, *step[1:])
    store.execute(
        "UPDATE steps SET state = ?, value = ?, error = ?, size = NULL, due = NULL, ended = ?,"
        f" finished = coalesce(finished, ?) WHERE {_STEP}",
        ("failed" if value is None else "done", value, words, now, store.next_number(), *key),
    )
    store.execute("UPDATE instances SET losses = 0 WHERE number = ?", (number,))
    store.touch(number)
    if status is Status.WAITING_FOR_PAUSE:
        instances.stand(store, number, Status.PAUSED, now, paused_at=now)
    elif status in {Status.RUNNING, Status.WAITING}:
        instances.stand(store, number, Status.QUEUED, now, wake_at=now)


def interventions(store: Store, address: Address) -> list[Intervention]:
    """What was changed by hand, the first time first."""
    number, _ = instances.find(store, address)
    rows = store.execute(
        "SELECT at, author, reason, kind, name, count, value, error FROM interventions WHERE instance = ?"
        " ORDER BY number",
        (number,),
    ).fetchall()
    return [
        Intervention(
            at, author, reason, (kind, name, count), value and store.unseal(value), unpack_error(error, store.unseal)
        )
        for at, author, reason, kind, name, count, value, error in rows
    ]
