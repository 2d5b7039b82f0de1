"""Hosts that are killed while they open, again and again; run by `test_orphans`, in a process of its own.

It takes in every orphan of theirs, so that one which lives on is seen. Exit status 1 if any does.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_HOST = """
import asyncio
from cloister.sandbox import Spawner

async def main():
    print(flush=True)
    async with Spawner(spares=2):
        print(flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def ended_within(seconds: float) -> bool:
    """Reap whatever ends; False if something still lives when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
        except ChildProcessError:
            return True
    return False


def children() -> list[str]:
    """What lives still, with its state."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/stat").read_text()[:60] for pid in pids]


def main(rounds: int, seed: int) -> int:
    """Kill that many hosts, each at another moment of its first fraction of a second."""
    chance = random.Random(seed)
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        return 2
    for n in range(rounds):
        host = subprocess.Popen([sys.executable, "-c", _HOST], stdout=subprocess.PIPE)
        assert host.stdout is not None
        host.stdout.readline()
        if n % 4 == 3:  # it is open; spares are on their way
            host.stdout.readline()
        time.sleep(chance.random() * (0.3 if n % 4 == 2 else 0.012))
        host.send_signal(signal.SIGKILL)
        host.stdout.close()
        if not ended_within(60):
            print(f"round {n} left a process: {children()}")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
