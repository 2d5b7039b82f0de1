"""Where durable objects are, and what they may ask for there.

The storage of an object is a capability of one stay in one sandbox: when that is gone, or takes no more calls, what is
left of the object there has no storage any longer. Its web sockets stay with the object, wherever it is made next.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from cloister.ipc import CapabilityError, IpcError, RpcTarget
from cloister.ipc.values import Encoded
from cloister.sandbox import SandboxError

from ..errors import LoaderError
from ..http.sockets import WebSocket
from .alarms import Alarm
from .databases import checked
from .hibernation import Sockets

if TYPE_CHECKING:
    from ..worker import Worker
    from .durable import DurableObjects

PATIENCE = 5.0
"""Seconds that clients of an object have to take what it has said, before it is made anew elsewhere."""
Key = tuple[str, str, str]
"""Tenant, class and id."""


class ObjectStorage(RpcTarget):
    """The storage of one object, for one stay in a sandbox."""

    def __init__(self, objects: DurableObjects, key: Key, name: str | None, sockets: Sockets) -> None:
        self._objects, self._key, self._name = objects, key, name
        self._sockets = sockets
        self._admitted = False
        self.over = False

    async def batch(self, statements: object, keep: object = True) -> Encoded:
        """Statements with their parameters as one transaction: the result of each. If not to be kept, all is undone."""
        self._check()
        tenant, class_name, id_ = self._key
        name = f"{class_name}\n{id_}"
        if not self._admitted:
            await self._objects.admit(tenant, name)
            self._admitted = True
        return await self._objects._databases.run(tenant, name, checked(statements), keep=keep is not False)

    async def size(self) -> int:
        """Bytes on disk."""
        self._check()
        tenant, class_name, id_ = self._key
        return await self._objects._databases.size_of(tenant, f"{class_name}\n{id_}")

    async def set_alarm(self, at_ms: object) -> None:
        """Set the alarm, in milliseconds since 1970, or take it back."""
        self._check()
        if at_ms is not None and (not isinstance(at_ms, int | float) or not abs(at_ms) < 1e15):
            raise TypeError("an alarm is at a number of milliseconds since 1970")
        await self._objects.alarms.set(Alarm(*self._key, self._name, 0), at_ms)

    async def get_alarm(self) -> float | None:
        """When it is."""
        self._check()
        return await self._objects.alarms.get(*self._key)

    async def accept_socket(self, tags: object) -> int:
        """The object has accepted a web socket, which is its own from now on; its number."""
        self._check()
        return self._sockets.accept(tags)

    async def open_sockets(self) -> dict[str, Any]:
        """Those that are open: number, tags, what was attached, and when it was last answered without the object. And
        what is answered so, and how long an event may take."""
        self._check()
        sockets = self._sockets
        return {"sockets": sockets.known(), "automatic": sockets.automatic, "event_ms": sockets.event_ms}

    async def attach(self, number: object, value: object) -> None:
        """Keep something with one of them, encoded."""
        self._check()
        self._sockets.attach(number, value)

    async def tell(self, number: object, messages: object) -> None:
        """Messages to its client, until that has taken them."""
        self._check()
        if not isinstance(messages, list):
            raise TypeError("messages are a list")
        await self._sockets.of(number).tell(messages)

    async def leave_socket(self, number: object, code: object, reason: object) -> None:
        """The object says no more on it."""
        self._check()
        if not isinstance(code, int) or not isinstance(reason, str):
            raise TypeError("a web socket is closed with a number and a reason")
        await self._sockets.of(number).leave(code, reason)

    async def answer_for(self, pair: object) -> None:
        """What to answer, to which message, without the object."""
        self._check()
        self._sockets.answer(pair)

    async def limit_events(self, milliseconds: object) -> None:
        """How long a call for one of them may take."""
        self._check()
        if milliseconds is not None and (not isinstance(milliseconds, int) or milliseconds <= 0):
            raise TypeError("the time for an event is a number of milliseconds")
        self._sockets.event_ms = milliseconds

    def _check(self) -> None:
        if self.over:
            raise CapabilityError("this object is over: another one of its id was made in another sandbox")


class Home:
    """Where one object is."""

    def __init__(self, objects: DurableObjects, key: Key, name: str | None) -> None:
        self._objects, self._key, self.name = objects, key, name
        self._moving = asyncio.Lock()
        self.inside = 0
        """Calls that it has, or is about to have."""
        self._worker: Worker | None = None
        self._storage: ObjectStorage | None = None
        self.sockets: weakref.WeakSet[WebSocket] = weakref.WeakSet()
        """Those that it has answered with and speaks on by itself, so that they end with its stay."""
        self.accepted = Sockets(objects.held(key[0]), self._settle)
        """Those that are its own wherever it is."""

    async def enter(self, use: AsyncExitStack) -> tuple[Worker, ObjectStorage]:
        """The sandbox that the object is in, used until the block ends, and its storage there."""
        self.inside += 1
        use.callback(self._one_less)
        async with self._moving:
            stub = self._objects._load(self._key[0])
            desk = stub._desk
            worker = self._worker
            if worker is None or not await desk.rejoin(worker):
                await self._part()
                self.leave()
                worker = desk.take(stub._key) or await desk.obtain(stub._key, stub._get_code)
                worker.over.add_done_callback(lambda _: self._left(worker))
                self._worker, self._storage = worker, ObjectStorage(self._objects, self._key, self.name, self.accepted)
            use.callback(desk.give_back, worker)
            assert self._storage is not None
            return worker, self._storage

    async def _part(self) -> None:
        """What it has said is told, before it is made anew and says more. Who does not take it is told that there is
        more no longer."""
        worker, storage = self._worker, self._storage
        if worker is None or storage is None or not self.accepted.open or not worker.busy:
            return
        about = {"class": self._key[1], "id": self._key[2], "name": self.name}
        patience, most = PATIENCE, worker.code.limits.wall_ms
        if most is not None:  # whoever calls the object meanwhile has no longer
            patience = min(patience, most / 2000)
        try:
            async with asyncio.timeout(2 * patience):
                left = await worker.part(about, storage, patience)
        except (TimeoutError, LoaderError, SandboxError, IpcError):
            left = []  # it is gone, or was about to be since nothing is left
        named = {number for number in left if type(number) is int} if isinstance(left, list) else set()
        for number in named & self.accepted.open.keys():
            self.accepted.open[number].lose("the object was made anew before its client had taken what it said")

    def _one_less(self) -> None:
        self.inside -= 1

    def leave(self) -> None:
        """It is there no longer."""
        if self._storage is not None:
            self._storage.over = True
        self._worker = self._storage = None
        self.accepted.lose_unconnected()
        sockets, self.sockets = self.sockets, weakref.WeakSet()
        for socket in sockets:
            socket.cut_off("the object was made anew")

    def _left(self, worker: Worker) -> None:
        if self._worker is worker:
            self.leave()
            self._settle()

    def end(self, reason: str) -> None:
        """It is there no longer, and does not come again."""
        self.leave()
        self.accepted.cut_off(reason)

    @property
    def idle(self) -> bool:
        """Whether there is nothing about it to remember."""
        return not self.inside and not self.accepted.open

    def _settle(self) -> None:
        if self._worker is None and self.idle and self._objects._homes.get(self._key) is self:
            del self._objects._homes[self._key]
