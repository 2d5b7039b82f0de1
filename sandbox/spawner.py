"""Where sandboxes come from: a zygote, a few blank spares, and the wire to each of them.

A spare is a sandbox that was forked, confined and connected before anybody asked, so that a cold boot is no more than
"take a spare, send it its code". How many there are follows the demand; which zygote they come from is a matter of
succession. A zygote that dies takes its sandboxes with it; the next one is started at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from types import TracebackType
from typing import Final, Self

from cloister.ipc.link import Transport
from cloister.ipc.sockets import Sockets

from .brood import Brood
from .crowds import Crowds, on_this_machine, pause
from .demand import Demand, most_here
from .errors import LayerMissing, SandboxDied, SandboxUnavailable
from .lockdown.cgroups import cpu_counter
from .lockdown.levels import missing
from .lockdown.sequence import ACTIVE, FLOOR
from .policy import Policy
from .sandbox import Sandbox
from .slots import Slots
from .spares import Spares
from .stir import Stir
from .succession import Succession
from .wires import Wires

TEND_EVERY: Final = 10.0
"""Seconds between two looks: at sandboxes, which `watch` relies on, at the spares, and at the zygote's age."""
_WHILE_ALL_REST: Final = 6
"""So many looks it takes to see each sandbox once, while none of them can have computed."""
_FORKS_AT_ONCE: Final = 8
_TRIES: Final = 3
"""How many a taker may see die, or their zygotes, before they have said a word."""
_LAST_BREATH, _LAST_BREATHS = 0.01, 100
"""Seconds, and how often they are given, to processes that were killed with their zygote to leave their groups."""


class Spawner:
    """Makes sandboxes. An async context manager; everything it made ends with it.

    `spares` blank ones are kept at least, more while they are taken fast, and none at all with 0. `preload` names
    modules that sandboxes find imported, beside those of the policy. `transport` makes what moves the bytes between
    them and the host, inside the event loop.
    """

    def __init__(
        self,
        *,
        spares: int = 4,
        policy: Policy | None = None,
        preload: tuple[str, ...] = (),
        transport: Callable[[], Transport] = Sockets,
    ) -> None:
        self._least = spares
        self._make_transport = transport
        self._policy = policy or Policy()
        self._preload = (*self._policy.preload, *preload)
        self._forking = asyncio.Semaphore(_FORKS_AT_ONCE)
        self._ending: asyncio.Task[None] | None = None
        self._tending: asyncio.TimerHandle | None = None
        self._counting: asyncio.TimerHandle | None = None
        self._crowds = Crowds(on_this_machine)
        self._used = 0.0
        self._looks = 0
        self.layers: dict[str, str] = {}
        self.costs: dict[str, list[int]] = {}
        """Layer: nanoseconds that it took the zygote, and that it takes each child."""

    async def __aenter__(self) -> Self:
        self._now = asyncio.get_running_loop().time
        self._used = self._now()
        self._wires = Wires(self._make_transport)
        self._slots = Slots()
        self._stir = Stir(cpu_counter())
        most = self._policy.most_spares
        demand = Demand(self._least, most_here() if most is None else most)
        self._spares = Spares(demand, self._bear, self._fresh, self._now)
        self._succession = Succession(self._open_brood, self._policy, self._spares.fill, self._now)
        try:
            nursery = (await self._succession.open()).nursery
            self.layers, self.costs = {**nursery.layers, "cgroups": self._slots.groups}, nursery.costs
            self._check_floor()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        self._tending = asyncio.get_running_loop().call_later(TEND_EVERY, self._tend)
        if ACTIVE not in {self.layers["cgroups"], self.layers["identity"]}:  # else it is the kernel that counts
            self._count()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        for timer in (self._tending, self._counting):
            if timer is not None:
                timer.cancel()
        await self._spares.close()
        await self._succession.close()
        self._wires.close()
        for _ in range(_LAST_BREATHS):
            if self._slots.close():
                break
            await asyncio.sleep(_LAST_BREATH)

    @property
    def spares(self) -> int:
        """How many blank sandboxes are waiting."""
        return len(self._spares)

    @property
    def zygote_pid(self) -> int | None:
        """The process number of the zygote that serves, while there is one."""
        return None if self._succession.serving is None else self._succession.serving.nursery.pid

    @property
    def idle_s(self) -> float:
        """Seconds, give or take two, for which nobody has had a sandbox of it. 0 while somebody has one."""
        if sum(map(len, self._succession)) > len(self._spares):
            return 0.0
        return self._now() - self._used

    def nudge(self) -> None:
        """One will be taken in a moment: the spare that it will be may wake up, while it is found out for what."""
        self._spares.nudge()

    async def take(self) -> Sandbox:
        """A blank sandbox: a spare where there is one, a new one where not. `SandboxUnavailable`."""
        if self._ending is not None:
            raise SandboxUnavailable("the loader is closed")
        self._used = self._now()
        if (spare := self._spares.take()) is not None:
            return spare
        with self._spares.held_back():
            try:
                return await self._bear(urgent=True)
            except OSError as error:
                raise SandboxUnavailable(f"the host has no means to make a sandbox: {error}") from error

    def _tend(self) -> None:
        stirred, self._looks = self._stir.any(), self._looks + 1
        for brood in self._succession:
            for sandbox in brood:
                if stirred or sandbox.number % _WHILE_ALL_REST == self._looks % _WHILE_ALL_REST:
                    sandbox.tend()
        if not self.idle_s:
            self._used = self._now()
        self._succession.look()
        self._spares.trim()
        self._spares.fill()
        self._tending = asyncio.get_running_loop().call_later(TEND_EVERY, self._tend)

    def _count(self) -> None:
        began = self._now()
        if self._crowds.grown():
            for brood in self._succession:
                for sandbox in brood:
                    sandbox.count()
        self._counting = asyncio.get_running_loop().call_later(pause(self._now() - began), self._count)

    async def _bear(self, urgent: bool) -> Sandbox:
        """Nobody has given a blank sandbox anything to do yet, so where one was ended, another is as good."""
        async with self._forking:
            for _ in range(_TRIES - 1):
                brood = await self._succession.open()
                try:
                    return await brood.bear(urgent=urgent)
                except SandboxDied:
                    continue
                except SandboxUnavailable:
                    if not brood.lost:
                        raise
                finally:
                    self._succession.look()
            return await (await self._succession.open()).bear(urgent=urgent)

    async def _open_brood(self) -> Brood:
        return await Brood.open(self._slots, self._wires, self._preload, self._succession.lost)

    def _fresh(self) -> Container[Sandbox]:
        return self._succession.serving or ()

    def _check_floor(self) -> None:
        lacking = missing(self.layers, self.layers if self._policy.isolation == "strict" else FLOOR)
        if lacking:
            raise LayerMissing(
                f"isolation={self._policy.isolation!r} is asked for, and this machine does not give:\n- "
                + "\n- ".join(lacking)
            )
