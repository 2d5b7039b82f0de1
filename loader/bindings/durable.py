"""Durable objects: of each id there is one, in one sandbox of its tenant, with a database of its own that outlives it.

Where an object is, is known here and nowhere else. Its storage is a capability of that one stay: when the sandbox is
gone, or takes no more calls, the object is made anew in another one, and what is left of the old one has no storage any
longer.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from cloister.ipc import CapabilityError, RpcTarget
from cloister.ipc.stubs import Link, RemoteCall, RemoteMethod

from ..http.messages import Request, Response
from .alarms import Alarm, Alarms
from .databases import DatabaseLimits, Databases
from .hibernation import Held
from .lines import StoreClosed
from .shelf import owner
from .stays import Home
from .storage import Storage, StorageQuotaExceeded

if TYPE_CHECKING:
    from ..entrypoint import WorkerStub

LoadTenant = Callable[[str], "WorkerStub"]
_ID: Final = re.compile(r"[0-9a-f]{64}")
_RESERVED: Final = frozenset({"alarm", "fetch", "webSocketMessage", "webSocketClose", "webSocketError"})
_MOST_NAME: Final = 1024


class DurableObjects:
    """A folder of tenants' objects: `async with DurableObjects("objects/", load_tenant) as objects`.

    `load_tenant` gives a tenant's `WorkerStub`, as `Loader.get` does: it is asked when an object is called, and when an
    alarm is due. `storage` holds what it stores in all stores together against its quota. Each object has a database
    within `limits`, and a tenant has up to `most_objects` that use theirs, and as many alarms; `processes` work on
    them. The `most_known` that were called last stay where they are while their sandbox does.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        load_tenant: LoadTenant,
        *,
        limits: DatabaseLimits | None = None,
        storage: Storage | None = None,
        most_objects: int = 10_000,
        most_known: int = 10_000,
        processes: int = 4,
        alarm_retry_s: float = 2.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = Path(folder)
        self._load = load_tenant
        self._databases = Databases(self._folder, limits=limits, storage=storage, processes=processes)
        self._alarm_retry_s, self._now = alarm_retry_s, now
        self._alarms: Alarms | None = None
        self._most_objects, self._most_known = most_objects, most_known
        self._homes: OrderedDict[tuple[str, str, str], Home] = OrderedDict()
        self._held: weakref.WeakValueDictionary[str, Held] = weakref.WeakValueDictionary()
        self._counts: dict[str, int] = {}
        """How many databases a tenant has, once that was asked."""

    async def __aenter__(self) -> Self:
        await self._databases.__aenter__()
        alarms = Alarms(
            self._folder / "alarms.db", self._ring,
            most=self._most_objects, retry_s=self._alarm_retry_s, now=self._now,
        )  # fmt: skip
        try:
            self._alarms = await alarms.__aenter__()
        except BaseException:
            await self._databases.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        alarms, self._alarms = self._alarms, None
        if alarms is not None:
            await alarms.__aexit__()
        for home in list(self._homes.values()):
            home.end("the host is closing")
        self._homes.clear()
        await self._databases.__aexit__()

    def namespace(self, tenant: str, class_name: str, *, props: Any = None) -> DurableObjectNamespace:
        """The binding of a tenant to its objects of one class. `props` become their `ctx.props`."""
        return DurableObjectNamespace(self, owner(tenant), class_name, props)

    async def size(self, tenant: str) -> int:
        """How many bytes a tenant's objects take on disk."""
        return await self._databases.size(tenant)

    async def drop(self, tenant: str) -> None:
        """Delete a tenant's objects, with their alarms."""
        for key in [key for key in self._homes if key[0] == tenant]:
            self._homes.pop(key).end("the object was deleted")
        self._counts.pop(tenant, None)
        await self.alarms.forget(tenant)
        await self._databases.drop(tenant)

    async def admit(self, tenant: str, name: str) -> None:
        """A database is about to be used. `StorageQuotaExceeded` if it would be one too many."""
        if await self._databases.exists(tenant, name):
            return
        if tenant not in self._counts:
            found = await self._databases.count(tenant)
            self._counts.setdefault(tenant, found)
        count = self._counts[tenant]
        if count >= self._most_objects:
            raise StorageQuotaExceeded(f"{count:,} objects store something; at most {self._most_objects:,} may")
        self._counts[tenant] = count + 1

    def home(self, key: tuple[str, str, str], name: str | None) -> Home:
        """Where an object is."""
        home = self._homes.get(key)
        if home is None:
            home = self._homes[key] = Home(self, key, name)
            if len(self._homes) > self._most_known:
                idle = next((other for other, one in self._homes.items() if one is not home and one.idle), None)
                if idle is not None:
                    self._homes.pop(idle).leave()
        self._homes.move_to_end(key)
        return home

    def held(self, tenant: str) -> Held:
        """What is held of web sockets for a tenant, as long as one of its objects is known."""
        found = self._held.get(tenant)
        if found is None:
            found = self._held[tenant] = Held()
        return found

    @property
    def alarms(self) -> Alarms:
        """When objects are to be called."""
        if self._alarms is None:
            raise StoreClosed("use the DurableObjects inside `async with`")
        return self._alarms

    async def _ring(self, alarm: Alarm) -> None:
        info = {"retryCount": alarm.tries, "isRetry": alarm.tries > 0}
        namespace = self.namespace(alarm.tenant, alarm.namespace)
        await namespace._called(alarm.id, alarm.name, "alarm", [info], {})


class DurableObjectNamespace(RpcTarget):
    """`env={"COUNTERS": objects.namespace(tenant_id, "Counter")}`. From inside: `env.COUNTERS.getByName("a")`,
    `idFromName`, `newUniqueId`, `idFromString`, `get`. The host has `by_name("a")`, whose methods are the object's.
    """

    def __init__(self, objects: DurableObjects, tenant: str, class_name: str, props: Any) -> None:
        self._objects, self._tenant, self._class, self._props = objects, tenant, class_name, props

    def rpc_attributes(self) -> dict[str, Any]:
        """From inside it is an object that makes ids and stubs without asking."""
        return {"workers.class": "DurableObjectNamespace", "name": self._class}

    async def call(self, id: str, name: str | None, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:  # noqa: A002
        """Call a method of an object."""
        if not isinstance(method, str) or method.startswith("_") or method in _RESERVED:
            raise CapabilityError(f"no method {method!r:.80} may be called from outside")
        return await self._called(id, name, method, args, kwargs)

    async def fetch(self, id: str, name: str | None, request: Any) -> Any:  # noqa: A002
        """Have an object answer a request."""
        return (await self._fetched(id, name, Request.received(request, {}))).sent()

    def by_name(self, name: str) -> ObjectStub:
        """An object for the host to call: `await objects.namespace("t-1", "Counter").by_name("a").increment()`."""
        return ObjectStub(self, name)

    async def _called(self, id_: str, name: str | None, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        async with AsyncExitStack() as use:
            return await self._ask(use, id_, name, method, args, kwargs)

    async def _fetched(self, id_: str, name: str | None, request: Request) -> Response:
        async with AsyncExitStack() as use:
            answer = await self._ask(use, id_, name, "fetch", [request.sent()], {})
            response = Response.received(answer)
            if response.web_socket is not None:
                home = self._objects.home((self._tenant, self._class, id_), name)
                if (number := answer._attributes.get("accepted")) is not None:
                    response.web_socket.dispose()
                    call = functools.partial(self._told, id_, name, home)
                    response.web_socket = home.accepted.of(number).bind(call)
                    return response
                home.sockets.add(response.web_socket)
            if response.lasts:
                response.hold(use.pop_all())
        return response

    async def _told(self, id_: str, name: str | None, home: Home, method: str, args: list[Any]) -> Any:
        """Call it for one of its web sockets."""
        most = home.accepted.event_ms
        async with AsyncExitStack() as use:
            return await self._ask(use, id_, name, method, args, {}, most)

    async def _ask(
        self, use: AsyncExitStack, id_: object, name: object, method: str, args: list[Any], kwargs: dict[str, Any],
        wall_ms: int | None = None,
    ) -> Any:  # fmt: skip
        if not isinstance(id_, str) or not _ID.fullmatch(id_):
            raise TypeError("the id of an object is 64 hex digits")
        if name is not None and (not isinstance(name, str) or len(name) > _MOST_NAME):
            raise TypeError(f"the name of an object is text of at most {_MOST_NAME:,} characters")
        key = self._tenant, self._class, id_
        home = self._objects.home(key, name)
        worker, storage = await home.enter(use)
        limits = worker.code.limits
        if wall_ms is not None and (limits.wall_ms is None or wall_ms < limits.wall_ms):
            limits = dataclasses.replace(limits, wall_ms=wall_ms)
        about = {"class": self._class, "id": id_, "name": home.name, "props": self._props}
        return await worker.object(about, method, [storage, args, kwargs], limits)


class ObjectStub:
    """An object, as the host calls it. Attribute access is a method; `fetch` answers a request."""

    def __init__(self, namespace: DurableObjectNamespace, name: str) -> None:
        self._namespace, self._name = namespace, name

    @property
    def _id(self) -> str:
        return hashlib.sha256(f"{self._namespace._class}\n{self._name}".encode()).hexdigest()

    def __getattr__(self, method: str) -> RemoteMethod:
        if method.startswith("_"):
            raise AttributeError(f"{method!r} is not a public name; only public methods can be called from outside")
        return RemoteMethod(self, method)

    def _then(self, link: Link) -> RemoteCall:
        return RemoteCall(self, [link])

    async def _perform(self, links: list[Link]) -> Any:
        if len(links) != 1 or links[0][1] is False:
            raise CapabilityError("an object has methods, each to be awaited by itself: no properties, and no chains")
        method, args, kwargs = links[0]
        return await self._namespace.call(self._id, self._name, method, list(args or ()), dict(kwargs or {}))

    async def fetch(self, request: Request | str, /, **options: Any) -> Response:
        """Have a request answered."""
        asked = request if isinstance(request, Request) else Request(request, **options)
        return await self._namespace._fetched(self._id, self._name, asked)
