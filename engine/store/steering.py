"""How instances are steered in a file that no engine has: each verb in a transaction of its own. What it leads to, the
next host does.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..clock import SystemClock
from ..database import VERSION, connect, refusal
from ..errors import CodecMismatch, EngineLocked, InstanceNotFound
from ..ownership import Ownership
from ..records import TERMINATED, Address, EventRecord, Key, Status
from ..rules import check_name, encode
from . import control, events, instances, undoing, wipe
from .archive import reading
from .store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Steering:
    """The verbs of an operator. Made by `steering`; `EngineError` says what cannot be done, and nothing of it is."""

    def __init__(self, store: Store) -> None:
        self._store, self._now = store, SystemClock().now

    def pause(self, address: Address) -> Status:
        self._write(control.pause, address, self._now())
        return self._standing(address)

    def resume(self, address: Address) -> Status:
        self._write(control.resume, address, self._now())
        return self._standing(address)

    def terminate(self, address: Address, *, rollback: bool = False) -> Status:
        self._write(undoing.undo_later if rollback else control.terminate, address, TERMINATED, self._now())
        return self._standing(address)

    def restart(self, address: Address, step: Key | None = None) -> Status:
        self._write(wipe.restart, address, step, self._now())
        return self._standing(address)

    def send_event(self, address: Address, event_type: str, payload: Any, event_id: str | None = None) -> Status:
        check_name(event_type, what="event type")
        if event_id is not None:
            check_name(event_id, what="event id")
        now = self._now()
        event = EventRecord(event_type, encode(payload, "the payload of the event"), now).encode()
        self._write(events.send_event, address, event_type, event, event_id, now)
        return self._standing(address)

    def delete(self, address: Address) -> None:
        self._write(wipe.delete, address, self._now())

    def _standing(self, address: Address) -> Status:
        return instances.find(self._store, address)[1]

    def _write(
        self, verb: Callable[Concatenate[Store, Address, P], T], address: Address, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._store.known_key(address.workflow) is None:
            raise InstanceNotFound(f"there is no workflow {address.workflow!r}")
        self._store.begin()
        try:
            done = verb(self._store, address, *args, **kwargs)
            self._store.commit()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # what went wrong may have ended it
                self._store.execute("ROLLBACK")
            raise
        return done


@contextlib.contextmanager
def steering(path: Path) -> Iterator[Steering]:
    """Take the file for so long. `EngineLocked` while an engine has it, `CodecMismatch` if what is stored there was
    made by a codec, which nobody but its host has.
    """
    with reading(path, VERSION):
        pass
    try:
        ownership = Ownership(path)
    except EngineLocked as error:
        raise EngineLocked(f"{error}, and only that can do this: ask it, or stop it first") from None
    try:
        store = Store(connect(path, "full"))
        try:
            store.try_codec()
            yield Steering(store)
        finally:
            store.close()
    except CodecMismatch:
        raise CodecMismatch(
            f"{path} was written with a codec, which only its host has: steer its instances from there"
        ) from None
    except sqlite3.Error as error:
        raise refusal(path, error) from error
    finally:
        ownership.release()
