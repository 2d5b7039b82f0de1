"""`kill -9` at random instants: what was acknowledged is there afterwards, in order and once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, InstanceAlreadyExists, InstanceFinished, WorkflowEntrypoint

HOST = Path(__file__)


class Ledger(WorkflowEntrypoint):
    """Three steps, a wait for two events, a step; each body writes to the ledger, which is the env."""

    async def run(self, event: Any, step: Any) -> list[Any]:
        seen = [await self._step(step, event.instance_id, number) for number in range(3)]
        events = [(await step.wait_for_event("w", type="t")).payload for _ in range(2)]
        return [*seen, *events, await self._step(step, event.instance_id, 3)]

    async def _step(self, step: Any, name: str, number: int) -> Any:
        value = await step.do("s", lambda: self.env("body", name, number) or number)
        self.env("acked", name, number)
        return value


async def host(path: str, first: int) -> None:
    """Create instances and send events as fast as it can, telling of each only once it is acknowledged."""

    def tell(*what: Any) -> None:
        os.write(1, (json.dumps(what) + "\n").encode())

    async with Engine(path, linger=0.001) as engine:
        workflow = engine.workflow("w", Ledger, env=tell)
        tell("open")

        async def client(number: int) -> None:
            for turn in range(1000):
                name = f"i{first}-{number}-{turn}"
                instance = await workflow.create(id=name, params={})
                tell("created", name, None)
                for event in range(2):
                    await instance.send_event(type="t", payload=event, id=f"e{event}")
                    tell("sent", name, event)

        await asyncio.gather(*(client(number) for number in range(4)))


def kill_a_host(path: Path, first: int, acked: int, seconds: float) -> list[list[Any]]:
    """Run a host, kill it so long after so many steps were acknowledged, and return what it told."""
    with subprocess.Popen([sys.executable, HOST, path, str(first)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = [process.stdout.readline()]
        while sum(line.startswith(b'["acked"') for line in told) < acked:
            told.append(process.stdout.readline())
            assert told[-1], "it ended by itself"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    return [json.loads(line) for line in told if line.endswith(b"\n")]


async def finish(path: Path, told: list[list[Any]]) -> None:
    """Open the database once more, send what is missing, and compare each instance with what was told."""
    bodies: list[tuple[str, int]] = []

    def note(what: str, name: str, number: int) -> None:
        if what == "body":
            bodies.append((name, number))

    created = {name for what, name, _ in told if what == "created"}
    acked = {(name, number) for what, name, number in told if what == "acked"}
    sent = {(name, number) for what, name, number in told if what == "sent"}
    async with Engine(path, linger=0.001) as engine:
        workflow = engine.workflow("w", Ledger, env=note)
        for name in created:
            instance = await workflow.get(name)
            with pytest.raises(InstanceAlreadyExists):
                await workflow.create(id=name)
            if (await instance.status())["status"] != "complete":
                for event in range(2):
                    if (name, event) not in sent:
                        with contextlib.suppress(InstanceFinished):  # it was stored and not told of, and led to the end
                            await instance.send_event(type="t", payload=event, id=f"e{event}")
        for name in created:
            assert await (await workflow.get(name)).result(timeout=100) == [0, 1, 2, 0, 1, 3]
    assert not acked & set(bodies), "a step whose result was acknowledged ran again"


def test_what_was_acknowledged_survives_kill_9_at_random_instants(path: Path) -> None:
    """Creates, step results and events, over several deaths of the host on one database."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    told: list[list[Any]] = []
    for first, acked in enumerate(chance.sample(range(0, 200, 10), 4)):  # sixty in all, or more
        told += [line for line in kill_a_host(path, first, acked, chance.uniform(0, 0.05)) if len(line) == 3]
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
    assert sum(what == "acked" for what, _, _ in told) >= 60, "the hosts were killed before they did anything"
    asyncio.run(finish(path, told))


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1], int(sys.argv[2])))
