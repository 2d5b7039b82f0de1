"""How long a call takes between host and a warm tenant, there and back, and how many go at once.

The limits, in the same run and between two processes like it: an echo over a bare socketpair, and one over ZeroMQ with
libzmq at both ends.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from typing import Literal

import zmq
from harness import ROUNDS, Row, main, rates, report, rounds, tenant

from cloister.loader import Loader

CALLS = 2000
TOGETHER = 32

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
    warm, at_once = await calls("sockets")
    with_libzmq, at_once_with_libzmq = await calls("libzmq")
    zeromq = await zeromq_echo()
    raw = await socket_echo()
    report(
        "hop",
        [
            Row("warm call, host to tenant and back", warm),
            Row("the same, libzmq at the host's end", with_libzmq),
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
