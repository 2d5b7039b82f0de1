"""What the tests of shards share: a service, as a module that a shard's process can import, and shards that have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import Shards

SERVICE = '''
"""A service as somebody has it: one function that makes the host of a shard."""

import asyncio
import contextlib
import gc
import os
import signal
import stat
import subprocess
import sys

from cloister.ipc import Peer
from cloister.loader import Host, Limits, LoaderConfig, RpcTarget, Schedule, WorkerCode
from cloister.loader.bindings import DurableObjects

PROGRAM = """
import asyncio, os
from js import WebSocketPair
from pyodide.ffi import create_proxy
from workers import Response, RpcTarget, WorkerEntrypoint, WorkflowEntrypoint

class Cart(RpcTarget):
    def __init__(self):
        self.items = []
    async def add(self, item):
        self.items.append(item)
        return list(self.items)
    async def fail(self):
        raise ValueError("no cart")
    async def end(self):
        os._exit(3)

class Default(WorkerEntrypoint):
    kept = None
    async def greet(self, name):
        return f"Hello {name}"
    async def echo(self, *args, **kwargs):
        return [list(args), kwargs]
    async def fail(self):
        raise ValueError("no tea")
    async def fail_later(self):
        yield 1
        raise ValueError("no more tea")
    async def cart(self):
        return Cart()
    async def use(self, cart):
        return await cart.add("used")
    async def twice(self, function, value):
        return await function(await function(value))
    async def keep(self, function):
        Default.kept = function.dup()
    async def kept_of(self, value):
        return await Default.kept(value)
    async def drop(self):
        Default.kept.dispose()
    async def numbers(self, end):
        for number in range(end):
            yield number
    async def total(self, numbers):
        return sum([number async for number in numbers])
    async def props(self):
        return self.ctx.props
    async def wait(self):
        await asyncio.Event().wait()
    async def end(self):
        os._exit(3)
    async def number(self):
        return self.env.NUMBER
    async def look(self):
        return await self.env.LOOK()
    async def crash(self):
        await self.env.CRASH()
    async def large(self, size):
        return b"x" * size
    async def ask(self, other):
        return await other.greet("neighbour")
    async def scheduled(self, controller):
        Default.kept = [controller.cron, controller.scheduledTime]
    async def seen(self):
        return Default.kept

    async def fetch(self, request):
        path = request.url.partition("?")[0].rpartition("/")[2]
        if path == "chat":
            client, server = WebSocketPair.new().object_values()
            server.accept()
            async def heard(event):
                if event.data == "stay":
                    await asyncio.Event().wait()
                server.send("heard " + event.data)
                if event.data == "bye":
                    server.close(3001, "so long")
            server.addEventListener("message", create_proxy(heard))
            server.send("hello")
            return Response(None, status=101, headers={"x-a": "b"}, web_socket=client)
        if path == "stream":
            async def pieces():
                for number in range(40):
                    yield b"%02d" % number + b"." * 50_000
            return Response(pieces(), headers={"content-type": "text/plain"})
        if path == "broken":
            async def broken():
                yield b"first"
                raise ValueError("no second")
            return Response(broken())
        if path == "hang":
            async def hanging():
                yield b"first"
                await asyncio.Event().wait()
            return Response(hanging())
        if path == "count":
            size = 0
            async for piece in request.body:
                size += len(piece)
            return Response(str(size), status=201)
        return Response(request.method + " " + (await request.text()), headers={"x-path": path})

class Other(WorkerEntrypoint):
    async def greet(self, name):
        return f"Goodbye {name}"

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        given = event.payload
        doubled = await step.do("double", lambda: given.number * 2)
        if given.get("wait"):
            sent = await step.wait_for_event("go on", "go")
            return [doubled, sent.payload]
        if given.get("fail"):
            raise ValueError("it cannot be done")
        return await step.do("again", lambda: doubled * 2)
"""

HOSTILE = """
import asyncio
import msgpack
from js import WebSocketPair
from workers import DurableObject, Response, WorkerEntrypoint

class Told:
    key = "one"
    attributes = {}
    def __init__(self, answer, streams):
        self._answer, self.streams = answer, streams
    async def answer(self, method, payload, channel):
        return self._answer

class Room(DurableObject):
    async def fetch(self, request):
        client, server = WebSocketPair.new()
        self.ctx.acceptWebSocket(server)
        return Response(None, status=101, web_socket=client)
    async def webSocketMessage(self, ws, message):
        ws.send("heard " + message)

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return f"Hello {name}"
    async def forged(self, number):
        item = msgpack.packb(msgpack.ExtType(1, msgpack.packb([0, number, {}])))
        answer = msgpack.packb([True, item])
        return [Told(answer, False), Told(answer, True)]
    async def fetch(self, request):
        if request.url.endswith("/room"):
            return await self.env.ROOMS.getByName("a").fetch(request)
        if request.url.endswith("/on"):
            return await self.env.NEXT.fetch("https://shop.example/")
        client, server = WebSocketPair.new().object_values()
        server.accept()
        async def speak():
            for number in range(20):
                server.send(str(number))
                await asyncio.sleep(0.001)
        asyncio.ensure_future(speak())
        return Response(None, status=101, web_socket=client)
"""


def _inheritable():
    """Connections that a program which is started here may have."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(each)).st_mode) and int(each) > 2 and os.get_inheritable(int(each)):
                found.append(int(each))
    return found


def look():
    """What this process holds: capabilities granted to the front, tasks, descriptors, and how its children take a
    signal."""
    gc.collect()
    granted = [len(each.exports) for each in gc.get_objects() if isinstance(each, Peer) and each._trusted]
    program = "import signal; print([signal.getsignal(each) is signal.SIG_IGN for each in (2, 15)])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {
        "granted": granted, "tasks": len(asyncio.all_tasks()), "descriptors": len(os.listdir("/proc/self/fd")),
        "child": child.stdout.strip(), "inheritable": _inheritable(),
        "pid": os.getpid(), "session": os.getsid(0), "path": sys.path,
    }


def crash():
    """As the kernel would, where there is no memory left."""
    signal.pidfd_send_signal(os.pidfd_open(os.getpid()), signal.SIGKILL)


def make_host(shard):
    """The host of a shard."""
    if (broken := shard.folder / "broken").exists():
        raise LookupError(broken.read_text())
    with (shard.folder / f"opened-{shard.number}").open("a") as opened:
        opened.write("x")

    def get_code(tenant_id):
        number = shard.folder / "number"
        if tenant_id == "nobody":
            raise LookupError("no such tenant")
        env = {"LOOK": look, "CRASH": crash, "NUMBER": number.read_text() if number.exists() else "none"}
        if not tenant_id.startswith("hostile"):
            return WorkerCode(main_module="main.py", modules={"main.py": PROGRAM}, env=env)
        env |= {"NEXT": host.tenant(f"{tenant_id}-next"), "ROOMS": objects.namespace(tenant_id, "Room")}
        limits = Limits(subrequests=9)
        return WorkerCode(main_module="main.py", modules={"main.py": HOSTILE}, env=env, limits=limits)

    places = shard.folder / "places"
    most = int(places.read_text()) if places.exists() else 64
    host = Host(shard.path, get_code=get_code, config=LoaderConfig(spares=0), max_sandboxes=most)
    objects = DurableObjects(shard.folder / f"objects-{shard.number}", host.worker)
    return host


async def make_later(shard):
    """The same, after something was waited for."""
    await asyncio.sleep(0)
    return make_host(shard)


class Made:
    """A function need not be at the very top."""

    @staticmethod
    def make(shard):
        return make_host(shard)


def make_with_child(shard):
    """Of a service that forks, once: what it has forked outlives it, with all that it had open."""
    if not (noted := shard.folder / "child").exists():
        if not (child := os.fork()):
            signal.pause()
        noted.write_text(str(child))
    return make_host(shard)


def give_none(shard):
    """Forgets what it was for."""


def leave(shard):
    """Ends the process."""
    os._exit(7)


def raise_own(shard):
    """Raises what only this module knows."""
    class Boom(Exception):
        pass
    raise Boom("of my own") from LookupError("deeper")


def raise_for_one(shard):
    """One has a host, the other has none."""
    if shard.number == 1:
        raise ValueError("not this one")
    return make_host(shard)


async def never(shard):
    """Takes for ever."""
    (shard.folder / f"begun-{shard.number}").touch()
    await asyncio.Event().wait()
'''


@pytest.fixture(scope="module", autouse=True)
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its name, which every shard's process finds."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "sharded_service.py").write_text(SERVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "sharded_service"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shards of a module are."""
    return tmp_path_factory.mktemp("shards") / "data"


@pytest.fixture(scope="module")
def host(runner: asyncio.Runner, service: str, folder: Path) -> Iterator[Shards]:
    """Two shards for all tests that do not ask for their own; each uses tenants of its own."""
    shards = Shards(folder, f"{service}:make_host", count=2)
    runner.run(shards.__aenter__())
    yield shards
    runner.run(shards.__aexit__(None, None, None))


@pytest.fixture
def tenants(host: Shards, tenant: str) -> list[str]:
    """One of each shard."""
    return [next(name for n in range(99) if host.shard(name := f"{tenant}-{n}").number == each) for each in (0, 1)]


@pytest.fixture
def hostile(host: Shards, tenants: list[str]) -> str:
    """One of the first shard that has another program."""
    return next(name for n in range(99) if host.shard(name := f"hostile-{tenants[0]}-{n}").number == 0)


@pytest.fixture
def kill(host: Shards) -> Callable[[str], None]:
    """End the process of a tenant's shard as an accident would."""
    return lambda tenant_id: host._of(tenant_id).kill()


@pytest.fixture
def look(host: Shards) -> Callable[[str], Any]:
    """What the process of a tenant's shard holds."""
    return lambda tenant_id: host.tenant(tenant_id).look()
