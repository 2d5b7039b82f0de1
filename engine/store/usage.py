"""How much each scope stores, and that it stores no more than it may. Counted only for workflows with a quota.

SQLite counts: triggers of this connection see each row come, change and go, whichever verb does it. What was there
before is counted once, when the connection first needs it; nothing of this is kept on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import QuotaExceeded
from ..rules import BRIEF

if TYPE_CHECKING:
    from ..options import Creation
    from .rows import Row
    from .store import Store

SPARE: Final = 65_536
"""Bytes beyond an eighth of its quota that what a run needs to come to an end may take; and as many more that the words
may take in which it is on record that something was refused."""

_ROWS = {
    "steps": "100 + length({0}.name) + coalesce(length({0}.value), 0) + coalesce(length({0}.error), 0)",
    "chunks": "100 + length({0}.data)",
    "events": "100 + length({0}.event)",
    "event_ids": "100 + length({0}.id)",
    "changes": "100 + coalesce(length({0}.error), 0)",
    "labels": "100 + length({0}.name) + length({0}.value)",
    "interventions": "100 + length({0}.author) + length({0}.reason) + coalesce(length({0}.value), 0)"
    " + coalesce(length({0}.error), 0)",
}
"""What a row of an instance counts for, in bytes: what is in it that can be large, and something for the rest."""
_INSTANCE = "300 + length({0}.params) + coalesce(length({0}.output), 0) + coalesce(length({0}.error), 0)"
_BY = "UPDATE usage SET bytes = bytes + ({change}) WHERE (workflow, scope) = ({scope})"
_SCOPE = "SELECT workflow, scope FROM instances WHERE number = {0}.instance"


def begin(store: Store) -> None:
    """Count for those workflows that have a quota, and are not counted yet."""
    for name, most in tuple(store.quotas.items()):  # the loop may be adding one
        key = store.known_key(name)
        if key is None or key in store.counted:
            continue
        if not store.counted:
            _watch(store)
        store.execute("INSERT INTO counted VALUES (?)", (key,))
        store.execute(
            f"INSERT INTO usage SELECT workflow, scope, sum({_INSTANCE.format('instances')}) FROM instances"
            " WHERE workflow = ? GROUP BY scope",
            (key,),
        )
        for table, bulk in _ROWS.items():
            store.execute(
                f"INSERT INTO usage SELECT i.workflow, i.scope, sum({bulk.format(table)}) FROM instances AS i"
                f" JOIN {table} ON {table}.instance = i.number WHERE i.workflow = ? GROUP BY i.scope"
                " ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
                (key,),
            )
        store.counted[key] = most


def check(store: Store, key: int, scope: str, more: int, *, spares: int = 0) -> None:
    """`QuotaExceeded` if so many bytes more are too many; what a run needs to come to an end may go beyond by an eighth
    and one spare, and that something has failed by two.
    """
    quota = store.counted.get(key)
    if quota is None:
        return
    most = quota + quota // 8 + spares * SPARE if spares else quota
    row = store.execute("SELECT bytes FROM usage WHERE workflow = ? AND scope = ?", (key, scope)).fetchone()
    stored = 0 if row is None else row[0]
    if stored + more > most:
        raise QuotaExceeded(
            f"scope {scope!r} stores {stored:,} bytes of the {quota:,} that it may (`bytes_per_scope`), and {more:,}"
            " more are too many; delete instances that have ended, or have them kept for less long"
        )


def check_instance(store: Store, number: int, more: int, *, spares: int = 0) -> None:
    """The same for the scope of an instance."""
    if store.counted:
        row = store.execute("SELECT workflow, scope FROM instances WHERE number = ?", (number,)).fetchone()
        if row is not None:
            check(store, row[0], row[1], more, spares=spares)


def size_of(creation: Creation) -> int:
    """What an instance counts for when it is created."""
    labels = sum(100 + len(name) + len(value) for name, value in creation.labels)
    return 300 + len(creation.params) + labels


def check_step(store: Store, row: Row) -> None:
    """The same for a step's row, in the order in which it is recorded. What an attempt came to can be refused, for its
    step can fail instead; that it has failed for good is on record all the same, in a few words.
    """
    number, kind, name, _, _, state, _, _, _, value, error = row[:11]
    more = len(value or b"") + len(error or "")
    if kind in {"do", "value"} and (state != "failed" or more > 2 * BRIEF):
        check_instance(store, number, more)
    elif state in {"failed", "waiting"}:
        check_instance(store, number, 100 + len(name) + more, spares=2 if state == "failed" else 1)


def check_copy(store: Store, number: int, chosen: str, place: tuple[Any, ...]) -> None:
    """The same for a copy of an instance in its scope, with those of its steps that this condition chooses."""
    if not store.counted:
        return
    pieces = (
        "EXISTS (SELECT 1 FROM steps WHERE steps.instance = chunks.instance AND steps.kind = 'do'"
        f" AND steps.name = chunks.name AND steps.count = chunks.count AND {chosen})"
    )
    query = f"SELECT {_INSTANCE.format('instances')} FROM instances WHERE number = ?"
    more = int(store.execute(query, (number,)).fetchone()[0])
    for table, condition in (("steps", chosen), ("chunks", pieces)):
        bulk = _ROWS[table].format(table)
        query = f"SELECT coalesce(sum({bulk}), 0) FROM {table} WHERE {table}.instance = ? AND {condition}"
        more += int(store.execute(query, (number, *place)).fetchone()[0])
    check_instance(store, number, more)


def _watch(store: Store) -> None:
    store.execute("CREATE TEMP TABLE counted (workflow INTEGER PRIMARY KEY)")
    store.execute(
        "CREATE TEMP TABLE usage (workflow INTEGER, scope TEXT, bytes INTEGER NOT NULL, PRIMARY KEY (workflow, scope))"
        " WITHOUT ROWID"
    )
    new, old = _INSTANCE.format("new"), _INSTANCE.format("old")
    first = (
        "INSERT INTO usage SELECT new.workflow, new.scope, 0 WHERE new.workflow IN (SELECT workflow FROM counted)"
        " ON CONFLICT DO NOTHING"
    )
    of_new = "new.workflow, new.scope"
    _when(store, "instances", "INSERT", [first, _BY.format(change=new, scope=of_new)])
    changed = _BY.format(change=f"{new} - ({old})", scope=of_new)
    _when(store, "instances", "UPDATE OF params, output, error", [changed])
    rows = " + ".join(
        f"(SELECT coalesce(sum({bulk.format(table)}), 0) FROM {table} WHERE instance = old.number)"
        for table, bulk in _ROWS.items()
    )
    # Its other rows follow by and by; they count no longer from now on.
    gone = _BY.format(change=f"-({old} + {rows})", scope="old.workflow, old.scope")
    _when(store, "instances", "DELETE", [gone], moment="BEFORE")
    for table, bulk in _ROWS.items():
        more, less = bulk.format("new"), bulk.format("old")
        _when(store, table, "INSERT", [_BY.format(change=more, scope=_SCOPE.format("new"))])
        _when(store, table, "UPDATE", [_BY.format(change=f"{more} - ({less})", scope=_SCOPE.format("new"))])
        _when(store, table, "DELETE", [_BY.format(change=f"-({less})", scope=_SCOPE.format("old"))])


def _when(store: Store, table: str, what: str, statements: list[str], *, moment: str = "AFTER") -> None:
    name = f"usage_{table}_{what.partition(' ')[0].lower()}"
    body = " ".join(f"{each};" for each in statements)
    store.execute(f"CREATE TEMP TRIGGER {name} {moment} {what} ON main.{table} BEGIN {body} END")
