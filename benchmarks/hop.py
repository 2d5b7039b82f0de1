"""How long a call takes between host and a warm tenant, there and back, and how many go at once.

The limits, in the same run and between two processes like it: an echo over a bare socketpair, and one over ZeroMQ with
libzmq at both ends.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Literal

import zmq
from harness import ROUNDS, Row, main, options, rates, report, rounds, tenant

from cloister.loader import Loader, RpcTarget, WorkerCode

CALLS = 2000
TOGETHER = 32
AT_A_TIME = 50
"""Calls that a tenant makes in one go, so that what is compared goes on side by side."""

SOCKET_ECHO = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
while data := end.recv(4096):
    end.send(data)
"""
ZEROMQ_ECHO = """
import sys, zmq
end = zmq.Context().socket(zmq.DEALER)
end.bind(sys.argv[1])
while True:
    data = end.recv()
    if data == b"end":
        break
    end.send(data)
"""
BINDINGS = """
import time
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def one(self, db):
        await db.get(1)
    async def chain(self, db):
        await db.same().same().same().same().get(1)
    async def measure(self, what, count):
        clock, found = time.perf_counter, []
        if what == "stream":
            began = clock()
            async for _ in await self.env.ROWS(count):
                found.append(clock() - began)
                began = clock()
            return [sum(found) / len(found)] * len(found)
        call = getattr(self, what)
        for _ in range(count):
            began = clock()
            await call(self.env.DB)
            found.append(clock() - began)
        return found
"""
MESSAGE = b"x" * 64


async def socket_echo() -> list[list[float]]:
    """The first limit."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-I", "-S", "-c", SOCKET_ECHO, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()

    async def echo() -> None:
        ours.send(MESSAGE)
        ours.recv(4096)

    found = await rounds(CALLS, echo)
    ours.close()
    process.wait()
    return found


async def zeromq_echo() -> list[list[float]]:
    """The second."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/echo"
        process = subprocess.Popen([sys.executable, "-I", "-c", ZEROMQ_ECHO, endpoint])
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            router.setsockopt(zmq.CONNECT_ROUTING_ID, b"echo")
            router.connect(endpoint)

            async def echo() -> None:
                router.send_multipart([b"echo", MESSAGE])
                router.recv_multipart()

            found = await rounds(CALLS, echo)
            router.send_multipart([b"echo", b"end"])
            process.wait()
        return found


async def calls(transport: Literal["sockets", "libzmq"]) -> tuple[list[list[float]], list[float]]:
    """How long a call takes, and how many go at once, over one transport."""
    async with Loader(spares=4, transport=transport) as loader:
        entrypoint = loader.get("tenant", lambda: tenant(0)).get_entrypoint()
        warm = await rounds(CALLS, lambda: entrypoint.greet("Alice"))
        return warm, [await call_together(loader) for _ in range(ROUNDS)]


class Table(RpcTarget):
    """What the host grants: a row, or itself again."""

    def same(self) -> Table:
        """A step of a chain."""
        return self

    async def get(self, key: int) -> dict[str, object]:
        """Its end."""
        return {"key": key, "name": "Alice"}


async def bindings() -> dict[str, list[list[float]]]:
    """How long a tenant waits for a binding of the host's, by its own clock: one call, a chain of five in one round
    trip, and an item of a stream."""
    modules = {"main.py": BINDINGS}
    found: dict[str, list[list[float]]] = {}
    async with Loader(spares=1) as loader:
        code = WorkerCode(main_module="main.py", modules=modules, env={"DB": Table(), "ROWS": _rows})
        entrypoint = loader.get("tenant", lambda: code).get_entrypoint()
        for _ in range(ROUNDS):
            samples: dict[str, list[float]] = {what: [] for what in ("one", "chain", "stream")}
            for _, what in itertools.product(range(CALLS // AT_A_TIME), samples):
                samples[what] += await entrypoint.measure(what, AT_A_TIME)
            for what, times in samples.items():
                found.setdefault(what, []).append(times)
    return found


async def _rows(count: int) -> AsyncIterator[dict[str, object]]:
    for key in range(count):
        yield {"key": key, "name": "Alice"}


async def call_together(loader: Loader) -> float:
    """Calls a second with so many in flight over as many tenants."""
    tenants = [loader.get(f"tenant-{n}", lambda n=n: tenant(n)).get_entrypoint() for n in range(TOGETHER)]  # type: ignore[misc]
    await asyncio.gather(*(entrypoint.greet("warm") for entrypoint in tenants))

    async def call_again(entrypoint: object) -> None:
        for _ in range(CALLS // 8):
            await entrypoint.greet("Alice")  # type: ignore[attr-defined]

    began = time.perf_counter()
    await asyncio.gather(*(call_again(entrypoint) for entrypoint in tenants))
    return TOGETHER * (CALLS // 8) / (time.perf_counter() - began)


async def benchmark() -> None:
    """Everything above, in rounds."""
    options(__doc__)
    warm, at_once = await calls("sockets")
    asked = await bindings()
    with_libzmq, at_once_with_libzmq = await calls("libzmq")
    zeromq = await zeromq_echo()
    raw = await socket_echo()
    report(
        "hop",
        [
            Row("warm call, host to tenant and back", warm),
            Row("binding call, tenant to host and back", asked["one"]),
            Row("a chain of five of them", asked["chain"]),
            Row("an item of a stream, on average", asked["stream"]),
            Row("warm call, libzmq at the host's end", with_libzmq),
            Row("limit: ZeroMQ echo, libzmq at both ends", zeromq),
            Row("limit: socketpair echo", raw),
        ],
        limit="limit: ZeroMQ echo, libzmq at both ends",
    )
    alone = [len(samples) / sum(samples) for samples in warm]
    together = f"{TOGETHER} at once"
    rows = [(together, at_once), (f"{together}, libzmq", at_once_with_libzmq), ("one at a time", alone)]
    rates("calls", rows, limit="one at a time")


if __name__ == "__main__":
    main(benchmark)
