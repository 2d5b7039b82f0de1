"""How a sandbox ends: by its own doing, by a signal, by a limit; in words, for every call that was in flight."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.ipc import RemoteError, values
from cloister.sandbox import LimitExceeded, Limits, SandboxClosed, SandboxDied, Spawner
from cloister.sandbox.errors import ProtocolViolation
from cloister.sandbox.process import Process, Share

Boot = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]
RunOut = Callable[[Any], None]
MIB = 1 << 20
LEAVES_IN_A_TASK = """
import asyncio, sys
async def main():
    asyncio.ensure_future(leave())
    await asyncio.Event().wait()
async def leave():
    sys.exit(9)
"""
LEAVES_IN_A_THREAD = """
import os, threading
def main():
    threading.Thread(target=os._exit, args=(4,)).start()
    threading.Event().wait()
"""
SPINS_IN_THREADS = """
import threading
def spin():
    while True: pass
def main():
    for _ in range(3):
        threading.Thread(target=spin).start()
    spin()
"""
REFUSES_TO_STOP = """
import asyncio
async def main():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""
CLEANS_UP = """
import asyncio
async def main():
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up")
"""
RECORDS = """
import time
def spin():
    end = time.process_time() + 0.05
    while time.process_time() < end: pass
async def main():
    for _ in range(4):
        await env.RECORD()
        spin()
    return "done"
"""
FOREVER = "import asyncio\nasync def main():\n    await asyncio.Event().wait()"


async def start(tenant: Any, source: str, until: Until, **more: Any) -> asyncio.Future[Any]:
    """Begin a call, and wait until it is really going on."""
    call: asyncio.Future[Any] = asyncio.ensure_future(tenant.do("print('begun')\n" + source, **more))
    before = len(tenant.lines)
    await until(lambda: len(tenant.lines) > before or call.done())
    return call


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os\ndef main(): os._exit(3)", "exited with 3"),
        ("import os\ndef main(): os._exit(0)", "exited with 0"),
        ("import os\ndef main(): os._exit(70)", "exited with 70"),
        ("import ctypes\ndef main(): ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("import os\ndef main(): os.abort()", "was killed by SIG(SEGV|ABRT|ILL)"),
        (LEAVES_IN_A_TASK, "exited with 9"),
        (LEAVES_IN_A_THREAD, "exited with 4"),
    ],
    ids=["exit", "well", "by 70", "fault", "abort", "task", "thread"],
)
async def test_the_words_for_a_death(tenant: Any, source: str, words: str) -> None:
    """Exit codes by number and signals by name, in the call's error and in the sandbox's own account."""
    with pytest.raises(SandboxDied, match=f"^the sandbox {words}$"):
        await tenant.do(source)
    assert await tenant.sandbox.died in {words, *(f"was killed by SIG{name}" for name in ("SEGV", "ABRT", "ILL"))}
    assert not tenant.sandbox.alive
    assert tenant.sandbox.end[1] is SandboxDied


async def test_a_signal_from_outside(tenant: Any, until: Until) -> None:
    """Such as the operator's, or the kernel's."""
    call = await start(tenant, FOREVER, until)
    pidfd = os.pidfd_open(tenant.sandbox.pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    with pytest.raises(SandboxDied, match=r"^the sandbox was killed by SIGKILL$"):
        await call


async def test_every_call_in_flight_fails_with_the_same_words_and_so_does_every_later_one(
    tenant: Any, until: Until
) -> None:
    """None hangs."""
    calls = [await start(tenant, FOREVER, until) for _ in range(5)]
    with pytest.raises(SandboxDied, match="exited with 3"):
        await tenant.do("import os\ndef main(): os._exit(3)")
    for call in calls:
        with pytest.raises(SandboxDied, match=r"^the sandbox exited with 3$"):
            await call
    with pytest.raises(SandboxDied, match=r"^the sandbox exited with 3$"):
        await tenant.do("def main(): pass")


async def test_the_last_words_are_heard(boot: Boot) -> None:
    """What was printed before the end is not lost with it."""
    for _ in range(5):
        tenant = await boot()
        with pytest.raises(SandboxDied):
            await tenant.do("import os\ndef main():\n    for n in range(50): print(n)\n    os._exit(1)")
        assert [line.text for line in tenant.lines] == [str(n) for n in range(50)]


async def test_the_reason_of_the_host_stands(tenant: Any, until: Until) -> None:
    """A sandbox that is closed says why; the signal that ended it is no news."""
    call = await start(tenant, FOREVER, until)
    await tenant.sandbox.close("it was evicted")
    with pytest.raises(SandboxClosed, match=r"^it was evicted$"):
        await call
    assert await tenant.sandbox.died == "it was evicted"
    await tenant.sandbox.close("again")
    assert tenant.sandbox.end == ("it was evicted", SandboxClosed)
    assert tenant.sandbox.memory_bytes() == 0
    assert tenant.sandbox._process.cpu_seconds() == 0.0


# CPU


@pytest.mark.parametrize(
    "source",
    [
        "def main():\n    while True: pass",
        "async def main():\n    while True: pass",
        "def main(): return 3 ** 10_000_000 % 7",
        "import re\ndef main(): re.match('(a+)+$', 'a' * 40 + 'b')",
        SPINS_IN_THREADS,
        "def main():\n    try:\n        while True: pass\n    finally:\n        while True: pass",
        "import hashlib\ndef main(): hashlib.pbkdf2_hmac('sha512', b'x', b'y', 10**9)",
    ],
    ids=["python", "coroutine", "power", "regex", "threads", "stubborn", "without the lock"],
)
async def test_cpu_is_limited_from_outside(boot: Boot, source: str) -> None:
    """Whatever it is spent on: nothing inside has to notice."""
    tenant = await boot()
    with pytest.raises(LimitExceeded, match=r"^the sandbox exceeded 50 ms of CPU$"):
        await tenant.do(source, limits=Limits(cpu_ms=50))
    assert await tenant.sandbox.died == "exceeded 50 ms of CPU"
    assert tenant.sandbox.end[1] is LimitExceeded


async def test_code_that_loops_at_import_is_ended(boot: Boot) -> None:
    """The import is a call like any other, under the tenant's limits."""
    with pytest.raises(LimitExceeded, match="exceeded 50 ms of CPU"):
        await boot("while True: pass", limits=Limits(cpu_ms=50))
    with pytest.raises(LimitExceeded, match=r"did not stop within|exceeded 50 ms of time"):
        await boot("import time\ntime.sleep(100)", limits=Limits(wall_ms=50))


async def test_waiting_uses_no_cpu(tenant: Any) -> None:
    """Far more time than the limit may go by."""
    source = "import asyncio\nasync def main():\n    await asyncio.sleep(0.1)\n    return 'ok'"
    assert await tenant.do(source, limits=Limits(cpu_ms=50)) == "ok"


async def test_a_durable_call_is_forgiven_at_each_record(boot: Boot) -> None:
    """Its limit counts from one to the next."""
    restart: Callable[[], None]
    tenant = await boot(env={"RECORD": lambda: restart()})
    restart, call = tenant.sandbox.watched_call(
        "invoke", [None, "do", [RECORDS], {}, None], Limits(cpu_ms=120, wall_ms=None)
    )
    assert tenant.sandbox.decode(await call) == "done"


# Time


async def test_a_call_that_waits_too_long_is_cancelled_and_the_sandbox_lives(
    boot: Boot, until: Until, run_out: RunOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `finally` is run, other calls go on, and it answers the next one."""
    monkeypatch.setattr("cloister.sandbox.calls.LATE_GRACE", 100.0)  # on a busy machine nobody stops within 60 ms
    gate = asyncio.Event()
    tenant = await boot(env={"WAIT": gate.wait})
    waits = "async def main(): return await env.WAIT()"
    other = await start(tenant, waits, until, limits=Limits(wall_ms=None))
    call = await start(tenant, CLEANS_UP, until, limits=Limits(wall_ms=50_000))
    run_out(tenant)
    with pytest.raises(LimitExceeded, match=r"^the call exceeded 50,000 ms of time$"):
        await call
    await until(lambda: "stdout: cleaned up" in tenant.text)
    gate.set()
    assert await other is True
    assert tenant.sandbox.alive
    assert await tenant.do("def main(): return 'alive'") == "alive"


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef main(): time.sleep(1000)",
        "import threading\ndef main(): threading.Event().wait()",
        REFUSES_TO_STOP,
    ],
    ids=["sleep", "lock", "refuses"],
)
async def test_a_call_that_does_not_stop_costs_the_sandbox_its_life(
    boot: Boot, until: Until, run_out: RunOut, source: str
) -> None:
    """After a grace period; whoever else was in it is told."""
    tenant = await boot()
    other = await start(tenant, FOREVER, until, limits=Limits(wall_ms=None))
    call = await start(tenant, source, until, limits=Limits(wall_ms=50_000))
    run_out(tenant)
    with pytest.raises(LimitExceeded, match=r"^the call exceeded 50,000 ms of time$"):
        await call
    with pytest.raises(SandboxDied, match=r"^another call in it ended the sandbox: .* did not stop within 60 ms"):
        await other
    assert await tenant.sandbox.died == "did not stop within 60 ms of being cancelled"


async def test_a_caller_that_goes_away_cancels_the_call(tenant: Any, until: Until) -> None:
    """The same way, without an error for anybody."""
    call = await start(tenant, CLEANS_UP, until)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: "stdout: cleaned up" in tenant.text)
    assert tenant.sandbox.alive


async def test_a_limit_cannot_be_forged(tenant: Any) -> None:
    """What the tenant raises is the tenant's, by whatever name; with and without a limit on time."""
    source = "class {name}(Exception): pass\ndef main(): raise {name}('forged')"
    for name in ("DeadlineExceeded", "LimitExceeded", "SandboxDied", "TooManyCalls", "ConnectionClosed"):
        for limits in (Limits(), Limits(wall_ms=None)):
            with pytest.raises(RemoteError, match=f"^{name}: forged$"):
                await tenant.do(source.format(name=name), limits=limits)
    assert tenant.sandbox.alive


# Memory


async def test_too_large_an_object_is_a_memory_error(tenant: Any) -> None:
    """Told to the tenant, who may do with less."""
    with pytest.raises(RemoteError, match=r"^MemoryError"):
        await tenant.do("def main(): return len(bytearray(1 << 30))")
    assert await tenant.do("def main(): return len(bytearray(50 << 20))") == 50 * MIB


async def test_a_limit_on_memory_is_the_tenants_own(boot: Boot) -> None:
    """A smaller one is reached sooner, piece by piece, by whoever of error and kernel comes first; or there is not even
    enough left to say so."""
    tenant = await boot(limits=Limits(memory_bytes=32 * MIB))
    source = "def main():\n    kept = []\n    while True: kept.append(bytearray(1 << 20))"
    words = r"^MemoryError|^the sandbox (exceeded 32 MiB of memory|had no memory left to answer with; .* 32 MiB)$"
    with pytest.raises((RemoteError, LimitExceeded), match=words):
        await tenant.do(source)


async def test_the_kernel_ends_what_uses_more_than_its_group_may(boot: Boot, spawner: Spawner) -> None:
    """And the words say that it was for memory."""
    if spawner.layers["cgroups"] != "active":
        pytest.skip(f"cgroups: {spawner.layers['cgroups']}")
    tenant = await boot(limits=Limits(memory_bytes=64 * MIB))
    tenant.sandbox._footprint._group.limit(16 * MIB, 64)
    with pytest.raises(LimitExceeded, match=r"^the sandbox exceeded 64 MiB of memory$"):
        await tenant.do("def main():\n    kept = [bytes([1]) * (1 << 20) for _ in range(50)]\n    return len(kept)")
    assert await tenant.sandbox.died == "exceeded 64 MiB of memory"
    if tenant.sandbox._footprint._group.version == 1:
        assert tenant.sandbox._footprint._group._kills == 0, "the kernel would have said so on the console"
    after = await boot()
    assert await after.do("def main(): return len(bytearray(50 << 20))") == 50 * MIB


async def test_who_takes_small_pieces_and_catches_every_error_is_ended_for_its_memory(
    boot: Boot, spawner: Spawner
) -> None:
    """It crosses its limit before it is refused anything, and does not go on for as long as it has CPU time."""
    if spawner.layers["cgroups"] != "active":
        pytest.skip(f"cgroups: {spawner.layers['cgroups']}")
    source = """
    import os
    def main(size):
        kept, refused = [], 0
        while refused < 1000:
            try: kept.append(bytearray(os.urandom(size)))
            except MemoryError: refused += 1
    """
    for size in (1 << 12, 1 << 16):
        tenant = await boot(limits=Limits(memory_bytes=32 * MIB, cpu_ms=None))
        with pytest.raises(LimitExceeded, match=r"^the sandbox exceeded 32 MiB of memory$"):
            await tenant.do(source, size)


async def test_threads_are_bounded(boot: Boot, spawner: Spawner) -> None:
    """Starting one after the other comes to an error, and the sandbox lives."""
    if "active" not in (spawner.layers["cgroups"], spawner.layers["identity"]):
        pytest.skip("without a group and an id of its own, only its memory bounds the threads of a sandbox")
    tenant = await boot()
    source = """
    import threading
    def main():
        gate, started = threading.Event(), []
        threading.stack_size(65536)
        try:
            while len(started) < 1000:
                thread = threading.Thread(target=gate.wait)
                thread.start()
                started.append(thread)
        except (RuntimeError, MemoryError) as error:
            return type(error).__name__
        finally:
            gate.set()
            for thread in started:
                thread.join()
        return len(started)
    """
    assert await tenant.do(source) in {"RuntimeError", "MemoryError"}
    assert await tenant.do("def main(): return 'alive'") == "alive"


async def test_as_many_threads_as_the_limit_says_run_at_once(boot: Boot) -> None:
    """With stacks of the size that nobody has asked for, in the memory that nobody has asked for."""
    tenant = await boot()
    source = """
    import threading
    def main(count):
        all_there = threading.Barrier(count, timeout=100)
        threads = [threading.Thread(target=all_there.wait) for _ in range(count - 1)]
        for thread in threads:
            thread.start()
        all_there.wait()
        for thread in threads:
            thread.join()
        return count
    """
    assert await tenant.do(source, Limits().threads) == 32


@pytest.mark.parametrize(
    "dive",
    [
        "json.loads('[' * 100_000)",
        "repr(nested)",
        "list(map(deeper, [0]))",
        "compile('-' * 100_000 + '1', 'x', 'eval')",
        "copy.deepcopy(nested)",
    ],
)
async def test_recursion_in_a_thread_ends_in_an_error_of_pythons(boot: Boot, dive: str) -> None:
    """Its stack has room for as deep as the interpreter goes."""
    tenant = await boot()
    source = f"""
    import copy, json, threading
    nested = []
    for _ in range(100_000):
        nested = [nested]
    def deeper(_):
        return list(map(deeper, [0]))
    def main():
        told = []
        def go():
            try:
                {dive}
            except (RecursionError, MemoryError) as error:
                told.append(type(error).__name__)
        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
        return told
    """
    assert len(await tenant.do(source)) == 1


async def test_descriptors_are_bounded(tenant: Any) -> None:
    """An error for the tenant, who may close some."""
    source = """
    import os
    def main():
        kept = []
        try:
            while len(kept) < 1000:
                kept += os.pipe()
        except OSError as error:
            return [len(kept) < 64, error.strerror]
        finally:
            for each in kept:
                os.close(each)
    """
    assert await tenant.do(source) == [True, "Too many open files"]
    assert await tenant.do("def main(): return 'alive'") == "alive"


async def test_a_frame_that_is_never_finished_is_not_kept_for_ever(
    boot: Boot, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sandbox is ended when it has had its time, and told why."""
    source = """
    import gc, os
    from cloister.sandbox.guest.wire import Wire
    def main():
        [wire] = [found for found in gc.get_objects() if isinstance(found, Wire)]
        os.write(wire.descriptor, bytes([2]) + (1 << 20).to_bytes(8, "big") + b"\\1" + bytes(1000))
    """
    tenant = await boot()
    call = asyncio.ensure_future(tenant.do(source))
    await until(lambda: tenant.sandbox._link._reader.missing)
    tenant.sandbox.tend()
    assert tenant.sandbox.alive
    monkeypatch.setattr("cloister.sandbox.overdue.UNFINISHED", 0.0)
    tenant.sandbox.tend()
    with pytest.raises(ProtocolViolation, match="a frame that was not finished within 0 s"):
        await call


async def test_a_call_to_a_sandbox_that_was_just_killed_says_by_what(boot: Boot) -> None:
    """Though nobody had told of its death when the call was made."""
    for _ in range(5):
        tenant = await boot()
        tenant.sandbox._process.kill()
        with pytest.raises(SandboxDied, match="was killed by SIGKILL"):
            await tenant.do("def main(): return 1")


async def test_what_a_sandbox_does_not_read_is_not_kept_for_ever(
    boot: Boot, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the kernel keeps for it is kept for some minutes; then it is ended, and told why."""
    tenant = await boot()
    calls = [
        asyncio.ensure_future(tenant.do("import time\ndef main(text): time.sleep(60)", "x" * 300_000)) for _ in "123"
    ]
    await until(lambda: tenant.sandbox._link.unread_for() >= 0)
    tenant.sandbox.tend()
    assert tenant.sandbox.alive
    monkeypatch.setattr("cloister.sandbox.overdue.UNREAD", 0.0)
    tenant.sandbox.tend()
    for call in calls:
        with pytest.raises(ProtocolViolation, match="read nothing of what waits for it for 0 s"):
            await call


ASKS = """
import asyncio, time
async def main():
    asks = [asyncio.ensure_future(env.PAGE()) for _ in range(100)]
    await asyncio.sleep(0)
    time.sleep(60)
"""


async def test_who_asks_for_much_and_reads_nothing_holds_little_and_not_for_long(
    boot: Boot, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has asked for besides is not even made."""
    made = []

    def page() -> bytes:
        made.append(1)
        return bytes(4 << 20)

    tenant = await boot(env={"PAGE": page})
    call = asyncio.ensure_future(tenant.do(ASKS))
    await until(lambda: made)
    await asyncio.sleep(0)
    assert len(made) == 1
    assert tenant.sandbox._link.unread() < 5 << 20
    monkeypatch.setattr("cloister.sandbox.overdue.MUCH_UNREAD", 0.0)
    tenant.sandbox.tend()
    with pytest.raises(ProtocolViolation, match="read nothing of what waits for it for 0 s"):
        await call


async def test_who_reads_late_has_all_of_it(boot: Boot) -> None:
    """Nothing is lost by not having been listened to."""
    tenant = await boot(env={"PAGE": lambda: bytes(4 << 20)})
    source = """
    import asyncio, time
    async def main():
        asks = [asyncio.ensure_future(env.PAGE()) for _ in range(12)]
        await asyncio.sleep(0)
        time.sleep(0.2)
        return [len(await ask) for ask in asks]
    """
    assert await tenant.do(source) == [4 << 20] * 12


async def test_what_cannot_be_kept_is_not_even_encoded(boot: Boot, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand large answers that come at once must not keep the others waiting; who asked for them is told."""
    opened, asked = asyncio.Event(), []

    async def page() -> bytes:
        asked.append(1)
        await opened.wait()
        return bytes(4 << 20)

    tenant = await boot(env={"PAGE": page})
    source = """
    import asyncio
    async def main():
        pages = await asyncio.gather(*(env.PAGE() for _ in range(100)), return_exceptions=True)
        await env.PAGE()
        return sorted({str(page) for page in pages if isinstance(page, Exception)}), len(pages)
    """
    call = asyncio.ensure_future(tenant.do(source))
    await until(lambda: len(asked) == 100)
    encoded: list[bool] = []
    encode = values.dumps

    def noted(value: object, **options: Any) -> bytes:
        data = encode(value, **options)
        encoded.append(len(data) > 1 << 20)
        return data

    monkeypatch.setattr(values, "dumps", noted)
    opened.set()
    assert await call == [["the sandbox does not read: its queue is full"], 100]
    assert 1 < sum(encoded) < 10


async def test_what_was_said_before_a_death_and_read_after_it_counts(spawner: Spawner, until: Any) -> None:
    """Its call may have had effects, so nobody may take the sandbox for one that was never used."""
    effects: list[Any] = []
    sandbox = await spawner.take()
    link: Any = sandbox._link
    link.hold(3600)
    source = "import time\nfrom workers import env\nfor _ in range(9): print('begun')\ntime.sleep(60)"
    sandbox.tail.listener = effects.append
    call = asyncio.ensure_future(sandbox.boot("main.py", {"main.py": ("py", source)}, {}, Limits()))
    await until(lambda: select.select([link._descriptor], [], [], 0)[0])
    sandbox._process.kill()
    with pytest.raises(SandboxDied, match="was killed by SIGKILL") as caught:
        await call
    assert effects
    assert type(caught.value) is SandboxDied


class Later:
    """The loop of a sandbox, where time passes when a test says so."""

    def __init__(self, sandbox: Any) -> None:
        self._due: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        sandbox._calls._loop = self

    def call_later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        self._due.append((seconds, what, arguments))

    def pass_time(self) -> float:
        """Until the first that is due; how many seconds that was to take."""
        seconds, what, arguments = self._due.pop(0)
        what(*arguments)
        return seconds


def listen_to(link: Any) -> None:
    """The time is over for which it is held."""
    link._held.cancel()
    link._held_until = 0.0
    link._let_go()


async def test_who_is_held_is_not_ended_for_an_answer_that_nobody_reads(
    boot: Boot, until: Until, run_out: RunOut
) -> None:
    """It has stopped when it was told to; its word of that is read when it is listened to again."""
    tenant = await boot()
    sandbox, link, later = tenant.sandbox, tenant.sandbox._link, Later(tenant.sandbox)
    call = await start(tenant, FOREVER, until, limits=Limits(wall_ms=50_000))
    link.hold(3600)
    run_out(tenant)
    with pytest.raises(LimitExceeded, match="exceeded 50,000 ms of time"):
        await call
    await until(lambda: select.select([link._descriptor], [], [], 0)[0])
    assert later.pass_time() == 0.06
    assert sandbox.doubtful
    listen_to(link)
    await until(lambda: not sandbox._peer.connection.cancelled)
    assert later.pass_time() > 3000
    assert not sandbox.doubtful
    assert sandbox.alive
    assert await tenant.do("def main(): return 1") == 1


async def test_nor_is_who_does_not_stop_spared_for_being_held(boot: Boot, until: Until, run_out: RunOut) -> None:
    """It has as long as anybody, from when it is listened to."""
    tenant = await boot()
    later = Later(tenant.sandbox)
    call = await start(tenant, "import time\ndef main(): time.sleep(60)", until, limits=Limits(wall_ms=50_000))
    tenant.sandbox._link.hold(3600)
    run_out(tenant)
    with pytest.raises(LimitExceeded):
        await call
    assert later.pass_time() == 0.06
    assert tenant.sandbox.alive
    assert later.pass_time() > 3000
    assert (await tenant.sandbox.died).startswith("did not stop within 60 ms of being cancelled")


@pytest.mark.parametrize(
    ("shares", "times"),
    [
        ([Share(1, 5, False), Share(1, 5, False)], [0.06]),
        ([Share(1, 5, False), Share(1.001, 5.003, False)], [0.06]),
        ([Share(1, 5, True), Share(1.06, 5, True)], [0.06]),
        ([Share(1, 5, False), Share(1, 5, True), *[Share(1.01, 5.11, False)] * 2], [0.06, 0.06, 0.11]),
        ([Share(1, 5, False), Share(1, 5.04, False), Share(1, 5.05, False), Share(1, 5.05, False)], [0.06, 0.04, 0.01]),
        ([Share(1, 5, True), Share(1.02, 5.04, True), Share(1.06, 5.04, True)], [0.06, 0.04]),
        ([Share(1, 5, True), Share(1, 95, True), Share(1, 95, True)], [0.06, 1.8]),
        ([Share(1, 5, True, 2), Share(1.01, 5.05, True, 2.11)], [0.06]),
        ([Share(1, 5, True, 2), Share(1, 5.06, True, 2.02), Share(1, 5.06, True, 2.1)], [0.06, 0.04]),
    ],
    ids=["asleep", "nearly", "computes", "starved", "twice", "between", "at most", "its own threads", "a thread"],
)  # fmt: skip
async def test_who_is_to_stop_is_given_back_what_others_had_of_the_machine(
    boot: Boot, until: Until, run_out: RunOut, shares: list[Share], times: list[float]
) -> None:
    """It has its moment of a core that it could have, or asleep; and not for ever, whatever it is that keeps it."""
    tenant = await boot()
    later = Later(tenant.sandbox)
    call = await start(tenant, REFUSES_TO_STOP, until, limits=Limits(wall_ms=50_000))
    said = iter(shares)
    tenant.sandbox._calls._share = lambda: next(said)
    run_out(tenant)
    with pytest.raises(LimitExceeded):
        await call
    for passed in times:
        assert tenant.sandbox.alive
        assert later.pass_time() == pytest.approx(passed)
    assert (await tenant.sandbox.died).startswith("did not stop within 60 ms of being cancelled")


async def test_what_a_process_lacks_is_what_the_kernel_says(boot: Boot, until: Until) -> None:
    """One that computes wants a core; of one that has ended there is nothing."""
    tenant = await boot()
    share = tenant.sandbox._process.share
    before = share()
    assert before.had > 0
    unlimited = Limits(cpu_ms=None, wall_ms=None)  # or it might end between two of the kernel's words
    call = asyncio.ensure_future(tenant.do("def main():\n    while True: pass", limits=unlimited))
    await until(lambda: share().had > before.had + 0.05)
    assert share().wants
    tenant.sandbox._process.kill()
    with pytest.raises(SandboxDied, match="was killed by SIGKILL"):
        await call
    await tenant.sandbox.died
    assert share() == Share(0, 0, False)


async def test_who_was_killed_is_not_blamed_where_word_of_it_comes_late(
    boot: Boot, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine its connection has long been gone by then, which is else its tenant's doing."""
    tenant = await boot()
    ending, late = tenant.sandbox._ending, list[int]()
    reap = ending.reap
    monkeypatch.setattr(ending, "reap", late.append)
    call = asyncio.ensure_future(tenant.do("import asyncio\nasync def main(): await asyncio.Event().wait()"))
    await until(lambda: tenant.sandbox.busy)
    tenant.sandbox._process.kill()
    await until(lambda: late and ending.cut_off)
    ending._conclude()
    reap(*late)
    with pytest.raises(SandboxDied, match="was killed by SIGKILL"):
        await call


LEAVES_THREADS_BEHIND = """
import ctypes, platform, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""


def begun(script: str) -> subprocess.Popen[bytes]:
    """A process of the test's own, which nobody but the test reaps."""
    return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def state(child: subprocess.Popen[bytes]) -> bytes:
    """That of its first thread."""
    return Path(f"/proc/{child.pid}/stat").read_bytes().rpartition(b") ")[2][:1]


async def test_who_is_on_the_way_out_is_over_before_the_kernel_says_so(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all its threads, and not as long as one of them goes on."""
    monkeypatch.setattr(Process, "alive", lambda _: True)
    with begun(LEAVES_THREADS_BEHIND) as child:
        process = Process(os.pidfd_open(child.pid))
        try:
            assert not process.is_over()
            await until(lambda: state(child) == b"Z")
            assert not process.is_over()
        finally:
            child.kill()
        await until(lambda: process.threads() == 1)
        assert process.is_over()
        process.close()


@pytest.mark.parametrize("where", ["wire._reader.alone", "wire._reader.feed", "asyncio.get_running_loop()._run_once"])
async def test_who_has_no_memory_to_go_on_with_ends_and_says_so(boot: Boot, where: str) -> None:
    """Whatever was read, or was to be done next, would be missing in the midst of the rest."""
    tenant = await boot()
    source = f"""
    import asyncio, gc
    from cloister.sandbox.guest.wire import Wire
    async def main():
        [wire] = [found for found in gc.get_objects() if isinstance(found, Wire)]
        def fail(*_): raise MemoryError
        {where} = fail
        await asyncio.sleep(0)
    """

    async def go_on() -> None:
        await tenant.do(source)
        await tenant.do(f"def main(): return {'1' * 300!r}")  # a message that is not short

    with pytest.raises(LimitExceeded, match="had no memory left to answer with"):
        await go_on()
