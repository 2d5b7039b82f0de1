"""Alarms of objects: who waits for whom, what counts as a try, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import NoCapacity, TenantError
from cloister.loader.bindings import StorageQuotaExceeded
from cloister.loader.bindings.alarms import Alarm, Alarms

NOW_MS = 1_000_000_000


class Bells:
    """What is rung: each alarm waits until it is let go, or raises what it is to raise."""

    def __init__(self) -> None:
        self.rung: list[Alarm] = []
        self.going: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.seconds = NOW_MS / 1000

    async def __call__(self, alarm: Alarm) -> None:
        self.rung.append(alarm)
        if (error := self.errors.pop(alarm.id, None)) is not None:
            raise error
        if (going := self.going.get(alarm.id)) is not None:
            await going.wait()

    @asynccontextmanager
    async def hung(self, folder: Path, *, most: int = 10_000) -> AsyncIterator[Alarms]:
        async with Alarms(folder / "alarms.db", self, most=most, now=lambda: self.seconds) as alarms:
            yield alarms

    def times(self, id_: str) -> int:
        return sum(alarm.id == id_ for alarm in self.rung)


def one(id_: str, tenant: str = "t") -> Alarm:
    return Alarm(tenant, "Counter", id_, None, 0)


async def test_alarms_that_take_long_hold_up_no_other_tenants(tmp_path: Path, eventually: Any) -> None:
    """A tenant has a few that ring at the same time, however many are due."""
    bells = Bells()
    slow = [f"slow {n}" for n in range(40)]
    bells.going = {id_: asyncio.Event() for id_ in slow}
    async with bells.hung(tmp_path) as alarms:
        for id_ in slow:
            await alarms.set(one(id_, "greedy"), NOW_MS - 10)
        await alarms.set(one("other", "modest"), NOW_MS)
        await eventually(lambda: bells.times("other") >= 1)
        assert 0 < sum(map(bells.times, slow)) < 16
        for going in bells.going.values():
            going.set()
        await eventually(lambda: all(map(bells.times, slow)))


async def test_an_alarm_that_is_set_while_it_rings_rings_afterwards(tmp_path: Path, eventually: Any) -> None:
    """Not beside the first one, and the end of that does not take it back."""
    bells = Bells()
    bells.going = {"a": asyncio.Event()}
    async with bells.hung(tmp_path) as alarms:
        await alarms.set(one("a"), NOW_MS)
        await eventually(lambda: bells.times("a") >= 1)
        await alarms.set(one("a"), NOW_MS - 1)
        await alarms.set(one("b"), NOW_MS)
        await eventually(lambda: bells.times("b") >= 1)
        assert bells.times("a") == 1
        assert await alarms.get("t", "Counter", "a") == NOW_MS - 1
        bells.going.pop("a").set()
        await eventually(lambda: bells.times("a") >= 2)
    async with bells.hung(tmp_path) as alarms:
        assert await alarms.get("t", "Counter", "a") is None


@pytest.mark.parametrize("error", [TenantError("ValueError", "no"), NoCapacity("the host is full")])
async def test_what_the_host_could_not_do_is_no_try(tmp_path: Path, eventually: Any, error: Exception) -> None:
    """An alarm is not given up for want of room, and what its tenant does wrong counts."""
    bells = Bells()
    async with bells.hung(tmp_path) as alarms:
        bells.errors["a"] = error
        await alarms.set(one("a"), NOW_MS)
        for times in range(1, 9):
            await eventually(lambda times=times: bells.times("a") == times and not alarms._ringing)
            if (at := await alarms.get("t", "Counter", "a")) is None:
                break
            bells.errors["a"], bells.seconds = error, at / 1000
            alarms._changed.set()
        tries = [alarm.tries for alarm in bells.rung]
        assert tries == ([0, 1, 2, 3, 4, 5, 6] if isinstance(error, TenantError) else [0] * 8)


async def test_a_tenant_has_so_many_alarms(tmp_path: Path) -> None:
    """One more is refused; one that there is may be set anew, and one that is taken back makes room."""
    bells = Bells()
    async with bells.hung(tmp_path, most=2) as alarms:
        for id_ in ("a", "b", "a"):
            await alarms.set(one(id_), NOW_MS + 1e6)
        with pytest.raises(StorageQuotaExceeded, match="2 alarms are set"):
            await alarms.set(one("c"), NOW_MS + 1e6)
        await alarms.set(one("c", "other"), NOW_MS + 1e6)
        await alarms.set(one("a"), None)
        await alarms.set(one("c"), NOW_MS + 1e6)
