"""The verbs by which a run records its steps, and results that come in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import RunOver, StepNotFound
from . import usage

if TYPE_CHECKING:
    from ..records import Key, StepKind
    from .store import Store

_INTO: Final = """
INSERT INTO steps
    (instance, kind, name, count, position, state, attempts, due, type, value, error, config, within, size, started,
     began, ended, finished)
"""
_AGAIN: Final = """
ON CONFLICT DO UPDATE SET state = excluded.state, attempts = excluded.attempts, due = excluded.due,
                          value = CASE excluded.state WHEN 'retrying' THEN coalesce(excluded.value, value)
                                  ELSE excluded.value END,
                          error = excluded.error, size = excluded.size, ended = excluded.ended,
                          finished = excluded.finished
"""
RECORD: Final = f"{_INTO} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {_AGAIN}"
RESULT: Final = f"{_INTO} VALUES (?, 'do', ?, ?, ?, 'done', 1, NULL, NULL, ?, NULL, NULL, ?, NULL, ?, ?, ?, ?) {_AGAIN}"
"""The same of a step that has come to its result at once: to bind a NULL takes longer than to insert it."""

BEGAN_BEFORE: Final = """
CASE WHEN steps.began IS NOT NULL AND chosen.began IS NOT NULL
          THEN (steps.began, steps.position) < (chosen.began, chosen.position)
     WHEN steps.position > chosen.position AND steps.ended < chosen.started THEN 0
     WHEN steps.position < chosen.position AND chosen.ended < steps.started THEN 1
     ELSE (steps.started, steps.position) < (chosen.started, chosen.position) END
"""
"""Whether one of `steps` began before the `chosen` one of the same instance, so that it knows nothing of what came of
that. Steps side by side are recorded in another order than they begin in. How many were on record when one began was
not kept by earlier versions: of theirs the times are asked. That one is recorded later and over before the other began,
or the other way round, is so only where the clock was set back between them: then it is the order of the records.
"""


def record(store: Store, now: int, *row: Any) -> None:
    """A step's row, in the order of `RECORD`.

    What a first record says of position, type, config, enclosing step and start stays.
    """
    if row[0] in store.ended_beside:
        raise RunOver
    if store.counted:
        usage.check_step(store, row)
    number, kind, name, count, _, state, attempts, due, _, value, error = row[:11]
    if store.sealed:
        error = store.seal_text(error)
        row = (*row[:9], value and store.seal(value), error, *row[11:])
    store.records.add((*row, None if row[-1] is None else store.next_number()))
    if state == "retrying" and error is not None:
        store.change(number, now, "attempt" if kind == "do" else "undo", name, count, attempts, due, error)
    elif state == "waiting":
        store.change(number, now, kind, name, count, due=due)
    store.touch(number)


def began(store: Store, number: int, now: int, kind: StepKind, name: str, count: int, attempt: int) -> None:
    """An attempt has begun, of which somebody wants to hear."""
    if number not in store.ended_beside:
        store.change(number, now, "undo began" if kind == "undo" else "began", name, count, attempt)


def record_result(
    store: Store, now: int, number: int, name: str, count: int, position: int, value: bytes, within: str | None,
    started: int, began: int,
) -> None:  # fmt: skip
    """The first and last record of a step that has come to its result at once, as nearly all do: see `RESULT`."""
    if number in store.ended_beside:
        raise RunOver
    if store.counted:
        usage.check_instance(store, number, len(value))
    if store.sealed and value:
        value = store.seal(value)
    store.results.add((number, name, count, position, value, within, started, began, now, store.next_number()))
    store.touch(number)


def put_chunk(store: Store, number: int, name: str, count: int, piece: int, data: bytes) -> None:
    """A piece of a step's result; the first one replaces what an earlier attempt has left."""
    usage.check_instance(store, number, len(data))
    if piece == 0:
        drop_chunks(store, number, name, count)
    store.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", (number, name, count, piece, store.seal(data)))


def drop_chunks(store: Store, number: int, name: str, count: int) -> None:
    store.execute("DELETE FROM chunks WHERE instance = ? AND name = ? AND count = ?", (number, name, count))


def chunk(store: Store, number: int, name: str, count: int, piece: int) -> bytes | None:
    row = store.execute(
        "SELECT data FROM chunks WHERE instance = ? AND name = ? AND count = ? AND number = ?",
        (number, name, count, piece),
    ).fetchone()
    return None if row is None else store.unseal(row[0])


def check_recorded(store: Store, number: int, step: Key) -> None:
    """`StepNotFound` if there is no record of it."""
    kind, name, count = step
    key = (number, kind, name, count)
    if not store.execute(
        "SELECT 1 FROM steps WHERE instance = ? AND kind = ? AND name = ? AND count = ?", key
    ).fetchone():
        raise StepNotFound(f"the instance has no record of {kind} {name!r} number {count}")
