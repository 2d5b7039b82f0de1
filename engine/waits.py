"""What a run waits for: a deadline, an event, another instance. See `Journal` in `protocol` for what each method
promises.

That it waits is on record before it does, with the deadline, so that whoever takes the run up again waits for the rest.
"""

from __future__ import annotations

from .denials import Denials
from .durations import LONGEST_MS, milliseconds, moment
from .errors import (
    InstanceAlreadyExists,
    InvalidDuration,
    JournalBreach,
    MomentTooFar,
    QueueFull,
    QuotaExceeded,
    WaitTimeout,
)
from .recorder import Known
from .records import DEFAULT_CONFIG, ErrorRecord, EventRecord, Key
from .rules import check_name, check_within
from .store import children, events
from .store.children import Child
from .writes import Write

DEFAULT_WAIT = "24 hours"
SHORTEST_WAIT_MS = 1_000


class Waits(Denials):
    """The half of a journal in which time passes."""

    __slots__ = ()

    async def sleep(
        self, name: str, count: int, *, duration: object = None, until: object = None, within: str | None = None
    ) -> None:
        check_within(within)
        key = self._key("sleep", name, count)
        known = self._known.get(key)
        if known is not None and known.state == "done":
            return
        if known is not None and known.state != "waiting":
            raise JournalBreach(f"sleep {name!r} number {count} was refused already")
        if self.frozen:
            await self._refuse()
        with self._occupy(key):
            await self._held()
            if known is None:
                if (duration is None) == (until is None):
                    raise InvalidDuration(f"sleep {name!r} takes either a duration or a moment to sleep until")
                try:
                    known = await self._fall_asleep(key, duration, until, within)
                except (MomentTooFar, QuotaExceeded) as refusal:
                    await self._deny(key, refusal, within)
                    raise
            if known.state == "waiting":
                await self._until(key, known)
                await self._record(key, known._replace(state="done"))
            await self._turn(key)

    async def _fall_asleep(self, key: Key, duration: object, until: object, within: str | None) -> Known:
        now = self._clock.now()
        due = now + milliseconds(duration) if until is None else moment(until, now)
        if self._mocks is not None and self._mocks.skip_sleeps:
            due = now
        known = Known("waiting" if due > now else "done", 0, due, DEFAULT_CONFIG)
        await self._record(key, known, within=within)
        return known

    async def wait_for_event(
        self,
        name: str,
        count: int,
        type: str,  # noqa: A002
        timeout: object = None,
        *,
        within: str | None = None,
    ) -> EventRecord:
        check_within(within)
        key = self._key("wait", name, count)
        check_name(type, what="event type")
        allowed = milliseconds(DEFAULT_WAIT if timeout is None else timeout, what="timeout")
        self.mail = tuple(letter for letter in self.mail if letter[0] != type)  # whoever asks is told from the store
        known = self._known.get(key)
        if self.frozen and (known is None or known.state == "waiting"):
            await self._refuse()
        with self._occupy(key):
            await self._held()
            known = self._known.get(key)
            if known is not None and known.state != "waiting":
                return self._outcome_of_wait(key)
            event: bytes | None = None
            if known is None:
                if allowed < SHORTEST_WAIT_MS:
                    raise InvalidDuration(
                        f"timeout {timeout!r:.40} is less than a second; an event is waited for longer"
                    )
                now = self._clock.now()
                known = Known("waiting", 0, now + allowed, DEFAULT_CONFIG)
                if self._mocks is not None and (told := self._mocks.wait(name, type, now, allowed)) is not None:
                    return await self._mocked(key, known, told, within)
                try:
                    place = self._place(key, known)
                    event = await self._write(events.take_event, *place, type, within, known.due or 0, now)
                except QuotaExceeded as refusal:
                    self._forget(key)
                    await self._deny(key, refusal, within)
                    raise
            if event is None:
                event = await self._until(key, known)
            if event is None:
                event = await self._expire(key, allowed)
            self._known[key] = known._replace(state="failed" if event is None else "done")
            await self._turn(key)
        if event is None:
            raise WaitTimeout(allowed)
        return EventRecord.decode(event)

    def took(
        self,
        name: str,
        count: int,
        type: str,  # noqa: A002
        timeout: object = None,
        within: str | None = None,
    ) -> None:
        check_within(within)
        key = self._key("wait", name, count)
        if key in self._known:
            return
        allowed = milliseconds(DEFAULT_WAIT if timeout is None else timeout, what="timeout")
        place = next((place for place, (kind, _) in enumerate(self.mail) if kind == type), None)
        if place is None or allowed < SHORTEST_WAIT_MS or self.frozen:
            raise JournalBreach(f"wait {name!r} number {count} cannot have been answered by an event that came along")
        told_of, now, position = self.mail[place][1], self._clock.now(), len(self._known)
        known = Known("done", 0, now + allowed, DEFAULT_CONFIG)

        def told(event: bytes | None, error: BaseException | None) -> None:
            if error is None and event != told_of:
                self._host.on_lost(f"it went on with another event than wait {name!r} number {count} has taken")
            self._stir()

        write = Write(self, told, True, (key, known, None, 0))
        self._begin(
            write, events.take_event, self._number, name, count, position, type, within, now + allowed, now
        )  # fmt: skip
        self.mail = self.mail[:place] + self.mail[place + 1 :]
        self._place(key, known)

    async def _mocked(self, key: Key, known: Known, told: EventRecord | WaitTimeout, within: str | None) -> EventRecord:
        if isinstance(told, EventRecord):
            await self._record(key, known._replace(state="done"), told.encode(), within=within)
            await self._turn(key)
            return told
        error = ErrorRecord(told.name, told.message)
        await self._record(key, known._replace(state="failed"), error=error, within=within)
        await self._turn(key)
        raise told

    async def _expire(self, key: Key, allowed: int) -> bytes | None:
        """Record the timeout; the event, if one was recorded first."""
        error = ErrorRecord(WaitTimeout.name, str(WaitTimeout(allowed)))
        return await self._write(events.expire, self._number, key[1], key[2], error, self._clock.now())

    def _outcome_of_wait(self, key: Key) -> EventRecord:
        """What an earlier run recorded, for a caller that asks instead of reading the history."""
        for record in self.history:
            if (record.kind, record.name, record.count) == key:
                if record.error is not None and record.error.name != WaitTimeout.name:
                    raise JournalBreach(f"wait {key[1]!r} number {key[2]} was refused already")
                if record.error is not None:
                    raise WaitTimeout.again(record.error)
                assert record.value is not None
                return EventRecord.decode(record.value)
        raise JournalBreach(f"wait {key[1]!r} number {key[2]} has been answered in this run already")

    async def child(
        self, name: str, count: int, child: Child, timeout: object = None, within: str | None = None
    ) -> bytes:
        check_within(within)
        key = self._key("child", name, count)
        allowed = LONGEST_MS if timeout is None else milliseconds(timeout, what="timeout")
        if self.frozen:
            await self._refuse()
        with self._occupy(key):
            await self._held()
            known = self._known.get(key)
            if known is None:
                try:
                    known = await self._beget(key, child, allowed, within)
                except (InstanceAlreadyExists, QueueFull, QuotaExceeded) as refusal:
                    await self._deny(key, refusal, within)
                    raise
            elif known.state != "waiting":
                raise JournalBreach(f"child {name!r} number {count} has been answered already")
            value = await self._until(key, known)
            if value is None:
                late = ErrorRecord(WaitTimeout.name, str(WaitTimeout(allowed)))
                value = await self._give_up(name, count, late)
            self._known[key] = known._replace(state="done")
            await self._turn(key)
        return value

    async def _beget(self, key: Key, child: Child, allowed: int, within: str | None) -> Known:
        now = self._clock.now()
        known = Known("waiting", 0, now + allowed, DEFAULT_CONFIG)
        number, name, count, position = self._place(key, known)
        try:
            await self._write(children.begin, number, (name, count, position, known.due, within), child, now)
        except (InstanceAlreadyExists, QueueFull, QuotaExceeded):
            self._forget(key)
            raise
        return known

    async def give_up(self, name: str, count: int) -> None:
        self._key("child", name, count)
        await self._give_up(name, count, children.GIVEN_UP)

    async def _give_up(self, name: str, count: int, error: ErrorRecord) -> bytes:
        now = self._clock.now()
        value = await self._write(children.give_up, self._number, name, count, error, now)
        if value is None:
            raise JournalBreach(f"there is no child {name!r} number {count}")
        return value
