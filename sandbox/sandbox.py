"""One sandbox as the host sees it: a process to call into, limits that are watched from here, and a reason for its end.

A sandbox is blank until `boot` gives it a tenant's code; it serves that tenant until it ends and is never used again.
Every death has a sentence, and every call in flight fails with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cloister.ipc import (
    Connection,
    IpcError,
    RemoteError,
    RemoteProtocolError,
    Seen,
    codec,
    values,
)
from cloister.ipc.arguments import Arguments
from cloister.ipc.connection import MAX_CALLS
from cloister.ipc.link import Link
from cloister.ipc.messages import Note
from cloister.ipc.observation import observe
from cloister.ipc.unread import MUCH

from .alarms import Alarms
from .calls import Calls
from .ending import Ending
from .errors import LimitExceeded, ProtocolViolation, SandboxClosed, SandboxDied, SandboxError, SandboxUnused
from .intake import ANSWERS, MESSAGE, Intake
from .lockdown.cgroups import Group
from .policy import Limits
from .precedence import SOON, WINDOW, Precedence
from .process import Process, describe
from .tail import LEVELS, Tail
from .visits import WORKER, VisitedPeer
from .watch import Account

UNFINISHED = 60.0
"""Seconds that a frame may take to arrive, of which the host keeps what there is."""
UNREAD = 600.0
"""Seconds that it may leave more unread than the kernel keeps for it: as long as an attempt of a step may take."""
MUCH_UNREAD = 60.0
"""The same for so much that it is not listened to meanwhile: as long as a call may take."""
_NOTE_ELEMENTS = 5  # of the longest note there is, list included
_HELD_FOR = 10.0
"""Seconds for which what was granted to one that was never used is still held, for whoever grants it to another."""
_NOTE = codec.MARKS[Note]
_LINE = codec.encode(Note("log", b""))  # how the guest's own code begins a line of its log

_TABLES, _TABLES_OF_MEMORY = 4 << 20, 8
"""Bytes of page tables that a process may have, and one more for so many of its memory: pages side by side take one for
each five hundred."""
_A_LITTLE = 0.1
"""Seconds of CPU that it may use between two looks of others at it without being looked at more closely."""
_AT_ONCE = 3
"""Turns of the loop that it takes who has waited for a sandbox to make a call in it: they are told, behind a shield."""
_BLANK = Limits()  # what holds until there is code


class _Code(values.Named):
    names = ("main_module", "modules", "env", "bounds", "global_outbound", "compatibility_flags")


@dataclass(frozen=True, slots=True)
class Phases:
    """Where the time of a start went, in microseconds. For a spare it was spent before anyone asked."""

    fork: int
    confine: int
    ready: int


class Usage(NamedTuple):
    """What a process used in its life: CPU time, and the most memory that was resident."""

    cpu_ms: int
    memory_bytes: int


class Sandbox:
    """A confined process. Made by `Spawner.take`, never constructed by users of this package."""

    def __init__(
        self,
        number: int,
        process: Process,
        link: Link,
        group: Group | None,
        address_space: int,
        arguments: Arguments,
        granted: Arguments,
        alarms: Alarms,
        *,
        alone: bool = False,
    ) -> None:
        loop, now, cpu_seconds = asyncio.get_running_loop(), alarms.now, process.cpu_seconds
        self.number = number
        self.phases = Phases(0, 0, 0)
        self.limits = _BLANK
        self.background = 0
        self.usage = Usage(0, 0)
        """What it used in all, once it has ended."""
        self.on_background: Callable[[], None] = lambda: None
        self._process = process
        self._link = link
        self._group = group
        self._address_space = address_space
        self._limit_group(self.limits)  # ahead of time: a write to a control group takes a third of a boot
        if group is not None:
            group.watch(self._short_of_memory)
        self._hello: asyncio.Future[bytes] = loop.create_future()
        self._intake = Intake(self.limits.bytes_per_second, now, hold=link.hold, end=self._flooded)
        self.tail = Tail(self.limits.output_bytes_per_second, now)
        self._watch = Account(cpu_seconds, now, alarms.call_at)
        share = group if group is not None and group.share else None
        reversible = share is not None or process.may_rise()
        self._precedence = Precedence(
            process.wanted_seconds,
            now,
            loop.call_at,
            busy=self._answering,
            rank=process.rank if share is None else share.rank,
            spent=cpu_seconds,
            waits=process.waits,
            stay=process.stay,
            soon=SOON if reversible else WINDOW,  # a first import takes so long, and it would be for good
            on_look=self._count,
        )
        self._ending = Ending(
            process,
            link,
            group,
            self._watch,
            self._precedence,
            alone=alone,
            part=self._part,
            describe=self._describe,
        )
        self.died = self._ending.died
        self._calls = Calls(self._watch, self._precedence, self._ending, link, process.share)
        self._peer = self._calls.peer = VisitedPeer(
            Connection(reserve=MAX_CALLS // 4),
            link.send,
            rebuild=RemoteError,  # whatever it is called over there, it is the tenant's
            on_hello=self._hello.set_result,
            on_note=self._hear,
            on_call=self._asked,
            on_read=self._intake.read,
            on_cancel=self._calls.given_up,
            on_closed=self.kill,
            account=self._watch,
            limits=self._limits,
            overrun=self._calls.overrun,
            explain=self._calls.explain,
            intake=self._intake,
            unread=link.unread,
            alarms=alarms,
            on_visit=self._precedence.begin,
            hold=arguments.hold,
            hold_granted=granted.hold,
        )
        self._peer.on_streams_over = self._streams_over
        link.on_bytes = self._intake.arrived
        link.on_commands = self._intake.commands
        link.on_begun = self._begun
        link.on_frame = self._deliver
        link.on_lost = self._lose

    @property
    def busy(self) -> bool:
        """Whether something is going on in it: a call, or work that was to go on after one."""
        return self._calls.in_flight > 0 or self.background > 0

    @property
    def unfinished(self) -> bool:
        """Whether it has work that goes on after its answers: its own, or a stream that somebody reads."""
        return self.background > 0 or bool(self._peer.streams)

    @property
    def streaming(self) -> bool:
        """Whether somebody has a stream of its that is open."""
        return bool(self._peer.streams)

    @property
    def end(self) -> tuple[str, type[SandboxError]]:
        """Of what it died, in words and as the class of error that its calls raised."""
        return str(self._ending.sentence), type(self._ending.sentence or SandboxDied())

    @property
    def ended_by(self) -> SandboxError | None:
        """The error that its calls raised when it ended; nothing until that is known."""
        return self._ending.sentence

    @property
    def ended_from_outside(self) -> bool:
        """Whether somebody else on the machine ended it: neither its tenant nor this host."""
        return self._ending.from_outside

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return self._ending.sentence is None and not self._ending.cut_off and not self.died.done()

    @property
    def open(self) -> bool:
        """Whether a call in it can be expected to be answered: it is alive, and no call has overrun its time."""
        end = self._ending
        return not self._calls.late and end.sentence is None and not end.cut_off and not end.reaped

    @property
    def starting(self) -> bool:
        """Whether it is alive, and nothing has come of it since it was a spare."""
        return self._ending.unused and self.alive

    @property
    def computing(self) -> bool:
        """Whether it was last seen to keep a core busy, so that a call in it would have to wait."""
        return self._precedence.computes

    def confirmed_alive(self) -> bool:
        """The same as the kernel knows it, of whose knowledge nobody may have been told yet."""
        return self.alive and self._process.alive()

    @property
    def doubtful(self) -> bool:
        """Whether a call in it has overrun its time, and it is yet to be seen whether it stops."""
        return self._calls.late > 0 and self.alive

    @property
    def pid(self) -> int:
        """The process number, for looking at it."""
        return self._process.pid

    def memory_bytes(self) -> int:
        """Its proportional share of memory."""
        return self._process.memory_bytes()

    def charged_bytes(self) -> int:
        """What its control group is charged for, or its proportional share; where neither may be looked at, what is
        resident, which counts what it shares with its zygote."""
        charged = self._group.charged_bytes() if self._group is not None else 0
        return charged or self._process.memory_bytes() or self._process.resident_bytes()

    def cpu_seconds(self) -> float:
        """The CPU time it has used, as far as is known."""
        return max(self._process.cpu_seconds(), self._watch.seen, self.usage.cpu_ms / 1000)

    async def ready(self, timeout: float) -> None:
        """Wait for the guest's first word."""
        async with asyncio.timeout(timeout):
            either: set[asyncio.Future[Any]] = {self._hello, self.died}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done():
            raise SandboxDied(f"{self._ending.sentence} while it was starting")
        match values.loads(self._hello.result()):
            case {"asked": int(asked), "forked": int(forked), "confined": int(confined), "ready": int(ready)}:
                self.phases = Phases((forked - asked) // 1000, (confined - forked) // 1000, (ready - confined) // 1000)

    async def boot(
        self,
        main: str,
        modules: Mapping[str, tuple[str, Any]],
        env: Mapping[str, Any],
        limits: Limits,
        outbound: object = None,
        flags: Sequence[str] = (),
        *,
        unhurried: bool = False,
    ) -> None:
        """Give a blank sandbox its tenant: code, bindings, limits, and the capability that stands for the network.
        `flags` are the compatibility flags that are on. Where it is `unhurried`, the code goes with the calls of those
        who come for it, if they are made at once: the guest is woken once.

        Raises what the tenant's import raises.
        """
        self.limits = limits
        self._intake.bound(limits.bytes_per_second)
        self.tail.bound(limits.output_bytes_per_second)
        self._watch.bound(limits.cpu_ms, self._strayed, limits.subrequests)
        self._limit_group(limits)
        self._peer.connection.bound(incoming=limits.calls_in_flight)
        self._link.on_bytes = self._first_word
        if unhurried:
            self._link.gather(_AT_ONCE)
        bounds = [self._address_space + limits.memory_bytes, limits.open_files, limits.calls_in_flight]
        arguments = _Code((main, dict(modules), dict(env), bounds, outbound))
        if flags:
            arguments.append(list(flags))
        await self.call("boot", arguments, limits)

    def call(self, method: str, arguments: list[Any], limits: Limits | None = None) -> Coroutine[Any, Any, bytes]:
        """Call the guest: the encoded result, to await at once. `SandboxDied`, `LimitExceeded`, or what was raised
        inside.

        `limits.wall_ms` and `limits.cpu_ms` hold for this call.
        """
        payload, limits, calls = self._peer.encode(arguments), limits or self.limits, self._calls
        return calls.answered(method, payload, limits, calls.begin(limits))

    def watched_call(
        self, method: str, arguments: list[Any], limits: Limits
    ) -> tuple[Callable[[], None], Awaitable[bytes]]:
        """The same for a durable run, with arguments that are `exact`: a function that starts the count of CPU time
        anew, and what to await."""
        payload, charge = self._peer.encode(arguments, exact=True), self._calls.begin(limits)
        return functools.partial(self._watch.restart, charge), self._calls.answered(method, payload, limits, charge)

    def tell(self, topic: str, payload: bytes) -> bool:
        """Say something to the guest: False if it does not read."""
        told = self._peer.note(topic, payload)
        if told and len(payload) > MESSAGE:
            self._intake.answered(len(payload))
        return told

    def nudge(self) -> None:
        """Say to a blank one that it is about to get its code: it wakes up meanwhile."""
        self._peer.note("soon", b"")

    def observe(self, hear: Callable[[Seen], None]) -> None:
        """Have somebody hear of each call that it makes of a capability, the engine's own left out."""
        observe(self._peer, hear, asyncio.get_running_loop().time)

    def raise_as(self, kind: type[RemoteError]) -> None:
        """Have what is raised in here raised as an error of this class, by calls of the tenant's own objects too."""
        self._peer.rebuild = kind

    async def idle(self, run: int) -> bool:
        """Whether a durable run that is going on in here does nothing but wait for its journal."""
        try:
            return bool(self.decode(await self._peer.call(WORKER, "idle", self._peer.encode([run]))))
        except (IpcError, SandboxError):
            return True  # it is gone, or does not know: there is nothing to wait for

    def decode(self, payload: bytes) -> Any:
        """Read a result. `PayloadError` is the tenant's fault."""
        return self._peer.decode(payload)[0]

    def kill(self, sentence: SandboxError) -> None:
        """End it at once. The first sentence stands; calls in flight fail with it."""
        self._ending.kill(sentence)

    def lose(self, words: str) -> None:
        """It is gone, and its tenant has nothing to do with it."""
        self._ending.lose(words)

    async def close(self, reason: str) -> None:
        """End it and wait until it is gone. Harmless when repeated."""
        self.kill(SandboxClosed(reason))
        await asyncio.wait({self.died})

    def ended(self, status: int, usage: Usage = Usage(0, 0)) -> None:  # noqa: B008 - a frozen value
        """The zygote reports the death. What the process said before it is still read, and then it is over."""
        if not self._ending.reaped:
            self.usage = usage
            self._ending.reap(status)

    def _describe(self, status: int, killed_for_memory: bool) -> str:
        return describe(
            status,
            memory_bytes=self.limits.memory_bytes,
            killed_for_memory=killed_for_memory,
            confined=self._hello.done(),
        )

    def _part(self, sentence: SandboxError) -> None:
        self._peer.close(sentence, held_for=_HELD_FOR if isinstance(sentence, SandboxUnused) else 0.0)

    def tend(self) -> None:
        """Look at what it does while nothing is asked of it. To be called from time to time."""
        before = self._watch.seen
        if self._process.cpu_seconds() != before or self.busy:
            self._watch.look()
            self._calls.count_unasked()
            if self._watch.seen - before > _A_LITTLE:
                self._precedence.look()
        self._count()
        if self._link.unfinished_for() > UNFINISHED:
            words = f"the sandbox broke the protocol: a frame that was not finished within {UNFINISHED:.0f} s"
            self.kill(ProtocolViolation(words))
        most = MUCH_UNREAD if self._link.unread() > MUCH else UNREAD
        if self._link.unread_for() > most:
            self.kill(ProtocolViolation(f"the sandbox read nothing of what waits for it for {most:.0f} s"))

    # Bound methods, which take a third of what functions with what they close over do.

    def _answering(self) -> bool:
        return self._calls.in_flight > 0 or self._watch.visited

    def _limits(self) -> Limits:
        return self.limits

    def _streams_over(self) -> None:
        self.on_background()

    def _count(self) -> None:
        """Where no group does: threads, of which some thousand have room in what memory it may use, and the kernel's
        tables of its pages, which take twice as much as the pages do that are scattered."""
        if self._group is not None:
            return
        if self._process.threads() > self.limits.threads:
            self.kill(LimitExceeded(f"the sandbox exceeded {self.limits.threads} threads"))
        most = _TABLES + self.limits.memory_bytes // _TABLES_OF_MEMORY
        if self._process.table_bytes() > most:
            self.kill(LimitExceeded(f"the sandbox exceeded {most >> 20:,} MiB of page tables"))

    def _strayed(self) -> None:
        self.kill(LimitExceeded(f"the sandbox exceeded {self.limits.cpu_ms:,} ms of CPU while it answered nothing"))

    def _short_of_memory(self) -> None:
        self.kill(LimitExceeded(f"the sandbox exceeded {self.limits.memory_bytes >> 20:,} MiB of memory"))

    def _limit_group(self, limits: Limits) -> None:
        if self._group is not None:
            with contextlib.suppress(OSError):  # the fuse on address space holds all the same
                self._group.limit(limits.memory_bytes, limits.threads)

    def _first_word(self, size: int) -> None:
        """From now on something of its tenant's may have come of it."""
        self._ending.used()
        self._link.on_bytes = self._intake.arrived
        self._intake.arrived(size)

    def _begun(self, mark: int, size: int) -> None:
        if (words := self._intake.refusal(mark, size)) is not None:
            self.kill(ProtocolViolation(f"the sandbox broke the protocol: {words}"))

    def _deliver(self, frame: bytes) -> None:
        mark = frame[0] if frame else -1
        if mark not in ANSWERS:
            self._begun(mark, len(frame))
            line = mark == _NOTE and frame.startswith(_LINE)
            self._intake.message(mark, len(frame), line=line)
            if line and not self.tail.admit():
                return  # unread: a line that is dropped anyway must cost less than it cost to say it
        self._peer.deliver(frame)

    def _flooded(self, words: str) -> None:
        self.kill(LimitExceeded(f"the sandbox {words}"))

    def _asked(self, capability: object, calls: int) -> None:
        self._intake.chain(calls)
        if not getattr(capability, "uncounted", False) and not all(self._watch.ask() for _ in range(calls)):
            raise LimitExceeded("the invocation made more calls to the host than its limit of subrequests")

    def _lose(self, error: RemoteProtocolError | None) -> None:
        """Its end of the connection is gone, or has said what it may not."""
        if error is None:
            self._ending.disconnected()
        else:
            self._ending.broken()
            self._peer.close(error)

    def _hear(self, topic: str, payload: bytes) -> None:
        values.scan(payload, max_depth=1, max_elements=_NOTE_ELEMENTS)
        match topic, values.loads(payload, trusted=True):
            case "log", [str(level), str(text), int(invocation), int(time_ms)] if level in LEVELS:
                self.tail.hear(level, text, invocation, time_ms)
            case "background", int(count):
                self.background = max(count, 0)
                self.on_background()
            case _:
                raise RemoteProtocolError(f"a note of an unknown form on {topic[:40]!r}")
