"""How long until a tenant that was never seen gives its first answer, and what it weighs then.

The limit is a bare `os.fork` of an interpreter that has imported as much, up to one byte from the child.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time

from harness import ROUNDS, Row, main, report, tenant
from rich.console import Console

from cloister.loader import Loader, LoaderEvent

BOOTS = 100
SPARES = 4
WARM = 256  # what a loader keeps by default
_numbers = itertools.count()

FORKER = """
import asyncio, gc, json, logging, os, random, sys, time
gc.collect(); gc.freeze()
for _ in range(int(sys.argv[1])):
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(write, b"1")
        os._exit(0)
    os.read(read, 1)
    print(time.perf_counter() - began)
    os.waitpid(child, 0)
    os.close(read); os.close(write)
"""


async def first_answer(loader: Loader) -> float:
    """Seconds from a tenant's id to its answer."""
    number = next(_numbers)
    began = time.perf_counter()
    await loader.get(f"tenant-{number}", lambda: tenant(number)).get_entrypoint().greet("Alice")
    return time.perf_counter() - began


async def boots(loader: Loader, *, wait_for_spare: bool) -> list[float]:
    """One boot after the other; with a spare ready for each, or with none."""
    samples = []
    for _ in range(BOOTS):
        while wait_for_spare and loader.statistics().spares < SPARES:
            await asyncio.sleep(0.002)
        samples.append(await first_answer(loader))
    return samples


def forks() -> list[float]:
    """The limit."""
    command = [sys.executable, "-I", "-c", FORKER, str(BOOTS)]
    return [float(line) for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


async def phases(loader: Loader) -> str:
    """Where the time of a start goes before anybody waits for it."""
    events: list[LoaderEvent] = []

    async def listen() -> None:
        async for event in loader.subscribe():
            events.append(event)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    await boots(loader, wait_for_spare=True)
    listening.cancel()
    found = [event.phases for event in events if event.phases is not None]
    parts = {name: statistics.median(getattr(each, name) for each in found) for name in ("fork", "confine", "ready")}
    return ", ".join(f"{name} {value:,.0f} µs" for name, value in parts.items())


def weigh(loader: Loader) -> str:
    """What a warm tenant takes: its proportional share, everything that is shared divided among all."""
    sizes = [size for size in loader.memory().values() if size]
    return f"{statistics.median(sizes) / 2**20:.2f} MiB each (PSS, median of {len(sizes)} warm tenants)"


async def benchmark() -> None:
    """Everything above, in rounds."""
    rows: dict[str, list[list[float]]] = {}
    notes: list[str] = []
    for _ in range(ROUNDS):
        async with Loader(max_sandboxes=WARM, spares=SPARES) as loader:
            for _ in range(2):
                await boots(loader, wait_for_spare=True)
            rows.setdefault("cold boot from a spare, to the first answer", []).append(
                await boots(loader, wait_for_spare=True)
            )
            notes = [f"a spare's own start: {await phases(loader)}", f"memory: {weigh(loader)}"]
        async with Loader(max_sandboxes=WARM, spares=0) as loader:
            await boots(loader, wait_for_spare=False)
            rows.setdefault("cold boot without a spare", []).append(await boots(loader, wait_for_spare=False))
        rows.setdefault("limit: bare fork", []).append(forks())
    report("boot", [Row(name, found) for name, found in rows.items()], limit="limit: bare fork")
    for note in notes:
        Console().print(note)


if __name__ == "__main__":
    main(benchmark)
