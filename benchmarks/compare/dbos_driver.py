"""DBOS, as its documentation has one use it: workflows and steps are decorated functions of the driver itself.

On SQLite the file is in WAL mode (DBOS leaves it as it finds it), which is faster than as shipped; on PostgreSQL as the
server is configured. Both wait for the disk with each step.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import workload
from dbos import DBOS
from workload import RUNS, SETTLED, SLEEP_S, SLEEPERS, STEPS_EACH, asked, note, resident, say, stored

what, folder = asked()
store = os.environ.get("POSTGRES") or f"sqlite:///{folder}/dbos.db"
if store.startswith("sqlite"):
    with sqlite3.connect(folder / "dbos.db") as base:
        base.execute("PRAGMA journal_mode = WAL")
DBOS(config={"name": "compare", "system_database_url": store, "log_level": "ERROR", "application_version": "1"})


@DBOS.step()
def step(number: int, run: str = "") -> int:
    """Does nothing, and says so where it is asked to."""
    if run:
        note(folder / "bodies", run, number)
    return number


@DBOS.workflow()
def workflow(count: int, run: str = "") -> int:
    """So many steps."""
    return sum(step(number, run) for number in range(count))


@DBOS.workflow()
async def sleeper() -> None:
    """A step, and a long sleep."""
    await asyncio.to_thread(step, 0)
    await DBOS.sleep_async(SLEEP_S)


async def run(count: int) -> None:
    """On a thread of DBOS's, as plain functions are, which is faster here than async ones."""
    handle = await asyncio.to_thread(DBOS.start_workflow, workflow, count)
    await asyncio.to_thread(handle.get_result)


async def sleepers() -> None:
    """Begin them, and see what they cost."""
    await run(1)
    before = resident([os.getpid()]), stored(folder)
    began = time.perf_counter()
    for _ in range(SLEEPERS // 100):
        await asyncio.gather(*(DBOS.start_workflow_async(sleeper) for _ in range(100)))
    seconds = time.perf_counter() - began
    await asyncio.sleep(SETTLED)
    after = resident([os.getpid()]), stored(folder)
    say(per_s=SLEEPERS / seconds, bytes=(after[0] - before[0]) / SLEEPERS, disk=(after[1] - before[1]) / SLEEPERS)
    os._exit(0)  # it would wait for the sleepers


def crash() -> None:
    """Begin many, until somebody ends this process."""
    for number in range(RUNS):
        DBOS.start_workflow(workflow, STEPS_EACH, f"r{number}")
    note(folder / "created", RUNS)
    time.sleep(3600)


def recover() -> None:
    """Wait for all that was begun; DBOS has taken it up when it was launched."""
    while any(w.status in {"PENDING", "ENQUEUED"} for w in DBOS.list_workflows(load_input=False, load_output=False)):
        time.sleep(0.01)
    say(ended=sum(w.status == "SUCCESS" for w in DBOS.list_workflows(load_input=False, load_output=False)))


async def main() -> None:
    """One workload."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * workload.CROWD))
    general = {
        "alone": workload.alone, "together": workload.together, "crowd": workload.crowd, "steps": workload.steps,
    }  # fmt: skip
    await general[what](run)


DBOS.launch()
if what in {"crash", "recover"}:
    {"crash": crash, "recover": recover}[what]()
else:
    asyncio.run(sleepers() if what == "sleepers" else main())
os._exit(0)
