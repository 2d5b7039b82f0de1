"""Every statement of the engine, as verbs: each is called inside a transaction of the writer's and is all or
nothing.

A verb raises an `EngineError` only before it has written, so that it can fail without harm to its neighbours
in the transaction. It knows no run and no clock: what time it is, and what was decided, comes as an argument.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cloister.ipc import values

from . import store_children, store_usage
from .codecs import PayloadCodec, Plain
from .database import bound_log, tables
from .errors import (
    CodecMismatch,
    EventBufferFull,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
    RunOver,
    StorageError,
)
from .options import Creation
from .records import (
    DEFAULT_CONFIG,
    FINAL,
    Address,
    ErrorRecord,
    PinnedCode,
    Standing,
    Status,
    StepConfig,
    StepRecord,
)
from .rules import MAX_EVENTS
from .store_backlog import Backlog, Bounds
from .store_children import Kin
from .store_codes import Codes
from .store_rows import Row, Rows

RESERVE = 65_536
BRIEF_BYTES = 65_536
MAX_CHANGES = 20_000
FORGET_EVERY = 512
MOST_BUFFERS = 4096
"""Of how many instances it is remembered how many events they may have."""

Unseal = Callable[[bytes], bytes]

_RECORD = """
INSERT INTO steps
    (instance, kind, name, count, position, state, attempts, due, type, value, error, config, within, size, started,
     ended, finished)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET state = excluded.state, attempts = excluded.attempts, due = excluded.due,
                          value = CASE excluded.state WHEN 'retrying' THEN coalesce(excluded.value, value)
                                  ELSE excluded.value END,
                          error = excluded.error, size = excluded.size, ended = excluded.ended,
                          finished = excluded.finished
"""
_INSTANCE = (
    "INSERT INTO instances (number, workflow, scope, id, status, params, created, started, claims,"
    " keep_success, keep_error, code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_SENT = "SELECT 1 FROM events WHERE instance = ? UNION ALL SELECT 1 FROM event_ids WHERE instance = ? LIMIT 1"
"""Whether an instance was sent something that is still there."""
_CHANGE = "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TABLES = """
SELECT name, (SELECT coalesce(group_concat(name, ', '), 'rowid') FROM pragma_table_info(tables.name) WHERE pk)
FROM sqlite_master AS tables WHERE type = 'table'
    AND EXISTS (SELECT 1 FROM pragma_table_info(tables.name) WHERE name = 'instance')
    AND name <> 'graves'
"""
"""Whatever holds rows of an instance, with its key."""


def pack_error(error: ErrorRecord | None) -> str | None:
    return None if error is None else json.dumps([error.name, error.message, error.trace], ensure_ascii=False)


def pack_config(config: StepConfig) -> str | None:
    if config is DEFAULT_CONFIG or config == DEFAULT_CONFIG:
        return None
    rare = (config.dynamic, config.sensitive, config.heartbeat_ms)
    return json.dumps([config.limit, config.delay_ms, config.backoff, config.timeout_ms, *(rare if any(rare) else ())])


def unpack_error(stored: str | bytes | None, unseal: Unseal) -> ErrorRecord | None:
    """An error as it is stored: text, or what a codec has made of it."""
    return None if stored is None else read_error(stored, unseal)


def read_error(stored: str | bytes, unseal: Unseal) -> ErrorRecord:
    return ErrorRecord(*json.loads(unseal_text(stored, unseal)))


def unseal_text(stored: str | bytes, unseal: Unseal) -> str:
    return stored if isinstance(stored, str) else unseal(stored).decode()


def unpack_config(text: str | None) -> StepConfig:
    return DEFAULT_CONFIG if text is None else StepConfig(*json.loads(text))


def unpack_step(row: Row, unseal: Unseal) -> StepRecord:
    kind, name, count, state, attempts, value, error, due, config, within, size, _ = row
    resolved = unpack_config(config) if kind in {"do", "undo"} else None
    value = None if value is None else unseal(value)
    return StepRecord(
        kind, name, count, state, attempts, value, unpack_error(error, unseal), due, resolved, within, size
    )


class News(NamedTuple):
    """What somebody should do about a transaction, once it is durable."""

    expires: int | None
    touched: frozenset[int]
    kin: Kin


class Store:
    """The durable state of one engine, on one connection, for the one thread that writes."""

    def __init__(self, connection: sqlite3.Connection, codec: PayloadCodec | None = None) -> None:
        self._connection = connection
        self._sealed = codec is not None
        codec = codec or Plain()
        self.seal, self.unseal = codec.encode, codec.decode
        self.run = connection.execute
        self._records, self._changes = Rows(_RECORD), Rows(_CHANGE)
        self._number: int = self.execute("SELECT value FROM counter").fetchone()[0]
        self._reserved = self._number
        self._expiring: int | None = None
        self._touched: set[int] = set()
        self.kin = Kin()
        self.watched: set[int] = set()
        self.quotas: dict[str, int] = {}
        """Bytes that each scope of a workflow may store, by its name. See `store_usage`."""
        self.counted: dict[int, int] = {}
        self._buffered: dict[int, int] = {}
        """How many events an instance has at most that nobody has waited for: those that were taken count on."""
        self.backlog = Backlog(self)
        self.bounds: dict[str, Bounds] = {}
        """How many instances of a workflow may be queued, by its name."""
        self.tables_of_instances = {name: key for name, key in self.execute(_TABLES).fetchall() if name in tables()}
        self._workflows: dict[str, int] = dict(self.execute("SELECT name, number FROM workflows"))
        self.codes = Codes(self)

    def try_codec(self) -> None:
        """`CodecMismatch` if what was stored last cannot be read."""
        row = self.execute("SELECT params FROM instances ORDER BY number DESC LIMIT 1").fetchone()
        if row is not None:
            try:
                values.scan(self.unseal(row[0]))
            except Exception as error:
                raise CodecMismatch(f"the codec cannot read what is stored: {type(error).__name__}: {error}") from error

    def seal_text(self, text: str | None) -> str | bytes | None:
        """What somebody's code has said in words, as it is stored."""
        return self.seal(text.encode()) if self._sealed and text is not None else text

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> sqlite3.Cursor:
        """Run one statement, after the rows that are on their way."""
        self._insert_rows()
        return self.run(statement, parameters)

    def _insert_rows(self) -> None:
        if self._records:
            self._records.insert(self.run)
        if self._changes:
            self._changes.insert(self.run)

    def begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")
        if len(self.counted) < len(self.quotas):
            store_usage.begin(self)

    def commit(self) -> None:
        self.execute("COMMIT")

    def roll_back(self, savepoint: str) -> None:
        """Take back what was written since the savepoint. Numbers that were given stay given."""
        self.execute(f"ROLLBACK TO {savepoint}")
        self.backlog.forget()
        self.execute("UPDATE counter SET value = ?", (self._reserved,))

    def guard(self, authorise: Callable[[int, str | None, str | None, str | None, str | None], int] | None) -> None:
        """Have statements asked about, or no longer. Those before are not."""
        self._insert_rows()
        self._connection.set_authorizer(authorise)

    def tidy(self) -> int:
        """Keep the log within its bound; how many bytes it has. Called every now and then, outside of transactions."""
        return bound_log(self._connection)

    def next_number(self) -> int:
        """Higher than every number that was ever given to an instance or an outcome."""
        if self._number == self._reserved:
            self._reserved += RESERVE
            self.run("UPDATE counter SET value = ?", (self._reserved,))
        self._number += 1
        return self._number

    def expect(self, expires: int | None) -> None:
        """Something may be swept away from this moment on."""
        if expires is not None and (self._expiring is None or expires < self._expiring):
            self._expiring = expires

    def touch(self, number: int) -> None:
        """Something was recorded that somebody who watches the instance wants to know."""
        self._touched.add(number)

    def news(self) -> News | None:
        """What is to be done about what was committed since this was asked last.

        Who watches is asked only now: whoever began before the commit must be told, and whoever begins later reads it.
        """
        touched = frozenset(self._touched & self.watched)
        expiring, self._expiring = self._expiring, None
        kin = self.kin
        if kin:
            self.kin = Kin()
        self._touched.clear()
        return News(expiring, touched, kin) if touched or kin or expiring is not None else None

    def change(
        self, number: int, now: int, what: str, name: str | None = None, count: int | None = None,
        attempt: int | None = None, due: int | None = None, error: str | None = None,
    ) -> None:  # fmt: skip
        """A line of the instance's history. See `schema_5.sql`."""
        row = (number, self.next_number(), now, what, name, count, attempt, due, self.seal_text(error))
        self._changes.add(row)
        if self._number % FORGET_EVERY == 0:
            self._forget_changes(number)
        self.touch(number)

    def _forget_changes(self, number: int) -> None:
        """Keep the history of an instance, which may be paused and resumed for ever, within bounds: the oldest goes."""
        self.execute(
            "DELETE FROM changes WHERE instance = ? AND number <= (SELECT number FROM changes WHERE instance = ?"
            " ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (number, number, MAX_CHANGES),
        )

    def close(self) -> None:
        """Close; a transaction that is still open is rolled back."""
        self._connection.close()

    def brief(self, verb: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        """Whether it takes no longer than its commit. What a codec takes is the host's affair, so it may be long."""
        if self._sealed or verb not in _BRIEF:
            return False
        if verb is Store.pin:
            return self.codes.known(args[1].digest)  # else it is packed first
        if verb is Store.create:
            workflow, scope, creation, _, claim = args
            if len(creation.params) > BRIEF_BYTES:
                return False
            return claim or self.backlog.at_hand(self._workflows.get(workflow), scope, self.bounds.get(workflow))
        if verb is Store.finish:
            number, childless = args[0], len(args) == 6 and args[5]
            if not childless or self.run(_SENT, (number, number)).fetchone() is not None:  # all go with it
                return False
        return all(len(part) <= BRIEF_BYTES for part in args if type(part) is bytes)

    # The life of an instance

    def create(self, workflow: str, scope: str, creation: Creation, now: int, claim: bool) -> int:
        """A new instance, running already if the caller is about to start it, else queued."""
        self._check_room(workflow, scope, [creation], queued=not claim)
        number = self._insert(self.key(workflow), scope, creation, now, claim)
        if number is None:
            raise InstanceAlreadyExists(f"workflow {workflow!r} has an instance {creation.id!r} already")
        return number

    def create_batch(self, workflow: str, creations: list[tuple[str, Creation]], now: int) -> list[bool]:
        """Queue those that do not exist yet, each in its scope; which were."""
        key, by_scope = self.key(workflow), dict[str, list[Creation]]()
        for scope, creation in creations:
            by_scope.setdefault(scope, []).append(creation)
        for scope, together in by_scope.items():
            self._check_room(workflow, scope, together)
        codes = self.codes.keep(creation.code for _, creation in creations if creation.code is not None)
        rows, before = Rows(_INSTANCE), self._number
        for scope, creation in creations:
            rows.add(self._new(key, scope, creation, now, False, codes))
        numbers = range(before + 1, self._number + 1)
        if rows.insert(self.run) < len(creations):
            made = self.run("SELECT number FROM instances WHERE number > ? AND number <= ?", (before, self._number))
            new = {number for (number,) in made}
        else:
            new = set(numbers)
        for number, (scope, creation) in zip(numbers, creations, strict=True):
            if number in new:
                self.backlog.add(key, scope, 1)
                self._label(number, key, scope, creation)
        return [number in new for number in numbers]

    def insert(self, workflow: str, scope: str, creation: Creation, now: int) -> int | None:
        """Queue a new instance: its number, None if there is one of that id."""
        self._check_room(workflow, scope, [creation])
        return self._insert(self.key(workflow), scope, creation, now, False)

    def _check_room(self, workflow: str, scope: str, creations: list[Creation], *, queued: bool = True) -> None:
        """`QuotaExceeded`, or `QueueFull` if they are to be queued."""
        key = self.key(workflow)
        if self.counted:
            store_usage.check(self, key, scope, sum(map(store_usage.size_of, creations)))
        if queued and (bounds := self.bounds.get(workflow)) is not None:
            self.backlog.check(key, scope, len(creations), bounds)

    def never_ran(self, number: int) -> bool:
        """Whether the instance has not begun since it was created, or since it was begun anew."""
        return self.execute("SELECT started FROM instances WHERE number = ?", (number,)).fetchone()[0] is None

    def _insert(self, key: int, scope: str, creation: Creation, now: int, claim: bool) -> int | None:
        row = self._new(key, scope, creation, now, claim)
        if not self.run(_INSTANCE, row).rowcount:
            return None
        number: int = row[0]
        if claim:
            self.change(number, now, "running")
        else:
            self.backlog.add(key, scope, 1)
        self._label(number, key, scope, creation)
        return number

    def _new(
        self, key: int, scope: str, creation: Creation, now: int, claim: bool, codes: Mapping[bytes, int] | None = None
    ) -> Row:
        """The row of a new instance, in the order of `_INSTANCE`. `codes` are those that are kept, by their digests."""
        status, started = ("running", now) if claim else ("queued", None)
        params, kept = self.seal(creation.params), creation.retention
        code = None if creation.code is None or codes is None else codes[creation.code.digest]
        head = (self.next_number(), key, scope, creation.id, status, params, now, started, claim)
        return *head, kept.success_ms, kept.error_ms, code

    def _label(self, number: int, key: int, scope: str, creation: Creation) -> None:
        for label in creation.labels:
            self.run("INSERT INTO labels VALUES (?, ?, ?, ?, ?)", (key, scope, *label, number))

    def find(self, address: Address) -> tuple[int, Status]:
        row = self.execute(
            "SELECT number, status FROM instances WHERE workflow = ? AND scope = ? AND id = ?",
            (self.key(address.workflow), address.scope, address.id),
        ).fetchone()
        if row is None:
            raise InstanceNotFound(f"workflow {address.workflow!r} has no instance {address.id!r}")
        return row[0], Status(row[1])

    def finish(
        self,
        number: int,
        status: Status,
        output: bytes | None,
        error: ErrorRecord | None,
        now: int,
        childless: bool = False,
    ) -> None:
        """The end, whichever: it is final. Events that nobody waited for go with it, and so do instances that it awaits
        (`childless` says that there are none). Whoever awaits it is answered.
        """
        kept = "keep_success" if status is Status.COMPLETE else "keep_error"
        done = self.run(
            "UPDATE instances SET status = ?, output = ?, error = ?, ended = ?, wake_at = NULL, expires = ? + coalesce("
            f"{kept}, (SELECT {kept} FROM workflows WHERE number = workflow)) WHERE number = ? AND ended IS NULL"
            " RETURNING workflow, scope, started IS NULL AND paused_at IS NULL, expires, parent, awaited,"
            " EXISTS (SELECT 1 FROM events WHERE instance = instances.number)"
            " OR EXISTS (SELECT 1 FROM event_ids WHERE instance = instances.number)",
            (status.value, output and self.seal(output), self.seal_text(pack_error(error)), now, now, number),
        ).fetchall()
        if not done:
            raise RunOver
        key, scope, was_queued, expires, parent, awaited, has_events = done[0]
        if was_queued:
            self.backlog.add(key, scope, -1)
        self.expect(expires)
        self.change(number, now, status.value, error=pack_error(error))
        if parent is not None:
            store_children.answer(self, (parent, awaited), status, output, error, now)
        if not childless:
            store_children.end_all(self, number, store_children.PARENT_ENDED, now)
        if has_events:
            self.execute("DELETE FROM events WHERE instance = ?", (number,))
            self.execute("DELETE FROM event_ids WHERE instance = ?", (number,))

    # Standing

    def register(self, workflow: str) -> None:
        """Give the workflow a number, if it has none."""
        if workflow not in self._workflows:
            number = self.execute("INSERT INTO workflows (name) VALUES (?)", (workflow,)).lastrowid
            assert number is not None
            self._workflows[workflow] = number

    def known_key(self, workflow: str) -> int | None:
        return self._workflows.get(workflow)

    def key(self, workflow: str) -> int:
        try:
            return self._workflows[workflow]
        except KeyError:
            raise StorageError(f"workflow {workflow!r} could not be registered yet") from None

    def unfinished(self, address: Address) -> tuple[int, Status]:
        number, status = self.find(address)
        if status in FINAL:
            raise InstanceFinished(
                f"instance {address.id!r} has ended ({status.value}); it takes no events and no controls"
            )
        return number, status

    def stand(
        self, number: int, status: Status, now: int, *, wake_at: int | None = None, paused_at: int | None = None
    ) -> Standing:
        self.execute(
            "UPDATE instances SET status = ?, wake_at = ?, paused_at = ? WHERE number = ?",
            (status.value, wake_at, paused_at, number),
        )
        if status is not Status.QUEUED:  # which is told by the run that comes of it
            self.change(number, now, status.value)
        return Standing(status, wake_at)

    # What a run records

    def record(self, now: int, *row: Any) -> None:
        """A step's row, in the order of `_RECORD`.

        What a first record says of position, type, config, enclosing step and start stays.
        """
        if self.counted:
            store_usage.check_step(self, row)
        number, kind, name, count, _, state, attempts, due, _, value, error = row[:11]
        if self._sealed:
            row = (*row[:9], value and self.seal(value), self.seal_text(error), *row[11:])
        self._records.add((*row, None if row[-1] is None else self.next_number()))
        if state == "retrying" and error is not None:
            self.change(number, now, "attempt", name, count, attempts, due, error)
        elif state == "waiting":
            self.change(number, now, kind, name, count, due=due)
        self.touch(number)

    def take_event(
        self, number: int, name: str, count: int, position: int, event_type: str, within: str | None, due: int, now: int
    ) -> bytes | None:
        """The oldest buffered event of the type, consumed by this wait; without one the wait is recorded as
        waiting.
        """
        row = self.execute(
            "SELECT number, event FROM events WHERE instance = ? AND type = ? ORDER BY number LIMIT 1",
            (number, event_type),
        ).fetchone()
        if row is None:
            rest: Row = (event_type, None, None, None, within, None, now, None)
            self.record(now, number, "wait", name, count, position, "waiting", 0, due, *rest)
            return None
        event = self.unseal(row[1])
        rest = (event_type, event, None, None, within, None, now, now)
        self.record(now, number, "wait", name, count, position, "done", 0, due, *rest)
        self.execute("DELETE FROM events WHERE number = ?", (row[0],))
        return event

    def expire(self, number: int, name: str, count: int, error: ErrorRecord, now: int) -> bytes | None:
        """Record that the wait timed out, unless an event came first: then that event."""
        key = (number, name, count)
        expired = self.execute(
            "UPDATE steps SET state = 'failed', error = ?, ended = ?, finished = ?"
            " WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ? AND state = 'waiting'",
            (self.seal_text(pack_error(error)), now, self.next_number(), *key),
        )
        if expired.rowcount:
            self.touch(number)
            return None
        event: bytes = self.execute(
            "SELECT value FROM steps WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ?", key
        ).fetchone()[0]
        return self.unseal(event)

    def send_event(
        self, address: Address, event_type: str, event: bytes, event_id: str | None, now: int
    ) -> tuple[Standing, tuple[str, int] | None]:
        """Give the event to the first wait for its type, else keep it. Which wait took it, if one did."""
        number, status = self.unfinished(address)
        event = self.seal(event)
        if event_id is not None and self._taken_before(number, event_id):
            return Standing(status), None
        store_usage.check_instance(self, number, len(event))
        wait = self.execute(
            "SELECT name, count FROM steps"
            " WHERE instance = ? AND type = ? AND kind = 'wait' AND state = 'waiting'"
            " ORDER BY position LIMIT 1",
            (number, event_type),
        ).fetchone()
        if wait is None and not self._buffers_one_more(number):
            raise EventBufferFull(
                f"instance {address.id!r} has {MAX_EVENTS:,} events that nobody has waited for; send again when some"
                " have been, or have the workflow wait for more of them"
            )
        if event_id is not None:
            self.execute("INSERT INTO event_ids (instance, id) VALUES (?, ?)", (number, event_id))
        if wait is None:
            self.execute("INSERT INTO events (instance, type, event) VALUES (?, ?, ?)", (number, event_type, event))
            return Standing(status), None
        self.execute(
            "UPDATE steps SET state = 'done', value = ?, ended = ?, finished = ?"
            " WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ?",
            (event, now, self.next_number(), number, *wait),
        )
        self.touch(number)
        if status is Status.WAITING:
            return self.stand(number, Status.QUEUED, now, wake_at=now), wait
        return Standing(status), wait

    def _taken_before(self, number: int, event_id: str) -> bool:
        query = "SELECT 1 FROM event_ids WHERE instance = ? AND id = ?"
        return self.execute(query, (number, event_id)).fetchone() is not None

    def _buffers_one_more(self, number: int) -> bool:
        """Whether an instance may have one more event that nobody waits for. They are counted when it is first sent
        one, and when it may have all that it may.
        """
        most = self._buffered.get(number, MAX_EVENTS)
        if most >= MAX_EVENTS:
            query = "SELECT count(*) FROM (SELECT 1 FROM events WHERE instance = ? LIMIT ?)"
            most = int(self.execute(query, (number, MAX_EVENTS)).fetchone()[0])
        if len(self._buffered) >= MOST_BUFFERS:
            self._buffered.clear()
        self._buffered[number] = most + 1
        return most < MAX_EVENTS

    def put_chunk(self, number: int, name: str, count: int, piece: int, data: bytes) -> None:
        """A piece of a step's result; the first one replaces what an earlier attempt has left."""
        store_usage.check_instance(self, number, len(data))
        if piece == 0:
            self.drop_chunks(number, name, count)
        self.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", (number, name, count, piece, self.seal(data)))

    def drop_chunks(self, number: int, name: str, count: int) -> None:
        self.execute("DELETE FROM chunks WHERE instance = ? AND name = ? AND count = ?", (number, name, count))

    def chunk(self, number: int, name: str, count: int, piece: int) -> bytes | None:
        row = self.execute(
            "SELECT data FROM chunks WHERE instance = ? AND name = ? AND count = ? AND number = ?",
            (number, name, count, piece),
        ).fetchone()
        return None if row is None else self.unseal(row[0])

    def pin(self, number: int, code: PinnedCode) -> None:
        """Tie an instance to a code."""
        self.codes.pin(number, code)

    # Taking back

    def undo(self, number: int, error: ErrorRecord) -> None:
        """The run has failed, and takes its steps back before it ends."""
        self.execute("UPDATE instances SET undoing = ? WHERE number = ?", (self.seal_text(pack_error(error)), number))

    def undone(self, number: int, words: str) -> None:
        self.execute("UPDATE instances SET undone = ? WHERE number = ?", (self.seal_text(words), number))

    def undo_later(self, address: Address, error: ErrorRecord, now: int) -> Standing:
        """Somebody ends the instance and wants its steps taken back: its next run does that. What never ran has
        nothing to take back, and ends at once.
        """
        number, status = self.unfinished(address)
        started, undoing = self.execute("SELECT started, undoing FROM instances WHERE number = ?", (number,)).fetchone()
        if started is None:
            self.finish(number, Status.TERMINATED, None, error, now)
            return Standing(Status.TERMINATED)
        if undoing is None:
            self.undo(number, error)
        if status in {Status.RUNNING, Status.WAITING_FOR_PAUSE}:
            return self.stand(number, Status.RUNNING, now)
        return self.stand(number, Status.QUEUED, now, wake_at=now)


_BRIEF: Final[frozenset[Callable[..., Any]]] = frozenset(
    {Store.create, Store.record, Store.finish, Store.take_event, Store.expire, Store.send_event, Store.pin}
)
"""Verbs that touch a few rows, however many there are of anything, or whose arguments say whether they do."""
