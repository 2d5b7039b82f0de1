"""One instance in each state that a database can hold, and how each goes on from there.

Run as a program it leaves them in a database and prints that as SQL: this is how each fixture was made, by the cloister
of its day. Add one whenever a schema lands: `python tests/engine/veterans.py > tests/engine/fixtures/version_N.sql`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.engine.testing import VirtualClock

BEGAN = 1_800_000_000_000
"""When the fixtures' clock began; it stopped a minute later."""
EXPECTED = {
    "sleeper": ("complete", ["first", "awake"]),
    "listener": ("complete", ["first", "one", "two"]),
    "waiting": ("complete", ["first", "late", "later"]),
    "retrying": ("complete", ["first", "made it"]),
    "paused": ("complete", ["first", "awake"]),
    "queued": ("complete", ["first"]),
    "complete": ("complete", ["first"]),
    "errored": ("errored", None),
    "terminated": ("terminated", None),
}
"""Id to the end of each, once events have come and time has passed."""


class Veteran(WorkflowEntrypoint):
    """What it does is its id; the env is whether what fails has been mended."""

    async def run(self, event: Any, step: Any) -> list[Any]:
        done = [await step.do("first", lambda: "first")]
        match event.payload:
            case "sleeper" | "paused" | "terminated":
                await step.sleep("nap", "1 hour")
                done.append("awake")
            case "listener" | "waiting":
                done.extend([(await step.wait_for_event("w", type="t")).payload for _ in range(2)])
            case "retrying":
                done.append(await step.do("flaky", {"retries": {"limit": 3, "delay": "1 hour"}}, self.flaky))
            case "errored":
                raise LookupError("nothing there")
        return done

    def flaky(self) -> str:
        if not self.env:
            raise ConnectionError("not yet")
        return "made it"


async def populate(path: Path) -> None:
    clock = VirtualClock(BEGAN)
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("veterans", Veteran, env=False, concurrency=100)
        made = {
            name: await workflow.create(id=name, params=name, scope="unit") for name in EXPECTED if name != "queued"
        }
        await made["listener"].pause()
        for payload in ("one", "two"):
            await made["listener"].send_event(type="t", payload=payload, id=payload)
        await clock.advance(50)
        await made["paused"].pause()
        await made["terminated"].terminate()
        await clock.advance(10)
    with (
        contextlib.closing(sqlite3.connect(path)) as database,
        database,
    ):  # as a host leaves it that has no slot to give
        database.execute(
            "INSERT INTO instances (workflow, scope, id, status, params, created)"
            " SELECT workflow, scope, 'queued', 'queued', x'a6717565756564', ? FROM instances LIMIT 1",
            (BEGAN,),
        )
        for table in ("instances", "steps"):  # a traceback names the folders of whoever made the fixture
            database.execute(f"UPDATE {table} SET error = json_set(error, '$[2]', '') WHERE error IS NOT NULL")


def dump(path: Path) -> str:
    """The database as SQL, with the two marks that a dump leaves out."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        marks = {mark: database.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")}
        return "\n".join([*(f"PRAGMA {mark} = {value};" for mark, value in marks.items()), *database.iterdump(), ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(populate(Path(folder, "app.db")))
        sys.stdout.write(dump(Path(folder, "app.db")))
