"""The verbs of schedules: which there are, given with the workflow or added later, and that a firing and its instance
are one transaction.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidSchedule, QueueFull, QuotaExceeded
from ..options import Creation
from ..records import Fired
from . import instances

if TYPE_CHECKING:
    from .store import Store

log = logging.getLogger("cloister.engine")


MAX_ADDED = 100
_THIS = "workflow = ? AND scope = ? AND name = ?"


class Known(NamedTuple):
    """A schedule that is on record: until when it was seen to, and its definition if it was added."""

    scope: str
    name: str
    at: int
    definition: bytes | None


def register(store: Store, workflow: str, names: list[tuple[str, str]], now: int) -> list[Known]:
    """Know these schedules, by scope and name, and those that were added. Until when each was seen to: a new one until
    now.
    """
    key = store.key(workflow)
    query = "SELECT scope, name, at, definition FROM schedules WHERE workflow = ?"
    known = {(row[0], row[1]): Known(*row) for row in store.execute(query, (key,)).fetchall()}
    for place in known.keys() - set(names):
        if known[place].definition is None:
            store.execute(f"DELETE FROM schedules WHERE {_THIS}", (key, *place))
            del known[place]
    for place in names:
        at = known[place].at if place in known else now
        store.execute("INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, NULL)", (key, *place, at))
        known[place] = Known(*place, at, None)
    return [
        each if each.definition is None else each._replace(definition=store.unseal(each.definition))
        for each in known.values()
    ]


def add(store: Store, workflow: str, scope: str, name: str, definition: bytes, now: int) -> None:
    """One more. `InvalidSchedule` if it is there, or if its scope has as many as it may."""
    key = store.key(workflow)
    if store.execute(f"SELECT 1 FROM schedules WHERE {_THIS}", (key, scope, name)).fetchone() is not None:
        raise InvalidSchedule(f"there is a schedule {name!r} in scope {scope!r} already; remove it first")
    query = "SELECT count(*) FROM schedules WHERE workflow = ? AND scope = ? AND definition IS NOT NULL"
    if store.execute(query, (key, scope)).fetchone()[0] >= MAX_ADDED:
        raise InvalidSchedule(
            f"scope {scope!r} has {MAX_ADDED} schedules, which are as many as it may; remove one first"
        )
    store.execute("INSERT INTO schedules VALUES (?, ?, ?, ?, ?)", (key, scope, name, now, store.seal(definition)))


def remove(store: Store, workflow: str, scope: str, name: str) -> None:
    """It fires no more. `InvalidSchedule` if there is none that was added."""
    query = f"DELETE FROM schedules WHERE {_THIS} AND definition IS NOT NULL"
    if not store.execute(query, (store.key(workflow), scope, name)).rowcount:
        raise InvalidSchedule(
            f"no schedule {name!r} was added to scope {scope!r}; what is given with the workflow is taken away there"
        )


def fire(store: Store, workflow: str, scope: str, name: str, creation: Creation, fired: Fired, now: int) -> bool:
    """Create the instance of this firing, unless it was seen to before."""
    key = store.key(workflow)
    noted = store.execute(
        "UPDATE schedules SET at = ? WHERE workflow = ? AND scope = ? AND name = ? AND at < ?",
        (fired.scheduled_ms, key, scope, name, fired.scheduled_ms),
    )
    if not noted.rowcount:
        return False
    try:
        made = instances.create_batch(store, workflow, [(scope, creation)], now)
    except (QuotaExceeded, QueueFull) as refusal:
        log.warning("schedule %s of %r did not fire: %s", name, workflow, refusal)
        return False
    if not made[0]:
        return False
    store.execute(
        "UPDATE instances SET schedule = ? WHERE workflow = ? AND scope = ? AND id = ?",
        (json.dumps([fired.cron, fired.scheduled_ms]), key, scope, creation.id),
    )
    return True
