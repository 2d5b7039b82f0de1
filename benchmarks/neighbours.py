"""What honest tenants notice of an abuser beside them, and how long one lasts after it has crossed its limit.

Each kind of abuser is booted, let loose, ended by its limits, and booted again, for as long as the honest tenants are
timed. They are timed alone just before, and the same calls beside a bare process that spins are the limit: no sandbox
can take less of a core than it is given.

When an abuser crosses its limit of CPU time is seen by a process of its own, which looks every half millisecond and
hears from the kernel of its end; what the host believes does not come into it.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from harness import draw, listing, main, options, percentile, say, tenant
from observer import Observer

from cloister.loader import LimitExceeded, Limits, Loader, SandboxDied, WorkerCode
from cloister.loader.loader import Key

HONEST = 4
STILL_ALIVE_AFTER = 3.0
PERIOD = 0.005  # seconds between two calls to one of them
LIMITS = Limits(cpu_ms=300, wall_ms=1_500, memory_bytes=64 << 20)
LIMIT = "limit: a bare spinner"  # a process that nobody confines

ABUSERS = {
    "CPU in Python": """
        while True:
            pass
    """,
    "CPU in C": """
        sum(range(10**12))
    """,
    "memory hog": """
        held = []
        while True:
            try:
                held.append(b"x" * 2**20)
            except MemoryError:
                pass
    """,
    "thread bomb": """
        def spin():
            while True:
                pass
        while True:
            try:
                threading.Thread(target=spin).start()
            except RuntimeError:
                pass
    """,
    "log flood": """
        while True:
            print("x" * 8000)
    """,
    "wire flood, 16 MiB": """
        frame = zmtp.message(codec.encode(Note("log", values.dumps(["info", "x" * (2**24 - 100), 0, 0]))))
        ready = select.poll()
        ready.register(3, select.POLLOUT)
        while True:
            left = memoryview(frame)
            while left:
                try:
                    left = left[os.write(3, left):]
                except BlockingIOError:
                    ready.poll()
    """,
    "wire flood, small": """
        frames = zmtp.message(codec.encode(Note("log", values.dumps(["info", "x", 0, 0])))) * 1000
        ready = select.poll()
        ready.register(3, select.POLLOUT)
        while True:
            left = memoryview(frames)
            while left:
                try:
                    left = left[os.write(3, left):]
                except BlockingIOError:
                    ready.poll()
    """,
    "call flood": """
        while True:
            await asyncio.gather(*(self.env.ECHO("x" * 1000) for _ in range(500)), return_exceptions=True)
    """,
    "exception storm": """
        async def fail(depth):
            if depth:
                await fail(depth - 1)
            raise ValueError("x" * 10_000)
        while True:
            failing = [asyncio.ensure_future(fail(20)) for _ in range(50)]
            await asyncio.sleep(0)
    """,
    "recursion, Python": """
        sys.setrecursionlimit(10**9)
        def deeper():
            return deeper()
        deeper()
    """,
    "recursion, C": """
        sys.setrecursionlimit(10**9)
        def deeper(_):
            return list(map(deeper, [0]))
        deeper(0)
    """,
}
PROGRAM = """
import asyncio, os, select, sys, threading
from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Note
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return name

    async def abuse(self):
"""
_numbers = itertools.count()


@dataclass
class Fate:
    """What became of the abusers of one kind. Times are in milliseconds."""

    ends: Counter[str] = field(default_factory=Counter)
    lasted: list[float] = field(default_factory=list)
    overshoot: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Timing:
    """What the honest tenants saw: seconds that calls took, and seconds by which the host was late to make them."""

    calls: list[float]
    late: list[float]


async def time_honest(loader: Loader, seconds: float) -> Timing:
    """Call each of them again and again."""
    calls: list[float] = []
    late: list[float] = []
    end = time.perf_counter() + seconds

    async def call_again(number: int) -> None:
        entrypoint = loader.get(f"honest-{number}", lambda: tenant(number)).get_entrypoint()
        while (due := time.perf_counter() + PERIOD) < end:
            await asyncio.sleep(PERIOD)
            began = time.perf_counter()
            late.append(began - due)
            await entrypoint.greet("Alice")
            calls.append(time.perf_counter() - began)

    await asyncio.gather(*map(call_again, range(HONEST)))
    return Timing(calls, late)


async def echo(text: str) -> str:
    """What an abuser may call."""
    return text


async def abuse(loader: Loader, observer: Observer, body: str, fate: Fate, stop: asyncio.Event) -> None:
    """One abuser after the other, as long as the honest ones are timed."""
    source = PROGRAM + "\n".join(f"    {line}" for line in body.splitlines())
    code = WorkerCode(
        main_module="main.py",
        modules={"main.py": source},
        env={"ECHO": echo},
        limits=LIMITS,
        streaming_tails=(lambda _: None,),
    )
    while not stop.is_set():
        name = f"abuser-{next(_numbers)}"
        entrypoint = loader.get(name, lambda: code).get_entrypoint()
        await entrypoint.greet("hello")
        worker = loader.warm(Key(name))
        if worker is None:
            continue
        used = worker.sandbox.cpu_seconds()
        await observer.watch(worker.sandbox.pid, "cpu", used + (LIMITS.cpu_ms or 0) / 1000)
        began = time.monotonic()
        ended_by_limit = False
        try:
            await entrypoint.abuse()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the figure
            ended_by_limit = isinstance(error, LimitExceeded | SandboxDied)
            fate.ends[f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:70]] += 1
        seen = asyncio.ensure_future(observer.seen())
        if ended_by_limit and not (await asyncio.wait({seen}, timeout=STILL_ALIVE_AFTER))[0]:
            fate.ends[f"… and was still alive {STILL_ALIVE_AFTER} s after its caller was told"] += 1
            ended_by_limit = False
        loader.evict(name)
        crossed, ended = await seen
        if ended_by_limit:
            fate.lasted.append((ended - began) * 1000)
            over = [moment for moment in (crossed, began + (LIMITS.wall_ms or 0) / 1000) if moment and moment < ended]
            fate.overshoot.extend((ended - moment) * 1000 for moment in sorted(over)[:1])


async def beside(loader: Loader, observer: Observer, body: str, seconds: float) -> tuple[Timing, Fate]:
    """The honest ones beside one kind of abuser."""
    fate, stop = Fate(), asyncio.Event()
    abusing = asyncio.create_task(abuse(loader, observer, body, fate, stop))
    timing = await time_honest(loader, seconds)
    stop.set()
    await asyncio.wait({abusing}, timeout=30)
    if not abusing.done():
        abusing.cancel()
        fate.ends["was not ended within 30 s"] += 1
        await asyncio.wait({abusing})
    elif error := abusing.exception():
        fate.ends[f"(the benchmark's own: {type(error).__name__}: {error})"[:90]] += 1
    return timing, fate


async def beside_a_spinner(loader: Loader, seconds: float) -> Timing:
    """The honest ones beside a process that nobody confines."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as spinner:
        timing = await time_honest(loader, seconds)
        spinner.kill()
    return timing


async def benchmark(*, seconds: int, plot: str | None) -> None:
    """Kind after kind, each with a look at the honest ones alone before it."""
    rows: list[list[str]] = []
    ratios: dict[str, float] = {}
    ends: list[str] = []

    def note(name: str, alone: Timing, timing: Timing, fate: Fate) -> None:
        before, during = percentile(alone.calls, 99), percentile(timing.calls, 99)
        ratios[name] = during / before
        lasted, over = fate.lasted, fate.overshoot
        rows.append([
            name, f"{before * 1000:.2f}", f"{during * 1000:.2f}", f"{during / before:.1f}",
            f"{percentile(timing.late, 99) * 1000:.1f}", str(sum(fate.ends.values())),
            f"{percentile(lasted, 50):,.0f}" if lasted else "",
            *((f"{percentile(over, 50):.1f}", f"{max(over):.1f}") if over else ("", "")),
        ])  # fmt: skip
        ends.extend(f"{name}: {count} x {words}" for words, count in fate.ends.most_common(3))

    observer = await Observer.open()
    async with Loader(spares=4) as loader:
        await time_honest(loader, 1)
        for name, body in ABUSERS.items():
            alone = await time_honest(loader, seconds)
            note(name, alone, *await beside(loader, observer, body, seconds))
        alone = await time_honest(loader, seconds)
        note(LIMIT, alone, await beside_a_spinner(loader, seconds), Fate())
    await observer.close()
    header = ["abuser", "p99 alone", "beside", "ratio", "late", "ended", "lasted", "overshoot", "at most"]
    title = (
        f"neighbours: calls to {HONEST} honest tenants beside one abuser with {LIMITS.cpu_ms} ms of CPU; in ms\n"
        "late: of the host in making those calls, p99; overshoot: from crossing its limit to its end"
    )
    listing(title, header, rows)
    for line in ends:
        say(line)
    draw(plot, lambda axes: paint(axes, ratios), title="p99 of honest tenants beside each abuser", size=(9, 4))


def paint(axes: Any, ratios: dict[str, float]) -> None:
    """A bar for each kind."""
    axes.barh(list(ratios)[::-1], list(ratios.values())[::-1])
    axes.axvline(1, color="k", linewidth=1)
    axes.axvline(2, color="k", linewidth=1, linestyle="--")
    axes.set_xlabel("p99 beside it / p99 alone")


if __name__ == "__main__":
    asked = options(__doc__, seconds=4)
    main(lambda: benchmark(seconds=asked.seconds, plot=asked.plot))
