"""How many tenants a second can be booted, called once and ended, for as long as one likes; and what is left of them.

The cache is small, so that each boot evicts another tenant. The clock stops when the last process that was evicted is
gone. The limit is a bare interpreter with the same imports that forks, hears of its child, and reaps it.

With `--killed 20`, a fifth of the tenants come to a bad end instead: by SIGKILL in a call, by an exit of their own in a
call, by flooding the wire, by using up their CPU time. With `--rotate 2500`, the zygote is replaced after so many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weigh
from harness import Row, draw, listing, main, options, percentile, rates, report, say, tenant

from cloister.loader import Limits, Loader, Policy, WorkerCode
from cloister.loader.loader import Key

SPARES = 4
PARTS = 3  # of a run, whose rates are compared
LIMIT = "limit: bare fork, one at a time"
BAD_ENDS = ("SIGKILL", "exit", "flood", "limit")
VICTIM = """
import asyncio, os, select
from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Note
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return name

    async def end(self, how):
        match how:
            case "SIGKILL": await asyncio.Event().wait()
            case "exit": os._exit(3)
            case "limit": sum(range(10**12))
        frames = zmtp.message(codec.encode(Note("log", values.dumps(["info", "x" * 8000, 0, 0])))) * 10
        ready = select.poll()
        ready.register(3, select.POLLOUT)
        left = frames
        while True:
            ready.poll()
            try: left = left[os.write(3, left):] or frames
            except BlockingIOError: pass
"""
_folders: set[Path] = set()
"""Where this process has had sockets."""


@dataclass(frozen=True)
class Traces:
    """What this process has about it that sandboxes could leave behind."""

    zombies: int
    processes: int
    descriptors: int
    sockets: int
    groups: int
    mounts: int
    threads: int
    resident: int

    @classmethod
    def now(cls) -> Traces:
        """At this moment."""
        alive = [state for pid in weigh.descendants() if (state := _state(pid))]
        for descriptor in Path("/proc/self/fd").iterdir():  # a loader holds on to the folder of its sockets
            with contextlib.suppress(OSError):
                if (held := descriptor.readlink()).name.startswith("cloister-sockets-"):
                    _folders.add(held)
        sockets = [file for folder in _folders for file in (folder, *folder.glob("*")) if file.exists()]
        return cls(
            alive.count("Z"), len(alive) - alive.count("Z"), weigh.descriptors(), len(sockets),
            len(list(_groups())), len(Path("/proc/self/mounts").read_text().splitlines()), threading.active_count(),
            weigh.resident(0),
        )  # fmt: skip


async def come_to_a_bad_end(loader: Loader, number: int, how: str) -> str:
    """One tenant that is killed, or that does what it is killed for: what its caller was told."""
    code = WorkerCode(
        main_module="main.py", modules={"main.py": VICTIM}, limits=Limits(cpu_ms=50), streaming_tails=(lambda _: None,)
    )
    name = f"victim-{number}"
    entrypoint = loader.get(name, lambda: code).get_entrypoint()
    await entrypoint.greet("Alice")
    worker = loader.warm(Key(name))
    call: asyncio.Future[object] = asyncio.ensure_future(entrypoint.end(how))
    if how == "SIGKILL" and worker is not None:
        await asyncio.sleep(0)
        os.kill(worker.sandbox.pid, signal.SIGKILL)
    await asyncio.wait({call})
    error = call.exception()
    return f"{how}: {type(error).__name__}: {error}"


async def churn(
    loader: Loader, boots: int, together: int, *, first: int, killed: int = 0, ends: Counter[str] | None = None
) -> tuple[list[float], float]:
    """So many tenants that were never seen: seconds to each first answer, and seconds until the last was gone.

    Of each hundred, so many are killed; `ends` counts what their callers were told.
    """
    numbers = iter(range(first, first + boots))
    samples: list[float] = []

    async def boot_some() -> None:
        for number in numbers:
            if number % 100 < killed and ends is not None:
                ends[await come_to_a_bad_end(loader, number, BAD_ENDS[number % len(BAD_ENDS)])] += 1
                continue
            began = time.perf_counter()
            await loader.get(f"tenant-{number}", lambda number=number: tenant(number)).get_entrypoint().greet("Alice")  # type: ignore[misc]
            samples.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(boot_some() for _ in range(together)))
    await gone(loader)
    return samples, time.perf_counter() - began


async def gone(loader: Loader) -> None:
    """Until no more processes are left than the loader keeps."""
    for _ in range(2000):
        kept = loader.statistics()
        zygotes = 2 * len(weigh.children(os.getpid()))  # each is two processes where a user namespace is needed
        if len(weigh.descendants()) <= kept.warm + kept.spares + zygotes:
            return
        await asyncio.sleep(0.005)
    say("processes that were evicted are still there after ten seconds")


async def benchmark(*, boots: int, together: int, warm: int, killed: int, rotate: int, plot: str | None) -> None:
    """One long run in parts, with a look at what is left before, after, and when all is closed."""
    before = Traces.now()
    samples: list[list[float]] = []
    speeds: list[float] = []
    ends: Counter[str] = Counter()
    async with Loader(max_sandboxes=warm, spares=SPARES, policy=Policy(rotate_after_sandboxes=rotate)) as loader:
        await churn(loader, max(boots // 10, warm), together, first=0)
        begun = Traces.now()
        for part in range(PARTS):
            count = boots // PARTS
            found, took = await churn(loader, count, together, first=(part + 1) * 1_000_000, killed=killed, ends=ends)
            samples.append(found)
            speeds.append(count / took)
        done = Traces.now()
        statistics_ = loader.statistics()
    after = Traces.now()
    with weigh.bare_forks(boots // PARTS) as forks:
        whole = [fork.whole for fork in forks]
    name = f"cold boots with teardown, {together} at once, {warm} kept"
    booted = sum(map(len, samples)) + ends.total()
    rates(
        f"churn: {booted:,} boots, {statistics_.evictions:,} evictions, {statistics_.deaths:,} deaths",
        [(name, speeds), (LIMIT, [1 / statistics.fmean(whole)])],
        limit=LIMIT,
    )
    report("churn: from a tenant's id to its first answer", [Row(name, samples), Row(LIMIT, [whole])], limit=LIMIT)
    rows = [
        [label, *(f"{getattr(found, part):,}" for part in ("zombies", "processes", "descriptors", "sockets", "groups",
                                                           "mounts", "threads")), f"{found.resident / 2**20:.1f}"]
        for label, found in (
            ("before", before), ("warmed up", begun), ("after the boots", done),
            ("closed", after),
        )
    ]  # fmt: skip
    header = ["", "zombies", "processes", "descriptors", "sockets", "groups", "mounts", "threads", "RSS MiB"]
    listing("churn: what is left", header, rows)
    for told, count in ends.most_common():
        say(f"{count:,} x {told[:110]}")
    draw(plot, lambda axes: paint(axes, samples), title="churn: latency of each boot", size=(9, 4))


def paint(axes: Any, samples: list[list[float]]) -> None:
    """Each boot as a point, in the order that they ended in, with the median and the 99th percentile."""
    every = [sample * 1000 for part in samples for sample in part]
    axes.plot(every, ".", markersize=2, alpha=0.5)
    for percent, style in ((50, "-"), (99, "--")):
        axes.axhline(percentile(every, percent), color="k", linestyle=style, linewidth=1, label=f"p{percent}")
    axes.set_xlabel("boot")
    axes.set_ylabel("ms to the first answer")
    axes.set_yscale("log")
    axes.legend(loc="upper right")


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _groups() -> Iterator[Path]:
    """The control groups that were made for this process, in every hierarchy there is."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup", controllers.removeprefix("name="), path.lstrip("/"))
        yield from root.glob(f"cloister-{os.getpid()}-*/*/")


if __name__ == "__main__":
    asked = options(__doc__, drawn=True, boots=3_000, together=4, warm=16, killed=0, rotate=10_000)
    main(lambda: benchmark(**vars(asked)))
