"""The verbs by which instances come to be and are found, and by which it is said where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InstanceAlreadyExists, InstanceFinished, InstanceNotFound
from ..records import FINAL, Address, Standing, Status
from . import usage
from .rows import Row, Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import Creation
    from .store import Store

_INSTANCE = (
    "INSERT INTO instances (number, workflow, scope, id, status, params, created, started, claims,"
    " keep_success, keep_error, code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)


def create(store: Store, workflow: str, scope: str, creation: Creation, now: int, claim: bool) -> int:
    """A new instance, running already if the caller is about to start it, else queued."""
    _check_room(store, workflow, scope, [creation], queued=not claim)
    number = _insert(store, store.key(workflow), scope, creation, now, claim)
    if number is None:
        raise InstanceAlreadyExists(f"workflow {workflow!r} has an instance {creation.id!r} already")
    return number


def create_batch(store: Store, workflow: str, creations: list[tuple[str, Creation]], now: int) -> list[bool]:
    """Queue those that do not exist yet, each in its scope; which were."""
    key = store.key(workflow)
    if store.counted or workflow in store.bounds:
        by_scope: dict[str, list[Creation]] = {}
        for scope, creation in creations:
            by_scope.setdefault(scope, []).append(creation)
        for scope, together in by_scope.items():
            _check_room(store, workflow, scope, together)
    codes = store.codes.keep(creation.code for _, creation in creations if creation.code is not None)
    rows, before = Rows(_INSTANCE), store.number
    for scope, creation in creations:
        rows.add(_new(store, key, scope, creation, now, False, codes))
    numbers = range(before + 1, store.number + 1)
    if rows.insert(store.run) < len(creations):
        made = store.run("SELECT number FROM instances WHERE number > ? AND number <= ?", (before, store.number))
        new = {number for (number,) in made}
    else:
        new = set(numbers)
    for number, (scope, creation) in zip(numbers, creations, strict=True):
        if number in new:
            store.backlog.add(key, scope, 1)
            if creation.labels:
                _label(store, number, key, scope, creation)
    return [number in new for number in numbers]


def insert(store: Store, workflow: str, scope: str, creation: Creation, now: int) -> int | None:
    """Queue a new instance: its number, None if there is one of that id."""
    _check_room(store, workflow, scope, [creation])
    return _insert(store, store.key(workflow), scope, creation, now, False)


def _check_room(store: Store, workflow: str, scope: str, creations: list[Creation], *, queued: bool = True) -> None:
    """`QuotaExceeded`, or `QueueFull` if they are to be queued."""
    key = store.key(workflow)
    if store.counted:
        usage.check(store, key, scope, sum(map(usage.size_of, creations)))
    if queued and (bounds := store.bounds.get(workflow)) is not None:
        store.backlog.check(key, scope, len(creations), bounds)


def _insert(store: Store, key: int, scope: str, creation: Creation, now: int, claim: bool) -> int | None:
    row = _new(store, key, scope, creation, now, claim)
    if not store.run(_INSTANCE, row).rowcount:
        return None
    number: int = row[0]
    if claim:
        store.change(number, now, "running")
    else:
        store.backlog.add(key, scope, 1)
    _label(store, number, key, scope, creation)
    return number


def _new(
    store: Store,
    key: int,
    scope: str,
    creation: Creation,
    now: int,
    claim: bool,
    codes: Mapping[bytes, int] | None = None,
) -> Row:
    """The row of a new instance, in the order of `_INSTANCE`. `codes` are those that are kept, by their digests."""
    status, started = ("running", now) if claim else ("queued", None)
    params, kept = store.seal(creation.params), creation.retention
    code = None if creation.code is None or codes is None else codes[creation.code.digest]
    head = (store.next_number(), key, scope, creation.id, status, params, now, started, claim)
    return *head, kept.success_ms, kept.error_ms, code


def _label(store: Store, number: int, key: int, scope: str, creation: Creation) -> None:
    for label in creation.labels:
        store.run("INSERT INTO labels VALUES (?, ?, ?, ?, ?)", (key, scope, *label, number))


def find(store: Store, address: Address) -> tuple[int, Status]:
    row = store.execute(
        "SELECT number, status FROM instances WHERE workflow = ? AND scope = ? AND id = ?",
        (store.key(address.workflow), address.scope, address.id),
    ).fetchone()
    if row is None:
        raise InstanceNotFound(f"workflow {address.workflow!r} has no instance {address.id!r}")
    return row[0], Status(row[1])


def unfinished(store: Store, address: Address) -> tuple[int, Status]:
    number, status = find(store, address)
    if status in FINAL:
        raise InstanceFinished(
            f"instance {address.id!r} has ended ({status.value}); it takes no events and no controls"
        )
    return number, status


def never_ran(store: Store, number: int) -> bool:
    """Whether the instance has not begun since it was created, or since it was begun anew."""
    return store.execute("SELECT started FROM instances WHERE number = ?", (number,)).fetchone()[0] is None


def stand(
    store: Store, number: int, status: Status, now: int, *, wake_at: int | None = None, paused_at: int | None = None
) -> Standing:
    store.execute(
        "UPDATE instances SET status = ?, wake_at = ?, paused_at = ? WHERE number = ?",
        (status.value, wake_at, paused_at, number),
    )
    if status is not Status.QUEUED:  # which is told by the run that comes of it
        store.change(number, now, status.value)
    return Standing(status, wake_at)


def rest(store: Store, number: int, until: int) -> None:
    """The run is kept, and only waits until then."""
    store.execute("UPDATE instances SET wake_at = ? WHERE number = ? AND status = 'running'", (until, number))


def go_on(store: Store, number: int) -> None:
    """It does so no longer."""
    store.execute("UPDATE instances SET wake_at = NULL WHERE number = ? AND status = 'running'", (number,))
