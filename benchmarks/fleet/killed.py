"""A host that is killed in the middle of waking a group up, and the next one, which goes on.

What a step does outside is a line in a file, which nothing that dies can take back. So it can be told whether anybody
was lost, and whose step ran twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .bar import bar
from .site import Ahead, Site
from .storm import LEFT
from .tenants import host

_RECORDED = "SELECT count(*) FROM steps WHERE kind = 'do' AND name = 'charge' AND state = 'done'"
_TO_WAKE = (
    f"{LEFT} AND NOT EXISTS (SELECT 1 FROM steps WHERE instance = instances.number AND kind = 'do' AND name = 'charge'"
    " AND state = 'done')"
)
"""Those that this step is to be recorded for."""


def ledger(site: Site) -> Path:
    """One line for each step's body that ran: the number of its tenant."""
    return site.beside("ledger")


def charged(site: Site) -> list[int]:
    """Those lines; the last may be half written, and is none then."""
    return [int(line) for line in ledger(site).read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


async def wake(site: Site) -> dict[str, Any]:
    """A host's life: the group wakes up, and it stays until all have."""
    file = os.open(ledger(site), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    began = time.perf_counter()

    def hear(number: int) -> None:
        os.write(file, b"%d\n" % number)

    async with host(site, Ahead(site, "killed"), hear) as waking:
        await waking.workflows("newcomer").list()
        opened = time.perf_counter() - began
        while site.ask(LEFT, site.due("killed")) or waking.engine.statistics().running or _queued(site):
            await asyncio.sleep(0.1)
        return {"open_seconds": opened, "recovered_seconds": time.perf_counter() - began}


def _queued(site: Site) -> bool:
    return bool(
        site.ask("SELECT EXISTS (SELECT 1 FROM instances WHERE workflow = 1 AND status IN ('queued', 'running'))")
    )


async def killed(site: Site) -> dict[str, Any]:
    """Kill a host when a third of the group have woken up; then let the next one go on."""
    ledger(site).write_bytes(b"")
    count, before = site.ask(_TO_WAKE, site.due("killed")), site.ask(_RECORDED)
    command = [sys.executable, sys.argv[0], "--phase", "wake", "--folder", site.folder, "--part", str(site.part)]
    victim = await asyncio.create_subprocess_exec(*command)
    with bar("woken, until it is killed", count) as move:
        while (woken := len(charged(site))) < count / 3:
            move(woken)
            await asyncio.sleep(0.02)
    signal.pidfd_send_signal(os.pidfd_open(victim.pid), signal.SIGKILL)
    await victim.wait()
    began, begun, recorded = time.perf_counter(), len(charged(site)), site.ask(_RECORDED) - before
    following = await asyncio.create_subprocess_exec(*command)
    with bar("woken by the next one", count) as move:
        while following.returncode is None:
            move(len(set(charged(site))))
            await asyncio.wait({asyncio.ensure_future(following.wait())}, timeout=0.2)
    took, bodies = time.perf_counter() - began, Counter(charged(site))
    return {
        "due": count, "begun_when_killed": begun, "recorded_when_killed": recorded, "woken": len(bodies),
        "lost": count - (site.ask(_RECORDED) - before), "bodies_twice": sum(bodies.values()) - len(bodies),
        "seconds": took, **(site.found("wake") or {}),
    }  # fmt: skip
