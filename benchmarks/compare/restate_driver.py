"""Restate: its server as shipped, one Python endpoint, and this as the client of both.

The server's log is synced to disk, which is its default.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import workload
from http1 import Http
from workload import RUNS, SETTLED, SLEEPERS, STEPS_EACH, asked, note, resident, say, stored

HERE = Path(__file__).parent
SERVER = next(Path(os.environ["PEERS"]).glob("node_modules/@restatedev/restate-server-linux-*/bin/restate-server"))

what, folder = asked()
names = itertools.count()


def ports() -> list[int]:
    """Three that are the same after a crash."""
    kept = folder / "ports"
    if not kept.exists():
        ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        kept.write_text(" ".join(str(end.getsockname()[1]) for end in ends))
        for end in ends:
            end.close()
    return [int(port) for port in kept.read_text().split()]


@contextlib.asynccontextmanager
async def restate() -> AsyncIterator[tuple[Http, list[int]]]:
    """The server and the endpoint, and the processes that they are."""
    ingress, admin, node, endpoint = ports()
    environment = {
        **os.environ,
        "RESTATE_BASE_DIR": str(folder / "restate"),
        "RESTATE_NODE_NAME": "compare",
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
        "RESTATE_LOG_FILTER": "error",
        "DO_NOT_TRACK": "1",
        "BODIES": str(folder / "bodies"),
    }
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    hypercorn = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{endpoint}", "restate_endpoint:app"]
    with subprocess.Popen([SERVER], **quiet) as server, subprocess.Popen(hypercorn, cwd=HERE, **quiet) as worker:
        try:
            for port in (endpoint, admin, ingress):
                await _open(port)
            await Http(admin).post("/deployments", {"uri": f"http://127.0.0.1:{endpoint}", "force": True})
            yield Http(ingress), [server.pid, worker.pid]
        finally:
            server.kill()
            worker.kill()


async def _open(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def sleepers(http: Http, pids: list[int]) -> None:
    """Begin them, and see what they cost."""
    before = resident(pids), stored(folder)
    began = time.perf_counter()
    for number in range(SLEEPERS):
        await http.post(f"/Compare/s{number}/run/send", {"sleep": True})
    seconds = time.perf_counter() - began
    await asyncio.sleep(SETTLED)
    after = resident(pids), stored(folder)
    say(per_s=SLEEPERS / seconds, bytes=(after[0] - before[0]) / SLEEPERS, disk=(after[1] - before[1]) / SLEEPERS)


async def crash(http: Http, pids: list[int]) -> None:
    """Begin many, until somebody ends all this."""
    for number in range(RUNS):
        await http.post(f"/Compare/r{number}/run/send", {"steps": STEPS_EACH, "run": f"r{number}"})
    note(folder / "created", RUNS)
    await asyncio.sleep(3600)


async def recover(http: Http, pids: list[int]) -> None:
    """Wait for all that was begun."""
    found = [await http.get(f"/restate/workflow/Compare/r{number}/attach") for number in range(RUNS)]
    say(ended=found.count(sum(range(STEPS_EACH))))


async def main() -> None:
    """One workload."""
    async with restate() as (http, pids):

        async def run(count: int) -> Any:
            return await http.post(f"/Compare/{os.getpid()}-{next(names)}/run", {"steps": count})

        general = {
            "alone": workload.alone, "together": workload.together, "crowd": workload.crowd, "steps": workload.steps,
        }  # fmt: skip
        own = {"sleepers": sleepers, "crash": crash, "recover": recover}
        for _ in range(10 if what in general else 0):
            await run(1)
        await (general[what](run) if what in general else own[what](http, pids))


asyncio.run(main())
