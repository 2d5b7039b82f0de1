"""One sandbox as the host sees it: a process to call into, limits that are watched from here, and a reason for its end.

A sandbox is blank until `boot` gives it a tenant's code; it serves that tenant until it ends and is never used again.
Every death has a sentence, and every call in flight fails with it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cloister.ipc import Connection, IpcError, RemoteError, Seen, values
from cloister.ipc.arguments import Arguments
from cloister.ipc.connection import MAX_CALLS
from cloister.ipc.link import Link
from cloister.ipc.observation import observe

from .alarms import Alarms
from .calls import Calls
from .ending import Ending
from .errors import LimitExceeded, SandboxClosed, SandboxDied, SandboxError, SandboxUnused
from .footprint import Footprint
from .hearing import Hearing
from .intake import MESSAGE
from .lockdown.cgroups import Group
from .overdue import overdue
from .policy import Limits
from .precedence import SOON, WINDOW, Precedence
from .process import Process, describe
from .visits import WORKER, VisitedPeer
from .watch import Account

_HELD_FOR = 10.0
"""Seconds for which what was granted to one that was never used is still held, for whoever grants it to another."""
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
        self.number = number
        self.phases = Phases(0, 0, 0)
        self.limits = _BLANK
        self.usage = Usage(0, 0)
        """What it used in all, once it has ended."""
        self._process = process
        self._link = link
        self._address_space = address_space
        self._hello: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._footprint = Footprint(process, group, self.kill)
        self._footprint.bound(self.limits)  # ahead of time: a write to a control group takes a third of a boot
        self._watch = Account(process.cpu_seconds, alarms.now, alarms.call_at)
        self._precedence = self._claim(process, group, alarms)
        self._ending = Ending(
            process, link, group, self._watch, self._precedence, alone=alone, part=self._part, describe=self._describe
        )
        self.died = self._ending.died
        self._hearing = Hearing(link, self._ending, self._watch, self.limits, alarms.now)
        self.tail = self._hearing.tail
        self._calls = Calls(self._watch, self._precedence, self._ending, link, process.share)
        self._peer = self._calls.peer = self._hearing.peer = self._converse(link, arguments, granted, alarms)

    def _claim(self, process: Process, group: Group | None, alarms: Alarms) -> Precedence:
        """Its place among those that want a core."""
        share = group if group is not None and group.share else None
        reversible = share is not None or process.may_rise()
        return Precedence(
            process.wanted_seconds,
            alarms.now,
            asyncio.get_running_loop().call_at,
            busy=self._answering,
            rank=process.rank if share is None else share.rank,
            spent=process.cpu_seconds,
            waits=process.waits,
            stay=process.stay,
            soon=SOON if reversible else WINDOW,  # a first import takes so long, and it would be for good
            on_look=self._footprint.look,
        )

    def _converse(self, link: Link, arguments: Arguments, granted: Arguments, alarms: Alarms) -> VisitedPeer:
        """The other side of all that is said."""
        return VisitedPeer(
            Connection(reserve=MAX_CALLS // 4),
            link.send,
            rebuild=RemoteError,  # whatever it is called over there, it is the tenant's
            on_hello=self._hello.set_result,
            on_note=self._hearing.note,
            on_call=self._hearing.asked,
            on_read=self._hearing.intake.read,
            on_cancel=self._calls.given_up,
            on_closed=self.kill,
            account=self._watch,
            limits=self._limits,
            overrun=self._calls.overrun,
            explain=self._calls.explain,
            intake=self._hearing.intake,
            unread=link.unread,
            alarms=alarms,
            on_visit=self._precedence.begin,
            hold=arguments.hold,
            hold_granted=granted.hold,
        )

    @property
    def background(self) -> int:
        """How much goes on in it after its answers, by its own account."""
        return self._hearing.background

    @property
    def on_background(self) -> Callable[[], None]:
        """Called when that has changed, and when the last of its streams was let go of."""
        return self._hearing.on_background

    @on_background.setter
    def on_background(self, told: Callable[[], None]) -> None:
        self._hearing.on_background = self._peer.on_streams_over = told

    @property
    def busy(self) -> bool:
        """Whether something is going on in it: a call, or work that was to go on after one."""
        return self._calls.in_flight > 0 or self._hearing.background > 0

    @property
    def unfinished(self) -> bool:
        """Whether it has work that goes on after its answers: its own, or a stream that somebody reads."""
        return self._hearing.background > 0 or bool(self._peer.streams)

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
        """What its control group is charged for; where it has none, about its share, or what is resident."""
        return self._footprint.bytes()

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
        self._hearing.bound(limits)
        self._watch.bound(limits.cpu_ms, self._strayed, limits.subrequests)
        self._footprint.bound(limits)
        self._peer.connection.bound(incoming=limits.calls_in_flight)
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
            self._hearing.intake.answered(len(payload))
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
        self._footprint.look()
        if (violation := overdue(self._link)) is not None:
            self.kill(violation)

    def count(self) -> None:
        """Look at its threads, where no limit of the kernel's bounds them."""
        self._footprint.count()

    # Bound methods, which take a third of what functions with what they close over do.

    def _answering(self) -> bool:
        return self._calls.in_flight > 0 or self._watch.visited

    def _limits(self) -> Limits:
        return self.limits

    def _strayed(self) -> None:
        self.kill(LimitExceeded(f"the sandbox exceeded {self.limits.cpu_ms:,} ms of CPU while it answered nothing"))
