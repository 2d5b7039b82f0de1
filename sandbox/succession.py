"""Which zygote serves, and which one follows it: when it has died, and when it has served for long enough.

Siblings share an address layout and a hash seed, so what one tenant finds out about its own process holds for all that
are forked from the same zygote. It is replaced before that is worth much: the next one is started beside it and takes
over when it is ready, and the old one ends with the last of its sandboxes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from .brood import Brood
from .errors import SandboxUnavailable
from .policy import Policy

TRY_AGAIN: Final = 30.0
"""Seconds after which a zygote that did not come up is tried again to take over from one that serves."""
YOUNG: Final = 1.0
"""Seconds: one that dies before, and has borne nothing, is not replaced until somebody asks."""
MOST_RETIRED: Final = 3
"""How many may live on for the sake of their sandboxes: each holds some memory, and none is retired beyond that."""
_log = logging.getLogger("cloister.sandbox")


class Succession:
    """`make` starts a zygote; `on_change` is called when one has taken over."""

    def __init__(
        self, make: Callable[[], Awaitable[Brood]], policy: Policy, on_change: Callable[[], None],
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._make, self._policy, self._on_change, self._now = make, policy, on_change, now
        self._serving: Brood | None = None
        self._living: set[Brood] = set()
        self._opening: asyncio.Future[Brood] | None = None
        self._not_before = 0.0
        self._closed = False

    def __iter__(self) -> Iterator[Brood]:
        yield from list(self._living)

    @property
    def serving(self) -> Brood | None:
        """The one that new sandboxes come from, unless it is yet to be started."""
        return self._serving if self._serving is not None and not self._serving.lost else None

    async def open(self) -> Brood:
        """The same, started if need be, once for all who ask. `SandboxUnavailable`."""
        serving = self.serving
        return await asyncio.shield(self._open()) if serving is None else serving

    def look(self) -> None:
        """Have the next zygote started if it is time. To be called now and then."""
        if self._opening is None and not self._closed and self._due():
            self._open()

    def lost(self, brood: Brood) -> None:
        """Its zygote is gone. One that served, and was of some use, is replaced at once."""
        ending = asyncio.ensure_future(brood.close())
        ending.add_done_callback(lambda _: self._living.discard(brood))
        if brood is self._serving and not self._closed and (brood.borne or self._now() - brood.opened > YOUNG):
            self._open()

    async def close(self) -> None:
        """End them all; none is started any more, and one that is being started is ended when it is."""
        self._closed = True
        if self._opening is not None:
            await asyncio.wait({self._opening})
        await asyncio.gather(*(brood.close() for brood in self))

    def _due(self) -> bool:
        brood, policy, now = self.serving, self._policy, self._now()
        if brood is None or not brood.borne or now < self._not_before or len(self._living) > MOST_RETIRED:
            return False
        spent = policy.rotate_after_sandboxes is not None and brood.borne >= policy.rotate_after_sandboxes
        return spent or (policy.rotate_after_s is not None and now - brood.opened >= policy.rotate_after_s)

    def _open(self) -> asyncio.Future[Brood]:
        if self._closed:
            raise SandboxUnavailable("the loader is closed")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._make())
            self._opening.add_done_callback(self._opened)
        return self._opening

    def _opened(self, opening: asyncio.Future[Brood]) -> None:
        self._opening = None
        if opening.cancelled() or (error := opening.exception()) is not None:
            if self.serving is not None:
                _log.warning("a zygote goes on serving, since the next one did not come up: %s", error)
                self._not_before = self._now() + TRY_AGAIN
            return
        before, self._serving = self._serving, opening.result()
        self._living.add(self._serving)
        if before is not None:
            before.retire()
        if self._serving.lost:  # between being ready and being heard of
            self.lost(self._serving)
        elif not self._closed:
            self._on_change()
