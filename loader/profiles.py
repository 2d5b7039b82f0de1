"""Runtime profiles: a zygote for each list of modules that code asks to find imported, started when it is needed.

It is shared by all code with the same list, and let go of when it has had no sandbox for a while: it holds what it has
imported. Code without such a list, or with one that the policy names for all, uses the first zygote, which stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cloister.ipc.link import Transport
from cloister.sandbox import Policy, Spawner

LOOK_EVERY: Final = 15.0
"""Seconds between two looks for such."""


class Profiles:
    """Opened and closed by the loader. `plain` is the spawner of those that ask for nothing."""

    def __init__(self, *, spares: int, policy: Policy, transport: Callable[[], Transport], idle_s: float) -> None:
        self._idle_s = idle_s
        self._spares, self._policy, self._transport = spares, policy, transport
        self.plain = Spawner(spares=spares, policy=policy, transport=transport)
        self._opening: dict[tuple[str, ...], asyncio.Task[Spawner]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._looking: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Spawner]:
        """The spawners that are open."""
        yield self.plain
        for opening in self._opening.values():
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                yield opening.result()

    async def open(self) -> None:
        """Start the first zygote. `SandboxUnavailable`, `LayerMissing`."""
        await self.plain.__aenter__()
        self._schedule()

    async def spawner(self, preload: Iterable[str]) -> Spawner:
        """Where sandboxes come from that have imported these. To be taken from before anything else is awaited."""
        profile = tuple(sorted({*preload} - {*self._policy.preload}))
        if not profile:
            return self.plain
        opening = self._opening.get(profile)
        if opening is None or (opening.done() and opening.exception() is not None):  # it may be there by now
            spawner = Spawner(spares=self._spares, policy=self._policy, preload=profile, transport=self._transport)
            opening = self._opening[profile] = asyncio.ensure_future(spawner.__aenter__())
        return await asyncio.shield(opening)

    def let_go(self) -> None:
        """End those that have had no sandbox for a while."""
        for profile, opening in list(self._opening.items()):
            if not opening.done():
                continue
            if opening.exception() is not None:
                del self._opening[profile]
            elif opening.result().idle_s >= self._idle_s:
                del self._opening[profile]
                ending = asyncio.ensure_future(opening.result().__aexit__(None, None, None))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End them all, those that are just starting as well."""
        if self._looking is not None:
            self._looking.cancel()
        if self._opening:
            await asyncio.wait(self._opening.values())
        for spawner in self:
            await spawner.__aexit__(None, None, None)
        if self._ending:
            await asyncio.wait(set(self._ending))

    def _look(self) -> None:
        self.let_go()
        self._schedule()

    def _schedule(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
