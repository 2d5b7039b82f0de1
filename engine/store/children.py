"""The verbs of a step that awaits another instance: begun and given up in the same transactions as what is recorded of
the step. How it is answered is a matter of the other's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InstanceAlreadyExists
from ..records import ErrorRecord
from . import ending, instances, steps, usage

if TYPE_CHECKING:
    from ..options import Creation
    from .store import Store

GIVEN_UP = ErrorRecord("Terminated", "the instance that awaited it has given it up")


class Child(NamedTuple):
    """An instance to be created and awaited."""

    workflow: str
    scope: str
    creation: Creation


def begin(store: Store, number: int, row: tuple[Any, ...], child: Child, now: int) -> None:
    """Create an instance, and record that a step of another one awaits it."""
    row_and_child = 100 + len(row[0]) + usage.size_of(child.creation)
    usage.check_instance(store, number, row_and_child, spares=1)  # before anything is written
    made = instances.insert(store, child.workflow, child.scope, child.creation, now)
    if made is None:
        raise InstanceAlreadyExists(f"workflow {child.workflow!r} has an instance {child.creation.id!r} already")
    name, count, position, due, within = row
    store.execute("UPDATE instances SET parent = ?, awaited = ? WHERE number = ?", (number, f"{count} {name}", made))
    steps.record(
        store,
        now,
        number,
        "child",
        name,
        count,
        position,
        "waiting",
        0,
        due,
        None,
        None,
        None,
        None,
        within,
        None,
        now,
        position,
        None,
    )
    store.relate().queued.add(child.workflow)


def give_up(store: Store, number: int, name: str, count: int, error: ErrorRecord, now: int) -> bytes | None:
    """End what a step awaits, unless it has ended; how it ended either way."""
    row = store.execute(
        "SELECT number FROM instances WHERE parent = ? AND awaited = ? AND ended IS NULL", (number, f"{count} {name}")
    ).fetchone()
    if row is not None:
        ending.end(store, row[0], error, now)
    found = store.execute(
        "SELECT value FROM steps WHERE instance = ? AND kind = 'child' AND name = ? AND count = ?",
        (number, name, count),
    ).fetchone()
    return None if found is None else store.unseal(found[0])
