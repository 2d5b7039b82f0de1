"""A host that dies at any write, and a machine that dies at any sync: what was acknowledged is there, and goes on.

SQLite appends to its log. So what a host leaves that dies at its n-th write is the log up to there; and what a machine
leaves is the log up to a sync, with something torn behind it.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, InstanceAlreadyExists, InstanceFinished, WorkflowEntrypoint
from cloister.engine.testing import VirtualClock

pytestmark = pytest.mark.usefixtures("hands")

HEADER, FRAME, PAGE = 32, 24, 4096
OUTPUT = ["first", "one", ["left", "right"], "two", "kept"]


class Story(WorkflowEntrypoint):
    """Steps, events, a sleep, a failure and a branch; the env hears of each body and of each outcome."""

    async def run(self, event: Any, step: Any) -> list[Any]:
        said = [await self._step(step, "first"), (await step.wait_for_event("w", type="t")).payload]
        said.append([await self._step(step, "left"), await self._step(step, "right")])
        await step.sleep("night", "8 hours")
        said.append((await step.wait_for_event("w", type="t")).payload)
        return [*said, await self._step(step, "kept")]

    async def _step(self, step: Any, name: str) -> Any:
        def body(ctx: Any) -> str:
            self.env.bodies[name] += 1
            if name == "left" and ctx.attempt == 1:
                raise ValueError
            return name

        value = await step.do(name, {"retries": {"limit": 3, "delay": 0}}, body)
        self.env.acknowledge(("step", name))
        return value


@dataclass
class Tale:
    """One telling: which bodies ran, and what was acknowledged when the log was how long."""

    path: Path
    bodies: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def acknowledge(self, what: tuple[str, str]) -> None:
        self.acknowledged.setdefault(what, self.log.stat().st_size if self.log.exists() else 0)

    async def tell(self, known: set[tuple[str, str]] | None = None) -> bytes:
        """From wherever the file stands to the end, without sending what is known to have been sent; the log as it was
        before the engine was closed.
        """
        clock = VirtualClock()
        async with Engine(self.path, clock=clock) as engine:
            workflow = engine.workflow("w", Story, env=self)
            with contextlib.suppress(InstanceAlreadyExists):
                await workflow.create(id="i")
                self.acknowledge(("created", "i"))
            instance = await workflow.get("i")
            for payload in ("one", "two"):
                if ("sent", payload) in (known or ()):
                    continue
                with contextlib.suppress(InstanceFinished):
                    await instance.send_event(type="t", payload=payload, id=payload)
                    self.acknowledge(("sent", payload))
            await clock.advance(9 * 3600)
            assert await instance.result() == OUTPUT
            return self.log.read_bytes()


def after(acknowledged: dict[tuple[str, str], int], cut: int) -> set[tuple[str, str]]:
    """What was acknowledged when the log was no longer than this."""
    return {what for what, size in acknowledged.items() if size <= cut}


async def again(base: Path, log: bytes, known: set[tuple[str, str]], path: Path) -> tuple[Tale, bytes]:
    """Tell it from a file and a log, with what must be there."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    shutil.copyfile(base, path)
    tale = Tale(path)
    tale.log.write_bytes(log)
    whole = await tale.tell(known)
    ran = {name for name, times in tale.bodies.items() if times}
    lost = {what for what in known if what[0] == "step" and what[1] in ran}
    assert not lost, f"{lost} ran again although its outcome was acknowledged"
    assert ("created", "i") not in known or ("created", "i") not in tale.acknowledged, "an instance was lost"
    return tale, whole


def cuts(log: bytes, begin: int = 0) -> list[int]:
    """The ends of the writes: of the header of the log, of each frame's header, and of each page."""
    frames = range(HEADER, len(log), FRAME + PAGE)
    ends = [0, HEADER, *(end for start in frames for end in (start + FRAME, start + FRAME + PAGE))]
    return [end for end in ends if begin <= end <= len(log)]


async def begin(folder: Path) -> tuple[Path, bytes, dict[tuple[str, str], int]]:
    """A file without a log, the log of the whole story on it, and what was acknowledged on the way."""
    base = folder / "base.db"
    async with Engine(base):
        pass
    first = Tale(folder / "first.db")
    shutil.copyfile(base, first.path)
    log = await first.tell()
    assert len(log) > 20 * PAGE
    assert len(first.acknowledged) == 7
    return base, log, first.acknowledged


async def test_a_host_may_die_at_any_write_and_at_any_write_of_the_recovery(tmp_path: Path) -> None:
    """Whatever was acknowledged by then holds, and the story comes to its end."""
    base, log, acknowledged = await begin(tmp_path)
    path = tmp_path / "again.db"
    places = cuts(log)
    for number, cut in enumerate(places):
        known = after(acknowledged, cut)
        tale, second = await again(base, log[:cut], known, path)
        if number % 12:
            continue
        for later in cuts(second, begin=cut)[::3]:
            both = known | {what for what in after(tale.acknowledged, later) if what[0] != "sent"}
            await again(base, second[:later], both, path)


async def test_a_machine_may_die_at_any_sync_with_something_torn_behind_it(tmp_path: Path) -> None:
    """What follows the last sync may be there in part, or be anything: it counts as never written."""
    base, log, acknowledged = await begin(tmp_path)
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for synced in sorted(set(acknowledged.values())):
        rest = log[synced : synced + 3 * (FRAME + PAGE)]
        torn = bytearray(rest)
        for place in range(0, len(torn), 512):
            if chance.random() < 0.5:
                torn[place : place + 512] = chance.randbytes(len(torn[place : place + 512]))
        for tail in (bytes(torn), bytes(len(rest)), rest[: len(rest) // 2]):
            await again(base, log[:synced] + tail, after(acknowledged, synced), tmp_path / "again.db")
