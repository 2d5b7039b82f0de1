"""The verbs of taking back: that a run does it, how that went, and that the next run is to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..records import Address, ErrorRecord, Standing, Status
from . import ending, instances
from .columns import pack_error

if TYPE_CHECKING:
    from .store import Store


def undo(store: Store, number: int, error: ErrorRecord) -> None:
    """The run has failed, and takes its steps back before it ends."""
    store.execute("UPDATE instances SET undoing = ? WHERE number = ?", (store.seal_text(pack_error(error)), number))


def undone(store: Store, number: int, words: str) -> None:
    store.execute("UPDATE instances SET undone = ? WHERE number = ?", (store.seal_text(words), number))


def undo_later(store: Store, address: Address, error: ErrorRecord, now: int) -> Standing:
    """Somebody ends the instance and wants its steps taken back: its next run does that. What never ran has
    nothing to take back, and ends at once.
    """
    number, status = instances.unfinished(store, address)
    started, undoing = store.execute("SELECT started, undoing FROM instances WHERE number = ?", (number,)).fetchone()
    if started is None:
        ending.finish(store, number, Status.TERMINATED, None, error, now)
        return Standing(Status.TERMINATED)
    if undoing is None:
        undo(store, number, error)
    if status in {Status.RUNNING, Status.WAITING_FOR_PAUSE}:
        return instances.stand(store, number, Status.RUNNING, now)
    return instances.stand(store, number, Status.QUEUED, now, wake_at=now)
