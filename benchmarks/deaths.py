"""A host is killed (SIGKILL) with a thousand runs of ten steps in flight, and another one goes on: whether all end,
whether one is lost, and how many steps ran twice.

What a step does outside is a line in a file, with the attempt's fencing token, written by a capability of the host's;
so nothing that dies can take it back. The limit is what was in flight: steps that had begun and had no record yet.
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
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from harness import listing, main, options, say

from cloister.engine import current_attempt
from cloister.loader import Host, RpcTarget, WorkerCode

TENANTS, STEPS = 20, 10
SOURCE = f"""
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        return [await step.do(f"step {{number}}", lambda: self.env.LEDGER.begin(number)) for number in range({STEPS})]
"""
Ledger = dict[str, list[int]]
"""The tokens of the attempts that began, of each step."""


class Book(RpcTarget):
    """A file that outlives its host."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def begin(self, number: int) -> int:
        """A step's body began, and takes a moment."""
        attempt = current_attempt()
        assert attempt is not None
        os.write(self._file, json.dumps([attempt.key, attempt.token]).encode() + b"\n")
        await asyncio.sleep(0.02)
        return number


async def live(folder: Path, runs: int) -> None:
    """A host: it creates what is not there yet, says so, and stays until everything has ended."""
    book = Book(folder / "ledger")
    code = WorkerCode(main_module="main.py", modules={"main.py": SOURCE}, env={"LEDGER": book})
    async with Host(folder / "app.db", get_code=lambda _: code, concurrency=runs, max_sandboxes=TENANTS) as host:
        each = -(-runs // TENANTS)
        for tenant in range(TENANTS):
            entries = [{"id": f"i-{number}"} for number in range(min(each, runs - tenant * each))]
            for start in range(0, len(entries), 100):
                await host.workflows(f"t-{tenant}").create_batch(entries[start : start + 100])
        print("created", flush=True)
        while True:
            statuses = [await host.workflows(f"t-{t}").list(limit=1000) for t in range(TENANTS)]
            found = [instance.status for page in statuses for instance in page.instances]
            if all(status in {"complete", "errored", "terminated"} for status in found):
                break
            await asyncio.sleep(0.1)
        ended = sum(status == "complete" for status in found)
        print(json.dumps({"instances": len(found), "complete": ended}), flush=True)


def read(folder: Path) -> Ledger:
    """The ledger as it is now; the last line may be half written."""
    begun: Ledger = defaultdict(list)
    for line in (folder / "ledger").read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            key, token = json.loads(line)
            begun[key].append(token)
    return begun


def recorded(path: Path) -> int:
    """How many steps have an outcome in what a host has left behind."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        return int(base.execute("SELECT count(*) FROM steps WHERE kind = 'do' AND state = 'done'").fetchone()[0])


def host(folder: Path, runs: int) -> subprocess.Popen[str]:
    """One that has created everything."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--live", str(folder), str(runs)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "created\n"
    return process


def kill(folder: Path, runs: int) -> tuple[Ledger, int]:
    """Let a host come to a third of the steps, and kill it: what had begun by then, and what had a record."""
    with host(folder, runs) as process:
        while sum(map(len, read(folder).values())) < runs * STEPS // 3:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    return read(folder), recorded(folder / "app.db")


async def benchmark() -> None:
    """Kill one host, and see another one to the end."""
    runs = options(__doc__, runs=1_000).runs
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        before, known = kill(folder, runs)
        began = time.perf_counter()
        with host(folder, runs) as process:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
        lasted, after = time.perf_counter() - began, read(folder)
    twice = sum(len(tokens) - 1 for tokens in after.values())
    fenced = sum(tokens == sorted(set(tokens)) for tokens in after.values())
    say(f"killed with {runs:,} runs under way, {len(before):,} of {runs * STEPS:,} steps begun and {known:,} recorded")
    listing(
        "deaths",
        ["figure", "result", "limit"],
        [
            ["instances that came to their end", f"{said['complete']:,}", f"{runs:,}"],
            ["instances that were lost", f"{runs - said['instances']:,}", "0"],
            ["steps whose body ran", f"{len(after):,}", f"{runs * STEPS:,}"],
            ["bodies that ran again", f"{twice:,}", f"in flight: {len(before) - known:,}"],
            ["steps whose tokens only grew", f"{fenced:,}", f"{len(after):,}"],
            ["seconds from the start of the next host to the end", f"{lasted:.1f}", ""],
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--live"]:
        asyncio.run(live(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        main(benchmark)
