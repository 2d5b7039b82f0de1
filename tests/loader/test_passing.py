"""Capabilities that are passed around at random between a host and two tenants, whose sandboxes are killed at random:
whatever happens, in the end nobody holds anything any more, on any side.

Each program is drawn by Hypothesis, which prints how to draw it again and looks for the shortest that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.ipc import IpcError, RpcTarget, Stub, capabilities, revocable
from cloister.loader import Loader, LoaderError, SandboxError, WorkerCode
from cloister.sandbox import Sandbox

PATIENCE: Final = 60.0
"""Seconds after which somebody who still holds something does so for ever."""
Code = Callable[..., WorkerCode]

SOURCE = """
import asyncio, gc, inspect
from workers import RpcTarget, WorkerEntrypoint
kept, streams = {}, [0]

class Thing(RpcTarget):
    def poke(self): return 1
    def me(self): return self
    def fresh(self): return Thing()
    @property
    def own(self): return Thing()
    async def take(self, kind, thing): return await touch(kind, thing)

def function(*args): return 2

async def numbers():
    streams[0] += 1
    try:
        for n in range(1000): yield n
    finally:
        streams[0] -= 1

async def settle(value):
    return await value if inspect.isawaitable(value) else value

async def touch(kind, thing):
    if kind == "object":
        return await settle(thing.poke())
    if kind == "function":
        return await settle(thing())
    if kind == "entrypoint":
        return await settle(thing.ping())
    found = []
    async for item in thing:
        found.append(item)
        if len(found) == 2: break
    return found

MAKE = {"object": Thing, "function": lambda: function, "stream": numbers}

class Default(WorkerEntrypoint):
    def ping(self): return 3
    def make(self, kind): return MAKE.get(kind, Thing)()
    def keep(self, slot, kind, thing):
        kept[slot] = kind, thing.dup() if hasattr(thing, "dup") else thing
    def hand(self, slot): return kept.get(slot, ("object", None))
    def drop(self, slot): kept.pop(slot, None)
    def back(self, kind, thing): return [kind, thing]
    async def touch(self, kind, thing): return await touch(kind, thing)
    async def relay(self, slot, kind, thing): await self.env.OTHER.keep(slot, kind, thing)
    async def fetch_back(self, slot): return await self.env.OTHER.hand(slot)
    async def wait(self, kind, thing):
        try:
            await self.env.GATE()
            await touch(kind, thing)
        except asyncio.CancelledError:  # and answers all the same: an answer that nobody waits for
            pass
        return [Thing(), numbers()]
    async def chain(self, kind, thing):
        if kind == "object":
            found = await settle(thing.me())
            return await settle(found.own) if not isinstance(found, Thing) else found.own
    def over(self):
        kept.clear()
        gc.collect()
        peer = self.env.GATE._channel
        return [len(peer.exports), len(peer._waiting), len(peer._answering), len(peer.connection._outgoing),
                streams[0]]
"""
KINDS: Final = ("object", "function", "stream", "entrypoint", "grant")
OPERATIONS: Final = (
    "keep", "hand", "make", "touch", "relay", "fetch_back", "back", "drop", "dispose", "chain", "call", "kill",
    "cancel", "lose", "revoke",
)  # fmt: skip
Step = tuple[str, int, int, int]
"""What is done, by which tenant, in which slot, with which of the things that the host has."""
_numbers = itertools.count(1)
_EXPECTED = (LoaderError, SandboxError, IpcError)


class Node(RpcTarget):
    """What the host grants."""

    def poke(self) -> int:
        return 1

    def me(self) -> Node:
        return self

    def fresh(self) -> Node:
        return Node()

    @property
    def own(self) -> Node:
        return Node()

    def rpc_disposed(self) -> None:
        """Somebody wants to hear of it, so it is counted."""


class Story:
    """One program, played."""

    def __init__(self, loader: Loader, code: Code) -> None:
        self._loader, self._code = loader, code
        self._names = [f"passing-{next(_numbers)}" for _ in range(2)]
        self._things: list[tuple[str, Any]] = []
        self._grants: list[Any] = []
        self._streams = 0
        self._gate = asyncio.Event()
        self._calls: list[asyncio.Future[Any]] = []
        self.sandboxes: dict[int, Sandbox] = {}
        self._own = {"object": Node, "function": lambda: self._count, "stream": self._numbers}

    def tenant(self, which: int) -> Any:
        """An entrypoint of one of the two."""
        name, other = self._names[which % 2], which + 1

        def get_code() -> WorkerCode:
            return self._code(SOURCE, env={"OTHER": self.tenant(other), "GATE": self._gate.wait})

        return self._loader.get(name, get_code).get_entrypoint()

    async def play(self, steps: list[Step]) -> None:
        """All of it; each step goes well, or fails as a host may expect."""
        for step in steps:
            for worker in self._loader._house:
                if worker.tenant_id in self._names and worker.ready.done():
                    self.sandboxes[worker.sandbox.number] = worker.sandbox
            with contextlib.suppress(*_EXPECTED):
                await self._take(*step)
        self._gate.set()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _take(self, what: str, which: int, slot: int, thing: int) -> None:
        tenant, (kind, given) = self.tenant(which), self._thing(thing)
        match what:
            case "kill":
                self._loader.evict(self._names[which])
            case "make":
                self._has(kind, await tenant.make(kind))
            case "hand" | "fetch_back":
                self._has(*await getattr(tenant, what)(slot))
            case "back":
                self._has(*await tenant.back(kind, given))
            case "chain":
                self._has("object", await tenant.chain(kind, given))
            case "keep" | "relay":
                await getattr(tenant, what)(slot, kind, given)
            case "drop":
                await tenant.drop(slot)
            case "touch":
                await tenant.touch(kind, given)
            case "call":
                await self._touch(kind, given)
            case "dispose" | "lose":
                self._let_go(thing, quietly=what == "lose")
            case "cancel":
                self._calls.append(asyncio.ensure_future(tenant.wait(kind, given)))
                for _ in range(slot):
                    await asyncio.sleep(0)
                if thing % 2:
                    self._calls[-1].cancel()
            case "revoke" if self._grants:
                self._grants[thing % len(self._grants)].revoke()

    def _thing(self, number: int) -> tuple[str, Any]:
        """One that the host has, or a new one of its own."""
        if number < len(self._things):
            return self._things[number]
        kind = KINDS[number % len(KINDS)]
        if kind == "entrypoint":
            return kind, self.tenant(number)
        if kind == "grant":
            self._grants.append(revocable(Node()))
            return "object", self._grants[-1]
        return kind, self._own[kind]()

    def _has(self, kind: str, thing: Any) -> None:
        if thing is not None:
            self._things.append((kind, thing))

    def _let_go(self, number: int, *, quietly: bool) -> None:
        if number < len(self._things):
            _, thing = self._things.pop(number)
            if not quietly and isinstance(thing, Stub):
                thing.dispose()

    async def _touch(self, kind: str, thing: Any) -> None:
        if kind == "stream":
            for _ in range(2):
                await anext(aiter(thing), None)
        elif isinstance(thing, Stub):
            await (thing() if kind == "function" else thing.ping() if kind == "entrypoint" else thing.me().own)

    def _count(self, *_: object) -> int:
        return 2

    async def _numbers(self) -> AsyncIterator[int]:
        self._streams += 1
        try:
            for n in range(1000):
                yield n
        finally:
            self._streams -= 1

    async def end(self) -> None:
        """The host lets go of everything, and asks the tenants to: after a while nobody holds anything."""
        self._things.clear()
        self._calls.clear()
        self._grants.clear()
        wanted = {"streams": 0, "guests'": [[1, 0, 0, 0, 0]] * 2, "host's": [[2, 0, 0, 0, 0]] * 2}
        loop, found = asyncio.get_running_loop(), dict[str, Any]()
        give_up = loop.time() + PATIENCE
        while loop.time() < give_up:
            gc.collect()
            guests = [await self.tenant(which).over() for which in range(2)]
            found = {
                "streams": self._streams,
                "guests'": guests,
                "host's": [tables(self._sandbox(n)) for n in range(2)],
            }
            if found == wanted:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{found} is held, where {wanted} should be")

    def _sandbox(self, which: int) -> Sandbox:
        (sandbox,) = [worker.sandbox for worker in self._loader._house if worker.tenant_id == self._names[which]]
        self.sandboxes[sandbox.number] = sandbox
        return sandbox

    def gone(self) -> None:
        """The sandboxes end."""
        for name in self._names:
            self._loader.evict(name)


def tables(sandbox: Sandbox) -> list[int]:
    """What the host's end holds: grants, calls both ways, and calls that were given up."""
    peer = sandbox._peer
    connection = peer.connection
    return [
        len(peer.exports), len(peer._waiting), len(peer._answering), len(connection._outgoing),
        len(connection.cancelled | connection._onward),
    ]  # fmt: skip


step = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 1), st.integers(0, 2), st.integers(0, 9))


@pytest.fixture
def few_objects() -> Iterator[None]:
    """What other tests have left is not looked through again each time that it is asked who still holds something."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("few_objects")
@settings(
    max_examples=20, deadline=None, database=None, print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=st.lists(step, min_size=1, max_size=25))
def test_whatever_is_passed_around_nobody_holds_anything_in_the_end(
    runner: asyncio.Runner, loader: Loader, code: Code, steps: list[Step]
) -> None:
    """Neither while the sandboxes live, nor after they have ended."""

    async def play() -> None:
        async with asyncio.timeout(4 * PATIENCE):
            story, before = Story(loader, code), set(capabilities._holders)
            try:
                await story.play(steps)
                await story.end()
            finally:
                story.gone()
            ended = list(story.sandboxes.values())
            await asyncio.wait([sandbox.died for sandbox in ended])
            assert [tables(sandbox) for sandbox in ended] == [[0, 0, 0, 0, 0]] * len(ended)
            assert capabilities._holders.keys() <= before  # of other tests, whose tenants live on

    runner.run(play())
