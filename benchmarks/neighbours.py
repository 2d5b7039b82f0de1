"""What honest tenants notice of an abuser beside them, and how long one lasts after it has crossed its limit.

Each kind of abuser is booted, let loose, ended by its limits, and booted again as soon as that may be, for as long as
the honest tenants are timed: once as one tenant that has itself called again and again, and once as a tenant that was
never seen before each time, of whom nothing is known. In each round they are timed alone, beside a bare process that
spins, beside the one and the other abuser, and alone again. What they are beside somebody is held against what they are
alone in the same round, and a ratio is the median over the rounds: what else the machine does comes and goes. The bare
process is the limit: no sandbox can take less of a core than it is given.

When an abuser crosses its limit of CPU time is seen by a process of its own, which looks every half millisecond and
hears from the kernel of its end; what the host believes does not come into it.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from abusers import ABUSERS, program
from harness import ROUNDS, draw, listing, main, options, percentile, say, tenant
from observer import Observer

from cloister.loader import Entrypoint, Limits, Loader, RestartBackedOff, SandboxDied, WorkerCode
from cloister.loader.loader import Key
from cloister.sandbox import Sandbox

HONEST = 4
STILL_ALIVE_AFTER = 3.0
PERIOD = 0.005  # seconds between two calls to one of them
LIMITS = Limits(cpu_ms=300, wall_ms=1_500, memory_bytes=64 << 20)

_numbers = itertools.count()


@dataclass
class Fate:
    """What became of the abusers of one kind. Times are in milliseconds."""

    ends: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Calls that were told to come again later."""
    lasted: list[float] = field(default_factory=list)
    overshoot: list[float] = field(default_factory=list)

    def add(self, other: Fate) -> None:
        """Those of another round."""
        self.ends += other.ends
        self.refused += other.refused
        self.lasted += other.lasted
        self.overshoot += other.overshoot


@dataclass(frozen=True)
class Timing:
    """What the honest tenants saw: seconds that calls took, and seconds by which the host was late to make them."""

    calls: list[float]
    late: list[float]

    @property
    def p99(self) -> float:
        """Of the calls."""
        return percentile(self.calls, 99)


@dataclass(frozen=True)
class Round:
    """What they saw in one round: alone before and after, and in between beside a bare spinner and beside abusers."""

    before: Timing
    spinner: Timing
    beside: Timing
    after: Timing

    @property
    def alone(self) -> float:
        """Their p99 in seconds when they were alone, be it before or after."""
        return statistics.mean((self.before.p99, self.after.p99))


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


class Abuse:
    """One abuser after the other, as long as the honest ones are timed, and what became of them."""

    def __init__(self, loader: Loader, observer: Observer, body: str, *, strangers: bool) -> None:
        self._loader, self._observer, self._strangers = loader, observer, strangers
        self._code = WorkerCode(
            main_module="main.py",
            modules={"main.py": program(body)},
            env={"ECHO": echo},
            limits=LIMITS,
            streaming_tails=(lambda _: None,),
        )
        self._name = f"abuser-{next(_numbers)}"
        self.fate = Fate()
        self.over = False

    async def go_on(self) -> None:
        """Boot one, let it loose, and when it has been ended boot it again, as soon as that may be."""
        while not self.over:
            if self._strangers:
                self._name = f"abuser-{next(_numbers)}"
            entrypoint = self._loader.get(self._name, lambda: self._code).get_entrypoint()
            try:
                await entrypoint.greet("hello")
            except RestartBackedOff:
                self.fate.refused += 1
                await asyncio.sleep(PERIOD)
                continue
            except SandboxDied:  # of what its last call has left behind
                continue
            worker = self._loader.warm(Key(self._name))
            if worker is not None:
                await self._live(entrypoint, worker.sandbox)
        self._loader.evict(self._name)

    async def _live(self, entrypoint: Entrypoint, sandbox: Sandbox) -> None:
        """From its first call to its end."""
        fate = self.fate
        await self._observer.watch(sandbox.pid, "cpu", sandbox.cpu_seconds() + (LIMITS.cpu_ms or 0) / 1000)
        seen = asyncio.ensure_future(self._observer.seen())
        began = time.monotonic()
        calls = 0
        while sandbox.alive and not self.over:
            began = time.monotonic()
            calls += 1
            try:
                await entrypoint.abuse()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the figure
                fate.ends[f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:70]] += 1
            if self._strangers:
                break
        by_itself = not sandbox.alive
        if by_itself and not (await asyncio.wait({seen}, timeout=STILL_ALIVE_AFTER))[0]:
            fate.ends[f"… and was still alive {STILL_ALIVE_AFTER} s after its caller was told"] += 1
            by_itself = False
        if not by_itself:
            self._loader.evict(self._name)
        crossed, ended = await seen
        if by_itself:
            fate.lasted.append((ended - began) * 1000)
            if calls > 1:  # it ended one by itself, and the limit is the next one's own
                crossed = None
            over = [moment for moment in (crossed, began + (LIMITS.wall_ms or 0) / 1000) if moment and moment < ended]
            fate.overshoot.extend((ended - moment) * 1000 for moment in sorted(over)[:1])


async def beside(
    loader: Loader, observer: Observer, body: str, seconds: float, *, strangers: bool
) -> tuple[Timing, Fate]:
    """The honest ones beside one kind of abuser."""
    abuse = Abuse(loader, observer, body, strangers=strangers)
    abusing = asyncio.create_task(abuse.go_on())
    timing = await time_honest(loader, seconds)
    abuse.over = True
    await asyncio.wait({abusing}, timeout=30)
    if not abusing.done():
        abusing.cancel()
        abuse.fate.ends["was not ended within 30 s"] += 1
        await asyncio.wait({abusing})
    elif error := abusing.exception():
        abuse.fate.ends[f"(the benchmark's own: {type(error).__name__}: {error})"[:90]] += 1
    return timing, abuse.fate


async def beside_a_spinner(loader: Loader, seconds: float) -> Timing:
    """The honest ones beside a process that nobody confines."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as spinner:
        timing = await time_honest(loader, seconds)
        spinner.kill()
    return timing


class Report:
    """A line for each kind."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[list[str]] = []
        self._ends: list[str] = []
        self.ratios: dict[str, float] = {}
        self.limits: dict[str, float] = {}

    def note(self, name: str, rounds: list[Round], fate: Fate) -> None:
        """One more kind."""
        ratios = [each.beside.p99 / each.alone for each in rounds]
        limits = [each.spinner.p99 / each.alone for each in rounds]
        self.ratios[name] = statistics.median(ratios)
        self.limits[name] = statistics.median(limits)
        lasted, over = fate.lasted, fate.overshoot
        self._rows.append([
            name, f"{statistics.median(each.alone for each in rounds) * 1000:.2f}",
            f"{statistics.median(each.beside.p99 for each in rounds) * 1000:.2f}",
            f"{self.ratios[name]:.1f}", f"{min(ratios):.1f}-{max(ratios):.1f}", f"{self.limits[name]:.1f}",
            f"{statistics.median(percentile(each.beside.late, 99) for each in rounds) * 1000:.1f}",
            str(len(lasted)), str(fate.refused), f"{percentile(lasted, 50):,.0f}" if lasted else "",
            *((f"{percentile(over, 50):.1f}", f"{max(over):.1f}") if over else ("", "")),
        ])  # fmt: skip
        self._ends.extend(f"{name}: {count} x {words}" for words, count in fate.ends.most_common(3))

    def show(self) -> None:
        """Print it."""
        header = ["abuser", "alone", "beside", "ratio", "range", "limit", "late", "ended", "refused", "lasted", "over",
                  "most"]  # fmt: skip
        title = (
            f"neighbours: p99 of calls to {HONEST} honest tenants beside {self._title} with {LIMITS.cpu_ms} ms of CPU\n"
            f"in ms; ratio: median of {ROUNDS} rounds; limit: the same beside a bare process that spins\n"
            "late: of the host in making those calls, p99; over, most: from crossing its limit to its end"
        )
        listing(title, header, self._rows)
        for line in self._ends:
            say(line)


async def rounds_beside(
    loader: Loader, observer: Observer, body: str, seconds: float
) -> dict[bool, tuple[list[Round], Fate]]:
    """Beside one kind, as one tenant and as many strangers."""
    found: dict[bool, tuple[list[Round], Fate]] = {strangers: ([], Fate()) for strangers in (False, True)}
    for _ in range(ROUNDS):
        before = await time_honest(loader, seconds)
        spinner = await beside_a_spinner(loader, seconds)
        timings = {}
        for strangers, (_, fates) in found.items():
            timings[strangers], fate = await beside(loader, observer, body, seconds, strangers=strangers)
            fates.add(fate)
        after = await time_honest(loader, seconds)
        for strangers, (rounds, _) in found.items():
            rounds.append(Round(before, spinner, timings[strangers], after))
    return found


async def benchmark(*, seconds: int, only: Collection[str], plot: str | None) -> None:
    """Kind after kind."""
    reports = {False: Report("one abuser"), True: Report("abusers that were never seen before")}
    observer = await Observer.open()
    async with Loader(spares=4) as loader:
        await time_honest(loader, 1)
        for name in [name for name in ABUSERS if name in only]:
            for strangers, found in (await rounds_beside(loader, observer, ABUSERS[name], seconds)).items():
                reports[strangers].note(name, *found)
    await observer.close()
    for report in reports.values():
        report.show()
    draw(plot, lambda axes: paint(axes, reports), title="p99 of honest tenants beside each abuser", size=(9, 5))


def paint(axes: Any, reports: dict[bool, Report]) -> None:
    """Two bars for each kind."""
    names = list(reports[False].ratios)[::-1]
    for strangers, report in reports.items():
        found = [report.ratios.get(name, 0.0) for name in names]
        label = "always another tenant" if strangers else "one tenant"
        axes.barh([place + 0.2 - 0.4 * strangers for place in range(len(names))], found, height=0.4, label=label)
    limits = [reports[False].limits[name] for name in names]
    axes.plot(limits, range(len(names)), "k|", markersize=12, label="a bare spinner")
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1, color="k", linewidth=1)
    axes.axvline(2, color="k", linewidth=1, linestyle="--")
    axes.set_xlabel("p99 beside it / p99 alone")
    axes.legend()


if __name__ == "__main__":
    asked = options(__doc__, drawn=True, rows=ABUSERS, seconds=2)
    main(lambda: benchmark(seconds=asked.seconds, only=asked.only, plot=asked.plot))
