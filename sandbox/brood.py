"""One zygote and the sandboxes that it has forked, from the first word of each to its death.

All of them die with the zygote. One that has been retired, because another zygote has taken over, ends by itself with
the last of its sandboxes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Final

from .errors import SandboxClosed, SandboxUnavailable
from .lockdown.sequence import ACTIVE
from .lockdown.shares import Rank
from .nursery import Nursery, discard
from .process import Process
from .sandbox import Sandbox, Usage
from .slots import Slots
from .wires import Wire, Wires

HELLO_TIMEOUT = 10.0
MODEST_S: Final = 0.02
"""Seconds for which one that nobody waits for leaves the cores to everybody else while it comes up. Where those never
rest it comes up all the same: there is to be one when somebody wants it."""
_KILLED = -9


class Brood:
    """Opened by `Brood.open`. `on_lost` is called when its zygote is gone, whoever ended it."""

    nursery: Nursery

    def __init__(self, slots: Slots, wires: Wires, on_lost: Callable[[Brood], None]) -> None:
        self._slots, self._wires, self._on_lost = slots, wires, on_lost
        self._sandboxes: dict[int, Sandbox] = {}
        self._stillborn: dict[int, tuple[int, Usage]] = {}
        self._abandoned: set[int] = set()
        self._expected = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None
        self.borne = 0
        """How many sandboxes have come of it."""
        self.opened = asyncio.get_running_loop().time()

    @classmethod
    async def open(
        cls, slots: Slots, wires: Wires, preload: tuple[str, ...], on_lost: Callable[[Brood], None]
    ) -> Brood:
        """Start a zygote that has imported some packages. `SandboxUnavailable`."""
        brood = cls(slots, wires, on_lost)
        brood.nursery = await Nursery.open(brood._died, preload)
        brood.opened = asyncio.get_running_loop().time()
        brood.nursery.lost.add_done_callback(brood._lost)
        return brood

    def __len__(self) -> int:
        return len(self._sandboxes)

    def __iter__(self) -> Iterator[Sandbox]:
        yield from list(self._sandboxes.values())

    def __contains__(self, sandbox: object) -> bool:
        return isinstance(sandbox, Sandbox) and self._sandboxes.get(sandbox.number) is sandbox

    @property
    def lost(self) -> bool:
        """Whether its zygote is gone."""
        return self.nursery.lost.done()

    async def bear(self, *, urgent: bool) -> Sandbox:
        """Fork a blank sandbox, and wait for its first word. `SandboxUnavailable`, `SandboxDied`, `OSError`.

        One that is `urgent` does nothing that could wait until it is used. Any other keeps nobody from a core.
        """
        self._expected += 1
        try:
            sandbox = await self._fork(await self._wires.lay(), urgent=urgent)
            rising = None if urgent else asyncio.get_running_loop().call_later(MODEST_S, self._rise, sandbox)
            try:
                await self._greeted(sandbox)
            finally:
                if rising is not None:
                    rising.cancel()
                    self._rise(sandbox)
            self.borne += 1
        finally:
            self._expected -= 1
            self._end_if_done()
        return sandbox

    async def _fork(self, wire: Wire, *, urgent: bool) -> Sandbox:
        slot = self._slots.take()
        entrances: tuple[int, ...] = ()
        asked = False
        try:
            group = self._slots.group(slot)
            if group is not None:
                entrances = group.entrances()
                group.rank(Rank.FIRST if urgent else Rank.BEHIND)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # one that no sibling shares, flags and all
            entrances = null, *entrances
            asked = True
            asyncio.get_running_loop().call_soon(self._slots.prepare)  # while the zygote forks
            given = [wire.end.fileno(), *entrances]
            pidfd = await self.nursery.fork(slot, self._slots.uid(slot), given, urgent=urgent)
        except BaseException as error:
            wire.link.close()
            if isinstance(error, SandboxUnavailable) or not asked:
                self._slots.give_back(slot)
            else:
                self._abandon(slot)
            raise
        finally:
            wire.end.close()
            for entrance in entrances:
                os.close(entrance)
        try:
            alone = self.nursery.layers.get("processes") == ACTIVE
            room, wires = self.nursery.address_space, self._wires
            held = wires.arguments, wires.granted
            sandbox = Sandbox(slot, Process(pidfd), wire.link, group, room, *held, wires.alarms, alone=alone)
        except BaseException:
            wire.link.close()
            self._abandon(slot)
            discard(pidfd)
            raise
        self._sandboxes[slot] = sandbox
        wire.listened_to()
        if slot in self._stillborn:
            self._died(slot, *self._stillborn.pop(slot))
        return sandbox

    def _abandon(self, slot: int) -> None:
        """The child comes all the same, finds itself left, and the slot is free when it has gone, as it may have."""
        self._let_first(slot)  # or it would take its time to go
        if self._stillborn.pop(slot, None) is None and not self.lost:
            self._abandoned.add(slot)
        else:
            self._slots.give_back(slot)

    def _rise(self, sandbox: Sandbox) -> None:
        """It has a core like everybody else."""
        if sandbox in self:
            self._let_first(sandbox.number)

    def _let_first(self, slot: int) -> None:
        if (group := self._slots.group(slot)) is not None:
            group.rank(Rank.FIRST)

    async def _greeted(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.ready(HELLO_TIMEOUT)
        except TimeoutError:
            sandbox.kill(SandboxUnavailable("the sandbox did not say hello in time"))
            raise SandboxUnavailable(f"a sandbox did not come up within {HELLO_TIMEOUT:.0f} s") from None
        except BaseException:
            sandbox.kill(SandboxClosed("nobody waited for it any longer"))
            raise

    def retire(self) -> None:
        """It will be asked for no more, and ends when the last of its sandboxes has."""
        self._retired = True
        self._end_if_done()

    async def close(self) -> None:
        """End the zygote and all its sandboxes, and wait until they are gone. Harmless when repeated."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for sandbox in self:
            sandbox.kill(SandboxClosed("the loader was closed"))
        if self._sandboxes and not self.lost:
            await asyncio.wait({sandbox.died for sandbox in self}, timeout=5)
        await self.nursery.close()
        for slot in list(self._sandboxes):
            self._died(slot, _KILLED, Usage(0, 0))

    def _end_if_done(self) -> None:
        alone = not (self._sandboxes or self._expected or self._abandoned)
        if self._retired and alone and self._closing is None:
            self._closing = asyncio.ensure_future(self._close())

    def _died(self, slot: int, status: int, usage: Usage) -> None:
        sandbox = self._sandboxes.pop(slot, None)
        if sandbox is not None:
            self._slots.give_back(slot)
            sandbox.ended(status, usage)
        elif slot in self._abandoned:
            self._abandoned.discard(slot)
            self._slots.give_back(slot)
        else:  # before its spawn went on
            self._stillborn[slot] = status, usage
        self._end_if_done()

    def _lost(self, _: asyncio.Future[None]) -> None:
        """The zygote is gone, and its children are dying with it: nobody is left to say so but us."""
        for sandbox in self:
            self._rise(sandbox)  # it may be coming up, and would take its time to die
            sandbox.lose("its zygote died")
            self._died(sandbox.number, _KILLED, Usage(0, 0))
        for slot in self._abandoned:
            self._slots.give_back(slot)
        self._abandoned.clear()
        self._on_lost(self)
