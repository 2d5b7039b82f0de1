"""The verbs about instances that others await: begun, ended and answered in the same transactions as the step that
awaits them.

Whoever is to hear of it in memory is left in `Kin`, for the engine to tell once it is durable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from cloister.ipc import values

from . import store_usage
from .errors import InstanceAlreadyExists
from .records import Address, ErrorRecord, Status

if TYPE_CHECKING:
    from .options import Creation
    from .store import Store

PARENT_ENDED = ErrorRecord("Terminated", "the instance that awaited it has ended")
GIVEN_UP = ErrorRecord("Terminated", "the instance that awaited it has given it up")
DELETED = ErrorRecord("Terminated", "the instance was deleted")


@dataclass(frozen=True, slots=True)
class Answer:
    """How an awaited instance ended, for the step that awaits it."""

    parent: Address
    name: str
    count: int
    value: bytes


class Child(NamedTuple):
    """An instance to be created and awaited."""

    workflow: str
    scope: str
    creation: Creation


@dataclass(slots=True)
class Kin:
    """What a transaction did to instances that it was not about."""

    answers: list[Answer] = field(default_factory=list)
    ended: list[tuple[Address, ErrorRecord]] = field(default_factory=list)
    queued: set[str] = field(default_factory=set)
    """The workflows of which something is queued."""

    def __bool__(self) -> bool:
        return bool(self.answers or self.ended or self.queued)


def begin(store: Store, number: int, row: tuple[Any, ...], child: Child, now: int) -> None:
    """Create an instance, and record that a step of another one awaits it."""
    row_and_child = 100 + len(row[0]) + store_usage.size_of(child.creation)
    store_usage.check_instance(store, number, row_and_child, needed=True)  # before anything is written
    made = store.insert(child.workflow, child.scope, child.creation, now)
    if made is None:
        raise InstanceAlreadyExists(f"workflow {child.workflow!r} has an instance {child.creation.id!r} already")
    name, count, position, due, within = row
    store.execute("UPDATE instances SET parent = ?, awaited = ? WHERE number = ?", (number, f"{count} {name}", made))
    store.record(
        now, number, "child", name, count, position, "waiting", 0, due, None, None, None, None, within, None, now, None
    )
    store.kin.queued.add(child.workflow)


def answer(
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
        store.stand(parent, Status.QUEUED, now, wake_at=now)
        store.kin.queued.add(address.workflow)
    store.kin.answers.append(Answer(address, name, int(count), value))


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
        _end(store, child, error, now)


def give_up(store: Store, number: int, name: str, count: int, error: ErrorRecord, now: int) -> bytes | None:
    """End what a step awaits, unless it has ended; how it ended either way."""
    row = store.execute(
        "SELECT number FROM instances WHERE parent = ? AND awaited = ? AND ended IS NULL", (number, f"{count} {name}")
    ).fetchone()
    if row is not None:
        _end(store, row[0], error, now)
    found = store.execute(
        "SELECT value FROM steps WHERE instance = ? AND kind = 'child' AND name = ? AND count = ?",
        (number, name, count),
    ).fetchone()
    return None if found is None else store.unseal(found[0])


def _end(store: Store, number: int, error: ErrorRecord, now: int) -> None:
    address, _ = _address(store, number)
    store.finish(number, Status.TERMINATED, None, error, now)
    store.kin.ended.append((address, error))


def _address(store: Store, number: int) -> tuple[Address, Status]:
    workflow, scope, name, status = store.execute(
        "SELECT workflows.name, scope, id, status FROM instances JOIN workflows ON workflows.number = workflow"
        " WHERE instances.number = ?",
        (number,),
    ).fetchone()
    return Address(workflow, scope, name), Status(status)
