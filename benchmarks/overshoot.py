"""How long an abuser lives on after it has crossed its limit, kind after kind, as a process of its own sees it.

Each kind is booted, let loose and ended, one after the other on a machine that does nothing else. `told` is when the
caller had the error. What is refused and not ended (a thread too many, memory beyond the fuse) goes on until its CPU
time is used up, and that is the limit that counts.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness import listing, main, options, say
from observer import Observer, Seen

from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Note
from cloister.loader import Limits, Loader, WorkerCode
from cloister.loader.loader import Key
from cloister.sandbox import Sandbox
from cloister.sandbox.intake import SECONDS_UNAWAITED, SHARE_UNAWAITED, UNAWAITED
from cloister.sandbox.watch import _A_LITTLE, _TIDYING

BAR_MS = 100
LIMITS = Limits(cpu_ms=300, wall_ms=1_000, memory_bytes=64 << 20)
_CPU, _WALL, _RATE = 0.3, 1.0, LIMITS.bytes_per_second
_KERNEL = int(Path("/proc/sys/net/core/wmem_default").read_text())
"""What the kernel keeps for a socket, all that it needs to keep it by included."""
_NOTE = "frame = zmtp.message(codec.encode(Note('log', values.dumps(['info', 'x' * {size}, 0, 0])))) * {times}"
_FLOOD = """
{note}
ready = select.poll()
ready.register(3, select.POLLOUT)
while True:
    left = memoryview(frame)
    while left:
        try:
            left = left[os.write(3, left):]
        except BlockingIOError:
            ready.poll()
"""
Watch = tuple[str, tuple[float | str, ...]]


def cpu(sandbox: Sandbox) -> Watch:
    """So much more CPU time than it has used."""
    return "cpu", (sandbox.cpu_seconds() + _CPU,)


def stray(sandbox: Sandbox) -> Watch:
    """The same for what goes on between calls, of which a little is not counted."""
    return "strayed", (sandbox.cpu_seconds() + _CPU + _TIDYING, _A_LITTLE)


def memory(sandbox: Sandbox) -> Watch:
    """All but a little of what it may have: the kernel grants no more than the limit."""
    group = sandbox._footprint._group
    if group is None:
        return cpu(sandbox)
    file = f"{group.folders[0]}/{'memory.usage_in_bytes' if group.version == 1 else 'memory.current'}"
    return "charged", (file, LIMITS.memory_bytes * 0.98)


def clock(_: Sandbox) -> Watch:
    """The time of the call, which is known without looking."""
    return "never", ()


def wire(size: int, _: Sandbox) -> Watch:
    """Bytes in a second that nobody waits for, where each message counts more than it takes. What waits in the kernel
    has not been sent: the host does not read it while it holds a sandbox back."""
    taken = len(zmtp.message(codec.encode(Note("log", values.dumps(["info", "x" * size, 0, 0])))))
    rate = _RATE / SHARE_UNAWAITED
    return "written", (rate, rate * SECONDS_UNAWAITED, (taken + UNAWAITED) / taken, _KERNEL)


def connection(_: Sandbox) -> Watch:
    """That it has its socket."""
    return "closed", (3,)


@dataclass(frozen=True)
class Abuser:
    """A program, and which limit it crosses."""

    name: str
    limit: str
    watch: Callable[[Sandbox], Watch]
    body: str


_CPU_LIMIT, _WALL_LIMIT = f"{LIMITS.cpu_ms} ms of CPU", f"{LIMITS.wall_ms:,} ms"
_WIRE_LIMIT, _MEMORY_LIMIT = f"{_RATE // SHARE_UNAWAITED >> 20} MiB/s unasked", f"{LIMITS.memory_bytes >> 20} MiB"
ABUSERS = (
    Abuser("spins in Python", _CPU_LIMIT, cpu, "while True: pass"),
    Abuser("spins in a pattern", _CPU_LIMIT, cpu, "re.match('(a+)+$', 'a' * 60 + 'b')"),
    Abuser("sums a long range", _CPU_LIMIT, cpu, "sum(range(10**12))"),
    Abuser("powers of huge numbers", _CPU_LIMIT, cpu, "pow(3**200_000, 3**200_000, 7**300_000)"),
    Abuser("spins, catching all", _CPU_LIMIT, cpu, """
        while True:
            try:
                while True: await asyncio.sleep(0)
            except BaseException: pass
    """),
    Abuser("ignores signals", _CPU_LIMIT, cpu, """
        for number in signal.valid_signals():
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True: pass
    """),
    Abuser("threads without end", _CPU_LIMIT, cpu, """
        def spin():
            while True: pass
        while True:
            try: threading.Thread(target=spin).start()
            except RuntimeError: pass
    """),
    Abuser("threads in C", _CPU_LIMIT, cpu, """
        def spin():
            while True: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10_000)
        while True:
            try: threading.Thread(target=spin).start()
            except RuntimeError: pass
    """),
    Abuser("spins after its answer", _CPU_LIMIT, stray, """
        def spin():
            while True: pass
        threading.Thread(target=spin).start()
    """),
    Abuser("spins a while after", _CPU_LIMIT, stray, """
        def spin():
            time.sleep(0.7)
            while True: pass
        threading.Thread(target=spin).start()
    """),
    Abuser("allocates, in pieces", _MEMORY_LIMIT, memory, """
        held = []
        while True: held.append(bytearray(os.urandom(1 << 16)))
    """),
    Abuser("allocates, catching all", _MEMORY_LIMIT, memory, """
        held = []
        while True:
            try: held.append(bytearray(os.urandom(1 << 12)))
            except MemoryError: pass
    """),
    Abuser("floods, 60 KiB each", _WIRE_LIMIT, functools.partial(wire, 60_000),
           _FLOOD.format(note=_NOTE.format(size=60_000, times=20))),
    Abuser("floods, 1 KiB each", _WIRE_LIMIT, functools.partial(wire, 1000),
           _FLOOD.format(note=_NOTE.format(size=1000, times=100))),
    Abuser("floods, small", _WIRE_LIMIT, functools.partial(wire, 1),
           _FLOOD.format(note=_NOTE.format(size=1, times=1000))),
    Abuser("stops itself, or tries", _WALL_LIMIT, clock, """
        for stop in (lambda: os.kill(os.getpid(), signal.SIGSTOP), lambda: signal.raise_signal(signal.SIGSTOP)):
            try: stop()
            except OSError: pass
        time.sleep(3600)
    """),
    Abuser("never answers", _WALL_LIMIT, clock, """
        while True:
            try: await asyncio.Event().wait()
            except BaseException: pass
    """),
    Abuser("sleeps in C", _WALL_LIMIT, clock, "time.sleep(3600)"),
    Abuser("answers when cancelled", _WALL_LIMIT, clock, "await asyncio.Event().wait()"),
    Abuser("closes its socket, spins", "its connection", connection, """
        os.close(3)
        while True: pass
    """),
    Abuser("closes its socket, sleeps", "its connection", connection, """
        os.close(3)
        time.sleep(3600)
    """),
)  # fmt: skip
PROGRAM = """
import asyncio, hashlib, os, re, select, signal, threading, time
from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Note
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return name

    async def abuse(self):
"""


@dataclass
class Fate:
    """What became of those of one kind: milliseconds after the limit was crossed."""

    ends: Counter[str] = field(default_factory=Counter)
    ended: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)


async def let_loose(loader: Loader, observer: Observer, abuser: Abuser, number: int, fate: Fate) -> None:
    """One of them, from its boot to its end, or until it is seen that it lives on."""
    source = PROGRAM + textwrap.indent(textwrap.dedent(abuser.body).strip(), " " * 8)
    code = WorkerCode(
        main_module="main.py", modules={"main.py": source}, limits=LIMITS, streaming_tails=(lambda _: None,)
    )  # fmt: skip
    name = f"{abuser.name} {number}"
    entrypoint = loader.get(name, lambda: code).get_entrypoint()
    await entrypoint.greet("hello")
    worker = loader.warm(Key(name))
    if worker is None:
        return
    kind, arguments = abuser.watch(worker.sandbox)
    await observer.watch(worker.sandbox.pid, kind, *arguments)
    began = time.monotonic()
    try:
        await entrypoint.abuse()
        words = "answered"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the figure
        words = f"{type(error).__name__}: {error}".partition("\n")[0]
    told = time.monotonic()
    seen = asyncio.ensure_future(observer.seen())
    await asyncio.wait({seen}, timeout=4)
    lives = not seen.done()
    loader.evict(name)
    crossed = began + _WALL if abuser.watch is clock else (await seen).crossed
    fate.ends[f"{words}{', and lived on' if lives else ''}"] += 1
    note(fate, crossed, told if words != "answered" else None, None if lives else await seen)
    await seen


def note(fate: Fate, crossed: float | None, told: float | None, seen: Seen | None) -> None:
    """Keep what was seen of one."""
    if crossed is None:
        return
    if seen is not None:
        fate.ended.append((seen.ended - crossed) * 1000)
    if told is not None:
        fate.told.append((told - crossed) * 1000)


def cells(samples: list[float]) -> tuple[str, str]:
    """The median and the highest."""
    return (f"{statistics.median(samples):.1f}", f"{max(samples):.1f}") if samples else ("", "")


async def benchmark(*, each: int) -> None:
    """So many of each kind."""
    rows, ends = [], []
    observer = await Observer.open()
    async with Loader(spares=4) as loader:
        for abuser in ABUSERS:
            fate = Fate()
            for number in range(each):
                await let_loose(loader, observer, abuser, number, fate)
            late = any(sample > BAR_MS for sample in (*fate.ended, *fate.told))
            rows.append([abuser.name, abuser.limit, *cells(fate.ended), *cells(fate.told), "over" if late else ""])
            ends += [f"{abuser.name}: {count} x {words[:110]}" for words, count in fate.ends.most_common(3)]
    await observer.close()
    listing(
        f"overshoot: milliseconds from crossing the limit to the end, {each} of each; the bar is {BAR_MS}",
        ["abuser", "limit", "ended p50", "at most", "told p50", "at most", ""],
        rows,
    )
    for line in ends:
        say(line)


if __name__ == "__main__":
    asked = options(__doc__, each=10)
    main(lambda: benchmark(each=asked.each))
