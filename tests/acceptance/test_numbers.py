"""Many at once, in a small form: timers that are due together, and runs in flight when their host dies. The benchmarks
`timers.py` and `deaths.py` ask the same of ten thousand and of a thousand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from cloister.engine import Engine, current_attempt
from cloister.engine.testing import VirtualClock
from cloister.loader import Host, RpcTarget, WorkerCode

TENANTS, EACH, STEPS = 5, 40, 10
NAP = """
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await step.sleep_until("due", event.payload.due)
        await step.do("ring", lambda: self.env.BELL.ring())
"""
TEN = f"""
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        return [await step.do(f"step {{n}}", lambda: self.env.BOOK.begin(n)) for n in range({STEPS})]
"""


class Bell(RpcTarget):
    def __init__(self, ring: Callable[[], Awaitable[None]]) -> None:
        self._ring = ring

    async def ring(self) -> None:
        """A timer's step runs."""
        await self._ring()


async def test_timers_that_are_due_together_all_run_and_none_is_early(path: Path, clock: VirtualClock) -> None:
    """Nor does a tenant wait for the others: when half are done, each has had some. As many as may run at once go on
    together, so that it is the engine's choice who is next, and not the machine's."""
    rung: list[tuple[str, int]] = []
    due, together, full = clock.now() + 86_400_000, 16, asyncio.Event()

    async def ring(tenant: str) -> None:
        nonlocal full
        rung.append((tenant, clock.now()))
        if len(rung) % together and len(rung) < TENANTS * EACH:
            await full.wait()
        else:
            full.set()
            full = asyncio.Event()

    def code(tenant: str) -> WorkerCode:
        bell = Bell(lambda: ring(tenant))
        return WorkerCode(main_module="main.py", modules={"main.py": NAP}, env={"BELL": bell})

    engine = Engine(path, clock=clock)
    async with Host(path, get_code=code, engine=engine, concurrency=together, max_sandboxes=TENANTS) as host:
        for tenant in range(TENANTS):
            await host.workflows(f"t-{tenant}").create_batch([{"params": {"due": due}}] * EACH)
        while engine.statistics().parked < TENANTS * EACH:
            await clock.advance(0.1)
            await asyncio.sleep(0.001)
        await clock.advance((due - clock.now() - 1) / 1000)
        await asyncio.sleep(0.05)
        assert rung == []
        await clock.advance(0.001)
        while engine.statistics().finished < TENANTS * EACH:
            await clock.advance(0.01)
            await asyncio.sleep(0.001)
    assert len(rung) == TENANTS * EACH
    assert min(when for _, when in rung) >= due
    first_half = [tenant for tenant, _ in rung[: TENANTS * EACH // 2]]
    assert min(first_half.count(f"t-{tenant}") for tenant in range(TENANTS)) >= EACH // 4


class Book(RpcTarget):
    """A file that outlives its host: which attempt of which step began."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def begin(self, number: int) -> int:
        """A body began, and takes a moment."""
        attempt = current_attempt()
        assert attempt is not None
        os.write(self._file, json.dumps([attempt.key, attempt.token]).encode() + b"\n")
        await asyncio.sleep(0.02)
        return number


async def live(folder: Path) -> None:
    """A host: it sees to it that everything is there, and stays until all has ended."""
    code = WorkerCode(main_module="main.py", modules={"main.py": TEN}, env={"BOOK": Book(folder / "book")})
    async with Host(folder / "app.db", get_code=lambda _: code, max_sandboxes=TENANTS) as host:
        for tenant in range(TENANTS):
            await host.workflows(f"t-{tenant}").create_batch([{"id": f"i-{n}"} for n in range(EACH)])
        print("created", flush=True)
        for tenant in range(TENANTS):
            for number in range(EACH):
                instance = await host.workflows(f"t-{tenant}").get(f"i-{number}")
                assert await instance.result() == list(range(STEPS))


def read(folder: Path) -> dict[str, list[int]]:
    """The tokens of the attempts of each step that began."""
    begun: dict[str, list[int]] = defaultdict(list)
    for line in (folder / "book").read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # it is being written
        key, token = json.loads(line)
        begun[key].append(token)
    return begun


def test_what_is_in_flight_when_a_host_dies_ends_and_no_more_of_it_runs_twice(tmp_path: Path) -> None:
    """Two hundred runs of ten steps: the second host begins again what had no record, with a larger token."""
    script = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"created\n"
        while len(read(tmp_path)) < TENANTS * EACH * STEPS // 3:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    in_flight = len(read(tmp_path)) - recorded(tmp_path / "app.db")
    subprocess.run(script, check=True, timeout=280)
    begun = read(tmp_path)
    assert len(begun) == TENANTS * EACH * STEPS
    twice = sum(len(tokens) - 1 for tokens in begun.values())
    print(f"{twice} of {in_flight} in flight ran again")
    assert twice <= in_flight
    assert all(tokens == sorted(set(tokens)) for tokens in begun.values())


def recorded(path: Path) -> int:
    """How many steps have an outcome in what a host has left behind."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM steps WHERE kind = 'do' AND state = 'done'").fetchone()[0])


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
