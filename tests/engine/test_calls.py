"""A host that dies at any system call by which it writes: the n-th write or sync of a life that is told beforehand, for
every n, and again at the m-th of the life after it.

A real process, stopped by the kernel before the call: a seccomp filter hands each to the process that watches it,
which lets it through or kills. So there is nothing between SQLite and the disk but the kernel, and no call of the
lock's, the log's or the database's is left out. What a process leaves in the kernel's care is not lost with it; what a
machine loses is for `test_torn`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import (
    Engine,
    InstanceAlreadyExists,
    InstanceFinished,
    WorkflowEntrypoint,
    promptness,
)
from cloister.engine.store import archive
from cloister.engine.testing import VirtualClock

MACHINE = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
CALLS = {
    "write": (1, 64), "pwrite64": (18, 68), "pwritev": (296, 70), "fsync": (74, 82), "fdatasync": (75, 83),
    "ftruncate": (77, 46), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276),
}  # fmt: skip
SECCOMP, PIDFD_GETFD = (317, 277)[MACHINE], 438
OUTPUT = ["first", "one", ["left", "right"], "two", "kept"]
NEVER = 1 << 30
PARTS = 4

# The life


class Story(WorkflowEntrypoint):
    """Steps side by side, events, a sleep and a retry; the env hears of each body and of each outcome."""

    async def run(self, event: Any, step: Any) -> list[Any]:
        said = [await self._step(step, "first"), (await step.wait_for_event("w", type="t")).payload]
        said.append(await asyncio.gather(self._step(step, "left"), self._step(step, "right")))
        await step.sleep("night", "8 hours")
        said.append((await step.wait_for_event("w", type="t")).payload)
        return [*said, await self._step(step, "kept")]

    async def _step(self, step: Any, name: str) -> Any:
        def body(ctx: Any) -> str:
            self.env("body", name)
            if name == "left" and ctx.attempt == 1:
                raise ValueError
            return name

        value = await step.do(name, {"retries": {"limit": 3, "delay": 0}}, body)
        self.env("recorded", name)
        return value


async def live(folder: Path) -> None:
    """From wherever the file stands to the end; whatever is acknowledged is in the ledger, and is not done again."""
    known = set(read_ledger(folder))
    ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(*what: Any) -> None:
        os.writev(ledger, [json.dumps(what).encode() + b"\n"])  # a call that is not watched

    clock = VirtualClock()
    async with Engine(folder / "app.db", clock=clock) as engine:
        workflow = engine.workflow("w", Story, env=tell)
        try:
            instance = await workflow.create(id="i")
            tell("created", "i")
        except InstanceAlreadyExists:
            instance = await workflow.get("i")
        for payload in ("one", "two"):
            if ("sent", payload) not in known:
                with contextlib.suppress(InstanceFinished):
                    await instance.send_event(type="t", payload=payload, id=payload)
                    tell("sent", payload)
        await clock.advance(9 * 3600)
        assert await instance.result() == OUTPUT
    tell("ended", "i")


def read_ledger(folder: Path) -> list[tuple[str, str]]:
    """What was told, in order."""
    ledger = folder / "ledger"
    return [tuple(json.loads(line)) for line in ledger.read_text().splitlines()] if ledger.exists() else []


Life = Callable[[Path], Coroutine[Any, Any, None]]

# Watching it

libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVS, SET_MODE_FILTER, NEW_LISTENER = 38, 1, 8
RECEIVE, SEND, CONTINUE = 0xC0502100, 0xC0182101, 1


def watch_me() -> int:
    """From now on this process asks before each of the calls; where the answers come from."""
    numbers = [number for each in CALLS.values() if (number := each[MACHINE]) is not None]
    code = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the number of the call
    for place, number in enumerate(numbers):
        code.append(struct.pack("HBBI", 0x15, len(numbers) - place, 0, number))  # this one: ask
    code += [struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("HBBI", 0x06, 0, 0, 0x7FC00000)]
    text = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(text)))
    assert libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    listener = int(libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, program))
    assert listener >= 0, os.strerror(ctypes.get_errno())
    return listener


async def open_only(folder: Path) -> None:
    """A file comes into being."""
    async with Engine(folder / "app.db"):
        pass


async def tend(folder: Path) -> None:
    """An operator makes the file small and a copy of it."""
    archive.vacuum(folder / "app.db")
    with contextlib.suppress(FileExistsError):
        archive.backup(folder / "app.db", folder / "copy.db")


def lead(folder: Path, last: int, life: Life = live) -> int:
    """Have a process live, and kill it at its call of this number; how many calls it came to."""
    ours, its = os.pipe()
    go, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.writev(its, [watch_me().to_bytes(4, "little")])
            os.read(go, 1)
            asyncio.run(life(folder))
            code = 0
        finally:
            os._exit(code)
    process = os.pidfd_open(pid)
    listener = int(libc.syscall(PIDFD_GETFD, process, int.from_bytes(os.read(ours, 4), "little"), 0))
    assert listener >= 0, os.strerror(ctypes.get_errno())
    os.write(ready, b"!")
    calls = _answer(listener, process, last)
    _, status = os.waitpid(pid, 0)
    for end in (ours, its, go, ready, process, listener):
        os.close(end)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed if calls == last else status == 0, f"it ended by itself, with {status}"
    return calls


def _answer(listener: int, process: int, last: int) -> int:
    calls = 0
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(process, select.POLLIN)
    while calls < last:
        if any(end == process for end, _ in poll.poll()):
            return calls
        question = bytearray(80)
        with contextlib.suppress(FileNotFoundError):  # whoever asked has gone
            fcntl.ioctl(listener, RECEIVE, question)
            calls += 1
            if calls == last:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return calls
            fcntl.ioctl(listener, SEND, question[:8] + struct.pack("qiI", 0, 0, CONTINUE))
    return calls


# The loop, in a process of its own that has no threads


def check(folder: Path) -> None:
    """What was acknowledged stayed so, each time."""
    told = read_ledger(folder)
    assert told[-1] == ("ended", "i"), told
    for place, (what, name) in enumerate(told):
        if what == "recorded":
            assert ("body", name) not in told[place:], f"step {name} ran again after its outcome was recorded: {told}"
        elif what == "created":
            assert (what, name) not in told[place + 1 :], f"the instance was lost: {told}"
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def every_death(folder: Path, begin: str, part: int, parts: int) -> dict[str, int]:
    """One part of all of them: of the first life at each of its calls; of the second at one, which is another each
    time; and the third one ends. What is new when it begins dies while it comes into being. The commits of odd parts
    are the loop's own.
    """
    promptness.PROOF = -(1 << 30) if part % 2 else 1 << 30  # type: ignore[misc]
    base, life = folder / "base", folder / "life"
    base.mkdir()
    new = lead(base, NEVER, open_only)

    def anew() -> Path:
        shutil.rmtree(life, ignore_errors=True)
        if begin == "new":
            life.mkdir()
        else:
            shutil.copytree(base, life)
        return life

    calls = new if begin == "new" else lead(anew(), NEVER)
    found = {"calls": calls, "first": 0, "second": 0}
    for first in range(1 + part, calls + 1, parts):
        found["first"] += lead(anew(), first) == first
        second = 1 + first * 7 % calls
        found["second"] += lead(life, second) == second
        lead(life, NEVER)
        check(life)
    return found


def every_death_of_an_operator(folder: Path, part: int, parts: int) -> dict[str, int]:
    """At each call by which a file is made small and copied; what is there under its name is whole."""
    base, life = folder / "base", folder / "life"
    base.mkdir()
    lead(base, NEVER)
    with contextlib.closing(sqlite3.connect(base / "app.db")) as database:
        told = sorted(database.iterdump())
        database.executescript("CREATE TABLE gone (text); INSERT INTO gone VALUES (zeroblob(100000)); DROP TABLE gone")
    shutil.copytree(base, life)
    calls, copies = lead(life, NEVER, tend), 0
    for last in range(1 + part, calls + 1, parts):
        shutil.rmtree(life)
        shutil.copytree(base, life)
        lead(life, last, tend)
        copies += (life / "copy.db").exists()
        lead(life, NEVER, tend)
        for name in ("app.db", "copy.db"):
            with contextlib.closing(sqlite3.connect(life / name)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert sorted(database.iterdump()) == told
    return {"calls": calls, "copies": copies}


def some(parts: set[int], *first: str) -> list[Any]:
    """All parts, of which these are enough for each time that the tests run."""
    marks = {part: () if part in parts else (pytest.mark.long,) for part in range(PARTS)}
    return [pytest.param(*first, part, marks=marks[part]) for part in range(PARTS)]


@pytest.mark.parametrize(("begin", "part"), [*some({0}, "new"), *some({0, 3}, "there")])
def test_a_host_may_die_at_any_write_or_sync_and_again_in_the_life_after_it(
    tmp_path: Path, begin: str, part: int
) -> None:
    """Whatever it had acknowledged holds, and the story comes to its end."""
    done = subprocess.run(
        [sys.executable, __file__, tmp_path, begin, str(part), str(PARTS)],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["first"] > 5
    assert found["second"] > 2


@pytest.mark.parametrize("part", some({1}))
def test_an_operator_may_be_stopped_at_any_write_sync_or_renaming(tmp_path: Path, part: int) -> None:
    """The database holds what it held, and a copy is whole or not there; the next one does it all."""
    done = subprocess.run(
        [sys.executable, __file__, tmp_path, "tend", str(part), str(PARTS)],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["calls"] > 20
    assert found["copies"] < found["calls"] / PARTS / 2


if __name__ == "__main__":
    where, begin, *parts = sys.argv[1:]
    part, count = map(int, parts)
    told = every_death_of_an_operator if begin == "tend" else functools.partial(every_death, begin=begin)
    print(json.dumps(told(Path(where), part=part, parts=count)))
