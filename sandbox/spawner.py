"""Where sandboxes come from: a zygote, a few blank spares, and the wire to each of them.

A spare is a sandbox that was forked, confined and connected before anybody asked, so that a cold boot is no more than
"take a spare, send it its code". It is used once, by one tenant. A zygote that dies takes its sandboxes with it; the
next one is started at once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import itertools
import os
import secrets
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cloister.ipc.transport import Router

from .errors import LayerMissing, SandboxClosed, SandboxError, SandboxUnavailable
from .lockdown.cgroups import Group, Groups
from .lockdown.identity import FIRST_ID
from .lockdown.sequence import FLOOR, missing
from .nursery import Nursery
from .policy import Policy
from .process import Process
from .sandbox import Sandbox, Usage

HELLO_TIMEOUT = 10.0
REFILL_AFTER: Final = 0.004
"""Seconds to leave to whoever took a spare before forking the next one, while there are others to take."""
TEND_EVERY: Final = 2.0
"""Seconds between two looks at what the sandboxes do that are asked nothing."""
_LAST_BREATH, _LAST_BREATHS = 0.01, 100
"""Seconds, and how often they are given, to processes that were killed with their zygote to leave their groups."""
_LONGEST_BASE: Final = 70
"""Bytes that the name of the folder for sockets may have: the system takes 107 for a socket's, and ours are added."""
_PREFIX: Final = "cloister-sockets-"
_UIDS_PER_HOST, _HOSTS, _UIDS_PER_SPAWNER = 100_000, 1000, 10_000
_spawners = itertools.count()


class Spawner:
    """Makes sandboxes. An async context manager; everything it made ends with it.

    `preload` names modules that they find imported, beside those of the policy.
    """

    def __init__(self, *, spares: int = 4, policy: Policy | None = None, preload: tuple[str, ...] = ()) -> None:
        self._wanted = spares
        self._policy = policy or Policy()
        self._preload = (*self._policy.preload, *preload)
        self._spares: collections.deque[Sandbox] = collections.deque()
        self._sandboxes: dict[int, Sandbox] = {}
        self._groups: Groups | None = None
        self._slot_groups: dict[int, Group] = {}
        self._free_slots: list[int] = []
        self._stillborn: dict[int, tuple[int, Usage]] = {}
        self._abandoned: set[int] = set()
        self._slots = itertools.count()
        self._first_uid = FIRST_ID + os.getpid() % _HOSTS * _UIDS_PER_HOST
        self._first_uid += next(_spawners) * _UIDS_PER_SPAWNER % _UIDS_PER_HOST
        self._forking = asyncio.Semaphore(8)
        self._ending: asyncio.Task[None] | None = None
        self._filling: asyncio.Task[None] | None = None
        self._nursery: Nursery | None = None
        self._opening: asyncio.Future[Nursery] | None = None
        self._tending: asyncio.TimerHandle | None = None
        self.layers: dict[str, str] = {}
        self.costs: dict[str, list[int]] = {}
        """Layer: nanoseconds that it took the zygote, and that it takes each child."""

    async def __aenter__(self) -> Self:
        self._folder, self._lock = _private_folder()
        self._router = Router()
        try:
            self._groups = Groups()
            groups = "active"
        except (LayerMissing, OSError) as error:
            groups = f"not available: {error}"
        try:
            nursery = await self._open_nursery()
            self.layers, self.costs = {**nursery.layers, "cgroups": groups}, nursery.costs
            self._check_floor()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        self._fill()
        self._tending = asyncio.get_running_loop().call_later(TEND_EVERY, self._tend)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
        if self._opening is not None:  # a zygote that is still starting is ended when it has
            await asyncio.wait({self._opening})
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait({self._filling})
        for sandbox in self._sandboxes.values():
            sandbox.kill(SandboxClosed("the loader was closed"))
        if self._nursery is not None:
            if self._sandboxes and not self._nursery.lost.done():
                await asyncio.wait({sandbox.died for sandbox in self._sandboxes.values()}, timeout=5)
            await self._nursery.close()
        for number in list(self._sandboxes):
            self._died(number, -9, Usage(0, 0))
        self._router.close()
        if self._groups is not None:
            for _ in range(_LAST_BREATHS):
                if self._groups.close():
                    break
                await asyncio.sleep(_LAST_BREATH)
        _remove_sockets(Path(self._folder))
        os.close(self._lock)

    @property
    def spares(self) -> int:
        """How many blank sandboxes are waiting."""
        return len(self._spares)

    @property
    def zygote_pid(self) -> int | None:
        """The process number of the zygote, while there is one."""
        return None if self._nursery is None else self._nursery.pid

    async def take(self) -> Sandbox:
        """A blank sandbox: a spare where there is one, a new one where not. `SandboxUnavailable`."""
        if self._ending is not None:
            raise SandboxUnavailable("the loader is closed")
        while self._spares:
            sandbox = self._spares.popleft()
            if sandbox.alive:
                self._fill(REFILL_AFTER if self._spares else 0.0)
                return sandbox
        self._fill()
        try:
            return await self._spawn(urgent=True)
        except OSError as error:
            raise SandboxUnavailable(f"the host has no means to make a sandbox: {error}") from error

    def _tend(self) -> None:
        for sandbox in list(self._sandboxes.values()):
            sandbox.tend(TEND_EVERY)
        self._tending = asyncio.get_running_loop().call_later(TEND_EVERY, self._tend)

    def _fill(self, delay: float = 0.0) -> None:
        if (
            self._ending is None
            and (self._filling is None or self._filling.done())
            and len(self._spares) < self._wanted
        ):
            self._filling = asyncio.ensure_future(self._refill(delay))

    async def _refill(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while len(self._spares) < self._wanted:
            try:
                self._spares.append(await self._spawn(urgent=not self._spares))
            except (SandboxError, OSError):
                return  # whoever takes next will try, and be told

    async def _spawn(self, *, urgent: bool) -> Sandbox:
        async with self._forking:
            nursery = await self._open_nursery()
            slot = self._free_slots.pop() if self._free_slots else next(self._slots)
            name = secrets.token_hex(4)  # the guest can ask for it, and is told neither a place nor a number of ours
            path = f"{self._folder}/{name}"
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{self._lock}/{name}")
                entrances: tuple[int, ...] = ()
                asked = False
                try:
                    listener.listen(1)
                    group = self._group(slot)
                    entrances = group.entrances() if group is not None else ()
                    uid = self._first_uid + slot
                    asked = True
                    pidfd = await nursery.fork(slot, uid, [listener.fileno(), *entrances], urgent=urgent)
                except BaseException as error:
                    Path(path).unlink()  # noqa: ASYNC240 - a name in memory, gone at once
                    if isinstance(error, SandboxUnavailable) or not asked:
                        self._free_slots.append(slot)
                    else:  # the child comes all the same, and the slot is free when it has gone
                        self._abandoned.add(slot)
                    raise
                finally:
                    for entrance in entrances:
                        os.close(entrance)
            link = self._router.connect(path, lambda _: None, lambda _: None)
            sandbox = Sandbox(slot, Process(pidfd), link, group, nursery.address_space)
            self._sandboxes[slot] = sandbox
            if slot in self._stillborn:
                self._died(slot, *self._stillborn.pop(slot))
            try:
                await sandbox.ready(HELLO_TIMEOUT)
            except TimeoutError:
                sandbox.kill(SandboxUnavailable("the sandbox did not say hello in time"))
                raise SandboxUnavailable(f"a sandbox did not come up within {HELLO_TIMEOUT:.0f} s") from None
            except BaseException:
                sandbox.kill(SandboxClosed("nobody waited for it any longer"))
                raise
            finally:
                Path(path).unlink()  # noqa: ASYNC240 - a name in memory, gone at once
            return sandbox

    def _group(self, slot: int) -> Group | None:
        if self._groups is None:
            return None
        if slot not in self._slot_groups:
            self._slot_groups[slot] = self._groups.acquire(str(slot))
        return self._slot_groups[slot]

    def _died(self, slot: int, status: int, usage: Usage) -> None:
        sandbox = self._sandboxes.pop(slot, None)
        if sandbox is not None:
            self._free_slots.append(slot)
            sandbox.ended(status, usage)
            with contextlib.suppress(ValueError):
                self._spares.remove(sandbox)
        elif slot in self._abandoned:
            self._abandoned.discard(slot)
            self._free_slots.append(slot)
        else:  # before its spawn went on
            self._stillborn[slot] = status, usage

    async def _open_nursery(self) -> Nursery:
        if self._nursery is not None and not self._nursery.lost.done():
            return self._nursery
        if self._opening is None:
            self._opening = asyncio.ensure_future(Nursery.open(self._died, self._preload))
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Future[Nursery]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._nursery = opening.result()
            self._nursery.lost.add_done_callback(self._lost)

    def _lost(self, _: asyncio.Future[None]) -> None:
        """The zygote is gone, and its children are dying with it: nobody is left to say so but us."""
        for slot in list(self._sandboxes):
            self._sandboxes[slot].kill(SandboxUnavailable("its zygote died"))
            self._died(slot, -9, Usage(0, 0))
        self._free_slots += self._abandoned
        self._abandoned.clear()
        if self._ending is None:
            self._filling = None
            self._fill()

    def _check_floor(self) -> None:
        lacking = missing(self.layers, self.layers if self._policy.isolation == "strict" else FLOOR)
        if lacking:
            raise LayerMissing(
                f"isolation={self._policy.isolation!r} is asked for, and this machine does not give:\n- "
                + "\n- ".join(lacking)
            )


def _private_folder() -> tuple[str, int]:
    """A folder that only this user can enter, and a lock on it that ends with this process; older ones are swept.

    Sweeping removes sockets and then the empty folder: whatever else may be there is not ours.
    """
    candidates = os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"
    usable = [name for name in candidates if len(os.fsencode(name)) <= _LONGEST_BASE and os.access(name, os.W_OK)]
    if not usable:
        raise SandboxUnavailable("there is no folder for sockets: set XDG_RUNTIME_DIR to one with a short name")
    base = Path(usable[0])
    for left in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_sockets(left)
            finally:
                os.close(lock)
    fresh = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}", dir=base))
    lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = fresh.rename(base / fresh.name.removeprefix("new-"))  # only now may another host look at it
    return str(folder), lock


def _remove_sockets(folder: Path) -> None:
    for file in folder.iterdir():
        if file.is_socket():
            file.unlink()
    folder.rmdir()  # refuses if anything else is in it
