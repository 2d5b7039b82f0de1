"""The verbs of taking back: that a run does it, how that went, and that the next run is to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..records import Address, ErrorRecord, Standing, Status
from . import ending, instances
from .columns import pack_error

if TYPE_CHECKING:
    from .store import Store

COMPLETE = "complete"


def undo(store: Store, number: int, error: ErrorRecord, now: int) -> None:
    """The run has failed, and takes its steps back before it ends."""
    failure = store.seal_text(pack_error(error))
    if store.execute(
        "UPDATE instances SET undoing = ? WHERE number = ? AND undoing IS NULL", (failure, number)
    ).rowcount:
        store.change(number, now, "rollback", error=failure)


def undone(store: Store, number: int, words: str, now: int) -> None:
    """They are taken back if the words are `COMPLETE`, or else say why not."""
    told = store.seal_text(words)
    failure = None if words == COMPLETE else store.seal_text(pack_error(ErrorRecord("RollbackFailed", words)))
    if store.execute("UPDATE instances SET undone = ? WHERE number = ? AND undone IS NULL", (told, number)).rowcount:
        store.change(number, now, "undone", error=failure)


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
        undo(store, number, error, now)
    if status in {Status.RUNNING, Status.WAITING_FOR_PAUSE}:
        return instances.stand(store, number, Status.RUNNING, now)
    return instances.stand(store, number, Status.QUEUED, now, wake_at=now)
