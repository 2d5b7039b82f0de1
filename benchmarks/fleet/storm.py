"""Those who wake up: ten thousand due at once, and then those who go on to the end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from typing import Any

from harness import percentile

from cloister.engine import InstanceFinished
from cloister.loader import Host

from .bar import Course, bar
from .site import Ahead, Site, name
from .tenants import INSTANCE, host

LEFT = (
    "SELECT count(*) FROM instances"
    " WHERE workflow = 1 AND (status = 'waiting' AND wake_at <= ? OR status IN ('queued', 'running'))"
)
"""Those that are due, and those that a run which was broken off has left on their way."""
LEAD_SECONDS = 4.0
"""Before the moment at which they are due, for the host to open in."""
SENDERS = 64


def shares(samples: list[float]) -> list[float]:
    """Each hundredth of them, the least first."""
    return [round(percentile(samples, percent), 4) for percent in range(101)] if samples else []


async def storm(site: Site) -> dict[str, Any]:
    """All of a group wake up, each in a sandbox that has to be booted, take a step, and wait for an event."""
    count, late, boots = site.ask(LEFT, site.due("storm")), list[float](), Course()
    clock = Ahead(site, "storm", LEAD_SECONDS)

    def charged(number: int) -> None:
        late.append(clock.since("storm"))

    async with host(site, clock, charged) as waking:
        await asyncio.sleep(-clock.since("storm"))
        with bar("woken", count) as move:
            while waking.engine.statistics().parked < count:
                move(len(late))
                boots.note(waking.loader.statistics().boots)
                await asyncio.sleep(0.05)
            move(len(late))
        took, told = clock.since("storm"), _told(waking)
    return {
        "cpu_ms_each": cpu_ms() / max(count, 1),
        "woken": len(late), "due": count, "early": sum(each < 0 for each in late), "seconds": took,
        "per_second": count / took, "late_first_1000_p99_s": percentile(late[:1000], 99) if late else None,
        "late_s": shares(late), "boots_course": boots.points, **told,
    }  # fmt: skip


async def ending(site: Site) -> dict[str, Any]:
    """A group comes to its end: each has an event waiting for it, wakes up cold, and runs to completion."""
    members, boots = site.members("ending"), Course()
    others = site.members("storm") + site.members("killed") if site.everybody else []
    async with host(site, Ahead(site, "ending", 3_600), spares=0) as asleep:
        sent = await _send(asleep, members)
    count = site.ask(LEFT, site.due("ending")) + len(others)
    clock = Ahead(site, "ending", LEAD_SECONDS)
    async with host(site, clock) as waking:
        await asyncio.sleep(-clock.since("ending"))
        sending = asyncio.ensure_future(_send(waking, others))
        with bar("run to completion", count) as move:
            while (done := waking.engine.statistics().finished) < count:
                move(done)
                boots.note(waking.loader.statistics().boots)
                await asyncio.sleep(0.05)
            move(done)
        took, told = clock.since("ending"), _told(waking)
        await sending
        wrong = 0
        for number in members + others:
            output = await (await waking.workflows(name(number)).get(INSTANCE)).result(1)
            wrong += output != [number, number * 7, number]
    return {
        "cpu_ms_each": cpu_ms() / max(count, 1),
        "completed": count, "seconds": took, "per_second": count / took, "events_per_second": sent, "wrong": wrong,
        "boots_course": boots.points, **told,
    }  # fmt: skip


async def _send(waking: Host, members: list[int]) -> float:
    """Send each its event; how many a second."""
    if not members:
        return 0.0
    began, left = time.perf_counter(), iter(members)
    with bar("sent an event", len(members)) as move:
        done = 0

        async def send_some() -> None:
            nonlocal done
            for number in left:
                instance = await waking.workflows(name(number)).get(INSTANCE)
                with contextlib.suppress(InstanceFinished):  # by a run that was broken off
                    await instance.send_event(type="paid", payload=number, id="paid")
                done += 1
                if done % 100 == 0:
                    move(done)

        await asyncio.gather(*(send_some() for _ in range(SENDERS)))
    return len(members) / (time.perf_counter() - began)


def cpu_ms() -> float:
    """What this process has used by now, and the sandboxes of hosts that were closed, with their zygotes."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses) * 1000


def _told(waking: Host) -> dict[str, Any]:
    engine, loader = waking.engine.statistics(), waking.loader.statistics()
    return {"boots": loader.boots, "lost": engine.lost, "postponed": engine.postponed}
