"""Durable objects with web sockets whose sandboxes come and go, and die: nothing is lost that was said, and no other
client notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.ipc import RpcTarget, Stub
from cloister.loader import Limits, Loader, WorkerCode
from cloister.loader.bindings import DurableObjects, stays
from cloister.loader.bindings.hibernation import Held, Sockets
from cloister.loader.http.sockets import Closed, WebSocket
from cloister.loader.pool import Key

UPGRADE = {"headers": {"upgrade": "websocket"}}
ROOM = """
import asyncio
from js import WebSocketPair
from workers import DurableObject, Response, WorkerEntrypoint

class Room(DurableObject):
    async def fetch(self, request):
        client, server = WebSocketPair.new()
        self.ctx.acceptWebSocket(server)
        server.serializeAttachment(request.url.rpartition("/")[2])
        return Response(None, status=101, web_socket=client)

    async def webSocketMessage(self, ws, message):
        if message == "stay":
            await self.env.GATE.arrive()
            await asyncio.Event().wait()
        for one in self.ctx.getWebSockets() if message == "all" else [ws]:
            one.send(f"{one.deserializeAttachment()}: {message}")
        if message == "much":
            for number in range(200):
                ws.send(str(number))

    async def webSocketClose(self, ws, code, reason, clean):
        await self.env.GATE.told([ws.deserializeAttachment(), code])

    def count(self):
        return len(self.ctx.getWebSockets())

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return await self.env.ROOMS.getByName("a").fetch(request)

    def name(self):
        return str(self.env.ROOMS.idFromName("a"))

    async def count(self, id):
        return await self.env.ROOMS.get(self.env.ROOMS.idFromString(id)).count()
"""


class Gate(RpcTarget):
    """Where an object says how far it has come."""

    def __init__(self) -> None:
        self.arrivals: asyncio.Queue[None] = asyncio.Queue()
        self.ends: asyncio.Queue[list[Any]] = asyncio.Queue()

    async def arrive(self) -> None:
        """It works on a message."""
        self.arrivals.put_nowait(None)

    async def told(self, what: list[Any]) -> None:
        """A socket is over."""
        self.ends.put_nowait(what)


class World:
    """A loader, and tenants that all have a room."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self.loader, self.gate = loader, Gate()
        self.codes: dict[str, WorkerCode] = {}
        self.objects = DurableObjects(folder / "objects", self._worker)

    def _worker(self, tenant: str) -> Any:
        return self.loader.get(tenant, lambda: self.codes[tenant])

    def tenant(self, name: str, source: str = ROOM, **options: Any) -> Any:
        """One of them, with the code that it has from now on."""
        env = {"ROOMS": self.objects.namespace(name, "Room"), "GATE": self.gate}
        self.codes[name] = WorkerCode(main_module="m.py", modules={"m.py": source}, env=env, **options)
        return self._worker(name).get_entrypoint()


@asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncIterator[World]:
    """One of a test's own."""
    async with Loader(**options) as loader:
        made = World(loader, folder)
        async with made.objects:
            yield made


async def come(stack: AsyncExitStack, target: Any, *names: str) -> list[WebSocket]:
    """Clients in the room, each with a name."""
    found: list[WebSocket] = []
    for name in names:
        response = await stack.enter_async_context(await target.fetch(f"http://a.b/{name}", **UPGRADE))
        found.append(response.web_socket)
        await response.web_socket.open()
    return found


async def test_a_sandbox_that_dies_in_a_message_costs_its_sender_the_connection_and_nobody_else(tmp_path: Path) -> None:
    """What was said may not have been heard: whoever has said it is told. The others go on."""
    async with world(tmp_path) as here, AsyncExitStack() as stack:
        one, two = await come(stack, here.tenant("t"), "one", "two")
        saying = asyncio.ensure_future(one.send("stay"))
        await here.gate.arrivals.get()
        warm = here.loader.warm(Key("t"))
        assert warm is not None
        warm.sandbox._process.kill()
        await asyncio.wait({saying})
        assert await here.gate.ends.get() == ["one", 1011]
        assert one.closed == Closed(1011, "the object was not done with a message")
        await two.send("still")
        assert await anext(two) == "two: still"


async def leave(here: World, number: int) -> None:
    """Somebody else takes the only place there is."""
    other = "from workers import *\nclass Default(WorkerEntrypoint):\n    def hi(self): return 1"
    await here.tenant("other", other).hi()


async def replace(here: World, number: int) -> None:
    """The tenant has new code."""
    here.tenant("t", f"{ROOM}\n# {number}\n")
    assert await here.loader.redeploy("t")


@pytest.mark.parametrize("disturb", [leave, replace])
async def test_no_answer_is_lost_or_overtakes_another(tmp_path: Path, disturb: Callable[..., Any]) -> None:
    """While the object leaves and comes back, as often as not before its last answer has been read."""
    async with world(tmp_path, max_sandboxes=1 if disturb is leave else 4) as here, AsyncExitStack() as stack:
        (one,) = await come(stack, here.tenant("t"), "one")

        async def read() -> list[str | bytes]:
            return [await anext(one) for _ in range(40)]

        reading = asyncio.ensure_future(read())
        for number in range(40):
            await one.send(str(number))
            if number % 8 == 3:
                await disturb(here, number)
        assert await reading == [f"one: {number}" for number in range(40)]
        assert here.loader.statistics().boots > 5


async def test_what_an_object_has_said_is_told_before_it_is_made_anew_and_says_more(tmp_path: Path) -> None:
    """However late its client takes it."""
    async with world(tmp_path) as here, AsyncExitStack() as stack:
        (one,) = await come(stack, here.tenant("t"), "one")
        await one.send("much")
        await replace(here, 1)
        asking = asyncio.ensure_future(one.send("more"))
        wanted = ["one: much", *map(str, range(200)), "one: more"]
        assert [await anext(one) for _ in wanted] == wanted
        await asking


async def test_who_does_not_take_what_an_object_says_loses_the_connection_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is made anew a little later; who was cut off is told, and so is the object."""
    monkeypatch.setattr(stays, "PATIENCE", 0.05)
    async with world(tmp_path) as here, AsyncExitStack() as stack:
        idler, other = await come(stack, here.tenant("t"), "idler", "other")
        await idler.send("much")
        await replace(here, 1)
        await other.send("still")
        assert await anext(other) == "other: still"
        assert idler.closed == Closed(1012, "the object was made anew before its client had taken what it said")
        assert await here.gate.ends.get() == ["idler", 1006]


async def test_a_client_in_another_process_that_is_cut_off_is_told_at_once() -> None:
    """Whatever its object does about that, and however long it takes."""
    let_go: list[int] = []

    class Channel:
        """The way to that process."""

        def let_go(self, target: int) -> None:
            """It holds this no longer."""
            let_go.append(target)

    among = Sockets(Held(), lambda: None)
    socket = among.of(among.accept([]))
    line = Stub(Channel(), 7, {})  # type: ignore[arg-type]
    await socket.connect(line)
    line.dispose()
    assert let_go == []
    socket.lose("it does not read")
    assert let_go == [7]
    await asyncio.sleep(0)
    assert not among.open


async def test_a_tenants_own_limit_of_time_does_not_cut_short_what_an_object_has_said(tmp_path: Path) -> None:
    """Who does not take it within half of that is cut off; it is never gone on with behind a gap."""
    async with world(tmp_path) as here, AsyncExitStack() as stack:
        (one,) = await come(stack, here.tenant("t", limits=Limits(wall_ms=600)), "one")
        await one.send("much")
        here.tenant("t", f"{ROOM}\n# 1\n", limits=Limits(wall_ms=600))
        assert await here.loader.redeploy("t")
        with contextlib.suppress(ConnectionResetError):
            await one.send("more")
        told = [each async for each in one]
        assert told == ["one: much", *map(str, range(200))][: len(told)]
        assert one.closed == Closed(1012, "the object was made anew before its client had taken what it said")


async def test_a_crowd_finds_its_object_again(tmp_path: Path) -> None:
    """Each with what was kept with it."""
    async with world(tmp_path) as here, AsyncExitStack() as stack:
        names = [str(number) for number in range(200)]
        crowd = await come(stack, here.tenant("t"), *names)
        here.loader.evict("t")
        await crowd[7].send("all")
        assert [await anext(one) for one in crowd] == [f"{name}: all" for name in names]


async def test_the_id_of_another_tenants_object_is_that_of_nobody_there(tmp_path: Path) -> None:
    """Whoever knows it finds an object of its own, without a socket."""
    async with world(tmp_path) as here, AsyncExitStack() as stack:
        mine, other = here.tenant("t"), here.tenant("u")
        await come(stack, mine, "one")
        name = await mine.name()
        assert await mine.count(name) == 1
        assert await other.count(name) == 0
