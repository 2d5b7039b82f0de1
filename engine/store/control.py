"""The verbs by which somebody outside steers an instance: hold it, let it go on, end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..records import Address, ErrorRecord, Standing, Status
from . import ending, instances

if TYPE_CHECKING:
    from .store import Store


def pause(store: Store, address: Address, now: int) -> Standing:
    number, status = instances.unfinished(store, address)
    if status is Status.RUNNING:
        return instances.stand(store, number, Status.WAITING_FOR_PAUSE, now)
    if status in {Status.QUEUED, Status.WAITING}:
        if status is Status.QUEUED and instances.never_ran(store, number):
            store.backlog.add(store.key(address.workflow), address.scope, -1)
        return instances.stand(store, number, Status.PAUSED, now, paused_at=now)
    return Standing(status)


def resume(store: Store, address: Address, now: int) -> Standing:
    """Every pending deadline moves by the length of the pause."""
    number, status = instances.unfinished(store, address)
    if status is Status.WAITING_FOR_PAUSE:
        return instances.stand(store, number, Status.RUNNING, now)
    if status is not Status.PAUSED:
        return Standing(status)
    store.execute(
        "UPDATE steps SET due = due + max(0, ? - (SELECT paused_at FROM instances WHERE number = ?))"
        " WHERE instance = ? AND state IN ('waiting', 'retrying')",
        (now, number, number),
    )
    if instances.never_ran(store, number):
        store.backlog.add(store.key(address.workflow), address.scope, 1)
    return instances.stand(store, number, Status.QUEUED, now, wake_at=now)


def terminate(store: Store, address: Address, error: ErrorRecord, now: int) -> None:
    number, _ = instances.unfinished(store, address)
    ending.finish(store, number, Status.TERMINATED, None, error, now)
