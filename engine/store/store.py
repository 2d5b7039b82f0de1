"""The connection that writes: its transactions, the numbers that it gives, and what somebody is to hear of what was
committed. What is written is for the verbs.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cloister.ipc import values

from ..codecs import PayloadCodec, Plain, Tried
from ..database import tables
from ..errors import CodecFailed, CodecMismatch, EngineError, StorageError
from ..log import Log
from . import usage
from .backlog import Backlog, Bounds
from .codes import Codes
from .kin import Kin
from .rows import Rows
from .steps import RECORD, RESULT, record, record_result

RESERVE = 65_536
MAX_CHANGES = 20_000
FORGET_EVERY = 512
_NOBODY = frozenset[int]()
_STANDING = "INSERT INTO changes (instance, number, at, type) VALUES (?, ?, ?, ?)"
_CHANGE = "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TABLES = """
SELECT name, (SELECT coalesce(group_concat(name, ', '), 'rowid') FROM pragma_table_info(tables.name) WHERE pk)
FROM sqlite_master AS tables WHERE type = 'table'
    AND EXISTS (SELECT 1 FROM pragma_table_info(tables.name) WHERE name = 'instance')
    AND name <> 'graves'
"""
"""Whatever holds rows of an instance, with its key."""


class News(NamedTuple):
    """What somebody should do about a transaction, once it is durable."""

    expires: int | None
    touched: frozenset[int]
    kin: tuple[tuple[int, Kin], ...]
    """Each with how many of its operations had been done by then."""


class Store:
    """The durable state of one engine, on one connection, for the one thread that writes."""

    def __init__(self, connection: sqlite3.Connection, codec: PayloadCodec | None = None) -> None:
        self._connection = connection
        self.sealed = codec is not None
        tried = Plain() if codec is None else Tried(codec)
        self.seal, self.unseal = tried.encode, tried.decode
        self.run = connection.execute
        self.log = Log(connection)
        self.records, self.results = Rows(RECORD), Rows(RESULT)  # no step has a row in both of a transaction
        self._standings, self._changes = Rows(_STANDING), Rows(_CHANGE)
        self._waiting = (self.results, self._standings, self.records, self._changes)
        self.number: int = self.execute("SELECT value FROM counter").fetchone()[0]
        self._reserved = self.number
        self._expiring: int | None = None
        self._touched: set[int] = set()
        self.kin: Kin | None = None
        """What the operation has done to other instances, if it has."""
        self.ended_beside: set[int] = set()
        """Instances that others have ended: of theirs, what is on its way is not recorded. See `forget`."""
        self._related: list[tuple[int, Kin]] = []
        self.watched: set[int] = set()
        self.quotas: dict[str, int] = {}
        """Bytes that each scope of a workflow may store, by its name. See `usage`."""
        self.counted: dict[int, int] = {}
        self.buffered: dict[int, int] = {}
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
                cause = error.__cause__ or error
                raise CodecMismatch(f"the codec cannot read what is stored: {type(cause).__name__}: {cause}") from error

    def seal_text(self, text: str | None) -> str | bytes | None:
        """What somebody's code has said in words, as it is stored."""
        return self.seal(text.encode()) if self.sealed and text is not None else text

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> sqlite3.Cursor:
        """Run one statement, after the rows that are on their way."""
        self._insert_rows()
        return self.run(statement, parameters)

    def _insert_rows(self) -> None:
        for rows in self._waiting:
            if rows.waiting:
                rows.insert(self.run)

    def begin(self, *, checkpoints: bool = True) -> None:
        """A transaction; none if it raises. Whether its commit may shorten the log, which takes a sync or two more, is
        for whoever waits to say.
        """
        self.log.check(carry=checkpoints)
        self.log.checkpoints(on=checkpoints)
        self.execute("BEGIN IMMEDIATE")
        if len(self.counted) < len(self.quotas):
            before = dict(self.counted)
            try:
                usage.begin(self)
            except BaseException:
                self.counted = before  # what was counted since goes with the transaction
                with contextlib.suppress(sqlite3.Error):  # what went wrong may have ended it
                    self.run("ROLLBACK")
                raise

    def commit(self) -> None:
        self.execute("COMMIT")

    def roll_back(self, savepoint: str) -> None:
        """Take back what was written since the savepoint. Numbers that were given stay given."""
        self.execute(f"ROLLBACK TO {savepoint}")
        self.backlog.forget()
        self._forget_who_goes_on()
        self.execute("UPDATE counter SET value = ?", (self._reserved,))

    def forget(self, ended: Sequence[int]) -> None:
        """The runs of instances that others have ended have been stopped, and nothing of theirs is on its way now."""
        self.ended_beside.difference_update(ended)

    def remember(self, ended: set[int]) -> None:
        """Those that others have ended since before the file was opened anew. The set is kept, for the next time."""
        self.ended_beside = ended
        self._forget_who_goes_on()

    def _forget_who_goes_on(self) -> None:
        """Of whom what has ended them was not stored."""
        ended = "SELECT 1 FROM instances WHERE number = ? AND ended IS NOT NULL"
        self.forget([number for number in self.ended_beside if not self.run(ended, (number,)).fetchall()])

    def apart(self, verb: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a verb of which nothing is left if the codec fails it: others of the transaction are not concerned."""
        if verb is record_result or verb is record:  # by far the commonest, and done with the codec before it writes
            return verb(self, *args)
        self.execute("SAVEPOINT apart")
        try:
            result = verb(self, *args)
        except CodecFailed:
            self.roll_back("apart")
            self.kin = None
            self.execute("RELEASE apart")
            raise
        except EngineError:
            self.execute("RELEASE apart")
            raise
        self.execute("RELEASE apart")
        return result

    def guard(self, authorise: Callable[[int, str | None, str | None, str | None, str | None], int] | None) -> None:
        """Have statements asked about, or no longer. Those before are not."""
        self._insert_rows()
        self._connection.set_authorizer(authorise)

    def next_number(self) -> int:
        """Higher than every number that was ever given to an instance or an outcome."""
        if self.number == self._reserved:
            self._reserved += RESERVE
            self.run("UPDATE counter SET value = ?", (self._reserved,))
        self.number += 1
        return self.number

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
        touched = frozenset(self._touched & self.watched) if self.watched else _NOBODY
        self._touched.clear()
        related, expiring = self._related, self._expiring
        if not (touched or related or expiring is not None):
            return None
        self._related, self._expiring = [], None
        return News(expiring, touched, tuple(related))

    def relate(self) -> Kin:
        """For what the operation does to an instance that it is not about."""
        if self.kin is None:
            self.kin = Kin()
        return self.kin

    def related(self, done: int) -> None:
        """So many operations have been done, of which the last may have done something to others."""
        if self.kin is not None:
            self._related.append((done, self.kin))
            self.kin = None

    def change(
        self, number: int, now: int, what: str, name: str | None = None, count: int | None = None,
        attempt: int | None = None, due: int | None = None, error: str | bytes | None = None,
    ) -> None:  # fmt: skip
        """A line of the instance's history, with an error as it is stored. See `schema_5.sql`."""
        if name is None and error is None:  # none of it is due
            self._standings.add((number, self.next_number(), now, what))
        else:
            self._changes.add((number, self.next_number(), now, what, name, count, attempt, due, error))
        if self.number % FORGET_EVERY == 0:
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

    # The numbers of workflows

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
