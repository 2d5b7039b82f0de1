"""What a tenant may use, crossed from inside: a typed error, an end within a moment, and neighbours notice nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import RemoteError
from cloister.sandbox import LimitExceeded, Limits, LogLine, SandboxDied
from cloister.sandbox.meter import Meter
from cloister.sandbox.tail import LINE_LENGTH, LINES_PER_SECOND, Tail
from cloister.sandbox.watch import Account

Boot = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]
MIB = 1 << 20

WIRE = """
import os, select
from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Call, Cancel, Note, Release

def write(data, descriptor=3):
    data, poll = memoryview(data), select.poll()
    poll.register(descriptor, select.POLLOUT)
    while data:
        try:
            data = data[os.write(descriptor, data):]
        except BlockingIOError:
            poll.poll()
"""


# Pure


def test_a_meter_gives_what_comes_in_a_second_and_no_more() -> None:
    """It is full at first, fills as time passes, and never holds more than a second's worth."""
    now = [0.0]
    meter = Meter(100, lambda: now[0])
    assert [meter.take(60), meter.take(60), meter.take(40)] == [True, False, True]
    now[0] = 0.5
    assert [meter.take(51), meter.take(50), meter.take(1)] == [False, True, False]
    now[0] = 1000.0
    assert [meter.take(100), meter.take(1)] == [True, False]
    now[0] = 2000.0
    assert (meter.refill(), meter.take(100), meter.take(1)) == (100, True, False), "a rest is no credit"
    meter.reset(5)
    assert [meter.take(6), meter.take(5)] == [False, True]


def test_lines_are_taken_at_a_rate_and_what_is_dropped_is_told() -> None:
    """By number and by bytes; the next line that is taken is preceded by how many were not."""
    now = [0.0]
    heard: list[LogLine] = []
    tail = Tail(1 << 30, lambda: now[0])
    tail.listener = heard.append
    for n in range(LINES_PER_SECOND + 7):
        tail.hear("stdout", f"line {n}", 1, 2)
    assert (len(heard), tail.dropped) == (LINES_PER_SECOND, 7)
    now[0] = 1.0
    tail.hear("stdout", "again", 1, 2)
    assert [line.text for line in heard[LINES_PER_SECOND:]] == [
        "7 lines came faster than they are taken, and were dropped",
        "again",
    ]
    tail.bound(2000)
    for _ in range(3):
        tail.hear("stdout", "é" * 500, 1, 2)
    assert (len(heard), tail.dropped) == (LINES_PER_SECOND + 4, 8)


def test_what_is_dropped_of_a_flood_is_told_now_and_then() -> None:
    """And not before each line that is taken, which would be two for one."""
    now = [0.0]
    heard: list[LogLine] = []
    tail = Tail(1 << 30, lambda: now[0])
    tail.listener = heard.append
    for _ in range(5 * LINES_PER_SECOND):
        now[0] += 0.4 / LINES_PER_SECOND
        tail.hear("stdout", "x", 1, 2)
    assert sum(line.level == "warning" for line in heard) <= 40
    assert len(heard) == pytest.approx(3 * LINES_PER_SECOND, rel=0.05)


def test_a_line_may_be_refused_before_it_is_read() -> None:
    """Asked first or not, each line counts once."""
    heard: list[LogLine] = []
    tail = Tail(1 << 30, lambda: 0.0)
    tail.listener = heard.append
    for n in range(LINES_PER_SECOND):
        assert n % 2 or tail.admit()
        tail.hear("stdout", "x", 1, 2)
    assert not tail.admit()
    tail.hear("stdout", "x", 1, 2)
    assert (len(heard), tail.dropped) == (LINES_PER_SECOND, 2)


async def test_lines_that_are_dropped_are_not_read(boot: Boot, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is taken costs the host more than a look, and the tenant goes on."""
    tenant = await boot()
    read: list[str] = []
    hear = tenant.sandbox._peer._on_note

    def watched(topic: str, payload: bytes) -> None:
        read.append(topic)
        hear(topic, payload)

    monkeypatch.setattr(tenant.sandbox._peer, "_on_note", watched)
    monkeypatch.setattr(tenant.sandbox.tail._lines, "rate", 0.0)
    monkeypatch.setattr(tenant.sandbox.tail._lines, "_left", 5.0)
    await tenant.do("def main():\n    for n in range(50): print(n)")
    await until(lambda: tenant.sandbox.tail.dropped == 45)
    assert len(read) == 5


def test_a_line_is_cut_and_cannot_steer_a_terminal() -> None:
    """Whatever it is made of: controls, and marks that turn the direction of writing."""
    heard: list[LogLine] = []
    tail = Tail(1 << 20, lambda: 0.0)
    tail.listener = heard.append
    tail.hear("error", "a\x1b[2J\r\tb\u202ec" + "x" * 20_000, 1, 2)
    assert heard[0].text.startswith("a\\x1b[2J\\x0d\tb\\x202ec")
    assert (heard[0].level, heard[0].text.count("x") < LINE_LENGTH) == ("error", True)


def test_calls_to_the_host_are_shared_among_the_invocations_that_may_have_made_them() -> None:
    """Each pays its part; only when all have used up theirs is one refused; a record forgives them."""
    watch = Account(lambda: 0.0, lambda: 0.0, lambda *_: None)  # type: ignore[arg-type]
    assert watch.ask()
    one = watch.begin(None, lambda: None, 3)
    assert [watch.ask() for _ in range(4)] == [True, True, True, False]
    two = watch.begin(None, lambda: None, 2)
    assert [watch.ask() for _ in range(5)] == [True, True, True, True, False]
    watch.restart(one)
    assert watch.ask()
    watch.end(one)
    watch.end(two)
    assert watch.ask()


# In a real sandbox


async def test_subrequests_are_an_error_in_the_tenants_code(boot: Boot) -> None:
    """The invocation that makes too many is told; it can go on, and the next one has its own."""
    tenant = await boot(env={"ADD": lambda number: number + 1})
    source = """
    async def main(count):
        told = []
        for number in range(count):
            try:
                await env.ADD(number)
            except Exception as error:
                told.append(f"{type(error).__name__} {error}")
        return told
    """
    limits = Limits(subrequests=5)
    assert await tenant.do(source, 5, limits=limits) == []
    told = await tenant.do(source, 7, limits=limits)
    assert len(told) == 2
    assert "more calls to the host than its limit of subrequests" in told[0]
    assert await tenant.do(source, 5, limits=limits) == []


async def test_calls_in_flight_are_bounded_on_both_sides(boot: Boot) -> None:
    """The tenant's code is told by its own end; one that goes around it is ended by the other."""
    gate = asyncio.Event()
    limits = Limits(calls_in_flight=4)
    source = """
    import asyncio
    async def main():
        calls = [asyncio.ensure_future(env.WAIT()) for _ in range(6)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        return sorted(type(call.exception()).__name__ for call in done)
    """
    tenant = await boot(env={"WAIT": gate.wait}, limits=limits)
    assert set(await tenant.do(source)) == {"TooManyCalls"}
    hostile = await boot(env={"WAIT": gate.wait}, limits=limits)
    body = """
def main():
    nothing = values.dumps([[], {}])
    write(b"".join(zmtp.message(codec.encode(Call(n, env.WAIT._target, "", nothing))) for n in range(9, 90)))"""
    with pytest.raises(Exception, match="more than 4 calls in flight"):
        await hostile.do(WIRE + body + "\n    import time; time.sleep(60)")
    gate.set()


async def test_arguments_of_calls_that_wait_are_bounded(boot: Boot) -> None:
    """However many may be in flight: together they hold no more of the host's memory than is set aside for them."""
    gate = asyncio.Event()

    async def hold(_: bytes) -> None:
        await gate.wait()

    tenant = await boot(env={"HOLD": hold}, limits=Limits(bytes_per_second=1 << 30, memory_bytes=512 * MIB))
    source = """
    import asyncio
    async def main():
        piece = bytes(10_000_000)
        calls = [asyncio.ensure_future(env.HOLD(piece)) for _ in range(9)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        return [f"{type(call.exception()).__name__} {call.exception()}" for call in done]
    """
    told = await tenant.do(source)
    assert told
    assert all("hold more than 64 MiB" in each for each in told)
    gate.set()


def at_once(tenant: Any) -> None:
    """All that it sends unasked comes in the same moment, by the clock that it is counted by: on a machine that is too
    busy to write or to read it, it would be no flood."""
    meter = tenant.sandbox._hearing.intake._unawaited
    now = meter._now()
    meter._now = lambda: now


@pytest.mark.parametrize(
    "flood",
    [
        "zmtp.message(codec.encode(Note('log', values.dumps(['info', 'x' * 8000, 1, 1])))) * 100",
        "zmtp.message(codec.encode(Note('log', values.dumps(['info', 'x', 1, 1])))) * 100",
        "b'\\x04\\x07\\x04PING\\x00\\x00' * 1000",
        "b'\\x02' + (16_000_000).to_bytes(8, 'big') + bytes(16_000_000)",
        "b'\\x02' + (16_000_000).to_bytes(8, 'big') + b'\\x06' * 1000",
        "b'\\x04\\x05\\x04NOPE' * 1000",
    ],
    ids=["large notes", "small notes", "pings", "large garbage", "the head of a large note", "commands"],
)
async def test_a_flood_ends_the_sandbox_and_nobody_else_waits_for_it(boot: Boot, flood: str) -> None:
    """Of whatever it is made; a neighbour is answered all the while, and the host holds next to nothing of it."""
    neighbour, hostile = await boot(), await boot(limits=Limits(bytes_per_second=4 * MIB))
    at_once(hostile)
    body = f"def main():\n    flood = {flood}\n    while True: write(flood)"
    call = asyncio.ensure_future(hostile.do(WIRE + body, limits=Limits(wall_ms=30_000)))
    while not call.done():
        assert await neighbour.do("def main(): return 1") == 1
    with pytest.raises(Exception, match=r"sent more than 1,048,576 bytes in a second|a Hello of|a Note of"):
        await call


@pytest.mark.parametrize(
    "message",
    [
        "Call(next(numbers), 0, 'x', b'')",
        "Cancel(next(numbers))",
        "Note('background', values.dumps(next(numbers) % 2))",
    ],
    ids=["refused", "taken back", "in the background"],
)
async def test_a_flood_of_what_comes_to_nothing_is_slowed_down_to_a_smaller_share(
    boot: Boot, run_out: Callable[[Any], None], message: str
) -> None:
    """A program may be so by mistake. It lives, and a neighbour is answered all the while."""
    now = asyncio.get_running_loop().time
    neighbour, hostile = await boot(), await boot(limits=Limits(bytes_per_second=4 * MIB))
    taken: list[int] = []
    link = hostile.sandbox._link
    deliver = link.on_frame

    def count(frame: bytes) -> None:
        taken.append(len(frame))
        deliver(frame)

    link.on_frame, began = count, now()
    body = f"""
def main():
    import itertools
    numbers = itertools.count(1 << 20)
    while True: write(b"".join(zmtp.message(codec.encode({message})) for _ in range(100)))"""
    call = asyncio.ensure_future(hostile.do(WIRE + body))
    while not call.done() and (len(taken) <= 255 or now() < began + 1.5):
        assert await neighbour.do("def main(): return 1") == 1
    run_out(hostile)
    with pytest.raises(LimitExceeded, match="the call exceeded 60,000 ms of time"):
        await call
    assert 255 < len(taken) < 255 * (now() - began + 1) + 150  # a KiB that was read when there was no room yet


async def test_who_sends_faster_than_its_share_is_slowed_down_and_loses_nothing(boot: Boot) -> None:
    """Three thousand calls at a thousand a second, a thousand at once: it waits, and each has its answer."""
    asked: list[int] = []

    async def ask(number: int) -> int:
        asked.append(number)
        return number

    tenant = await boot(env={"ASK": ask}, limits=Limits(bytes_per_second=6 * MIB))
    source = """
    import asyncio
    async def main():
        found = []
        for start in range(0, 3000, 500):
            found += await asyncio.gather(*(env.ASK(start + each) for each in range(500)))
        return found == list(range(3000))
    """
    now = asyncio.get_running_loop().time
    began = now()
    assert await tenant.do(source) is True
    assert len(asked) == 3000
    assert now() - began >= (3000 - 1024 - 200) / 1024  # what came with the last piece is not waited for
    assert tenant.sandbox.alive


async def test_who_is_held_back_is_told_of_as_gone_when_it_goes(boot: Boot) -> None:
    """Nobody waits until it would be read again."""
    tenant = await boot()
    tenant.sandbox._link.hold(3600)
    with pytest.raises(SandboxDied, match="exited with 3"):
        await tenant.do("def main():\n    import os\n    os._exit(3)")


@pytest.fixture
def no_core_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who computes beside many others may have less of a core than what is not counted: here all of it is."""
    monkeypatch.setattr("cloister.sandbox.watch._A_LITTLE", 0.0)


@pytest.mark.usefixtures("no_core_of_its_own")
async def test_a_thread_that_goes_on_after_the_answer_is_ended(boot: Boot) -> None:
    """It may use as much as an invocation, and then the sandbox is over, although nothing is asked of it."""
    tenant = await boot(limits=Limits(cpu_ms=100))
    source = """
    import threading
    def spin():
        while True: pass
    def main():
        threading.Thread(target=spin, daemon=True).start()
    """
    await tenant.do(source)
    assert await tenant.sandbox.died == "exceeded 100 ms of CPU while it answered nothing"


@pytest.mark.usefixtures("no_core_of_its_own")
async def test_work_after_an_answer_is_watched_closely(boot: Boot, open_spawner: Any) -> None:
    """It is ended when it crosses the limit, without anybody taking a look from time to time."""
    source = """
    import threading
    def spin():
        while True: pass
    def main():
        threading.Thread(target=spin, daemon=True).start()
    """
    async with open_spawner() as own:
        own._tending.cancel()
        tenant = await boot(limits=Limits(cpu_ms=100), spawner=own)
        await tenant.do(source)
        async with asyncio.timeout(250):
            assert await tenant.sandbox.died == "exceeded 100 ms of CPU while it answered nothing"


async def test_threads_and_descriptors_can_be_bounded_for_a_tenant(boot: Boot, spawner: Any) -> None:
    """Fewer than every sandbox may have; nothing inside can raise them again."""
    tenant = await boot(limits=Limits(open_files=20, threads=4))
    source = """
    import os, resource
    def main():
        made = []
        try:
            while True: made.append(os.pipe())
        except OSError as error:
            found = [error.errno, max(map(max, made))]
        for pair in made:
            os.close(pair[0]); os.close(pair[1])
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        except (OSError, ValueError) as error:
            found.append("refused")
        return found
    """
    assert await tenant.do(source) in ([24, 19, "refused"], [24, 18, "refused"])
    if spawner.layers["cgroups"] == "active":
        source = """
        import threading
        def main():
            stop = threading.Event()
            started = 0
            try:
                for _ in range(10):
                    threading.Thread(target=stop.wait).start()
                    started += 1
            except RuntimeError:
                pass
            stop.set()
            return started
        """
        assert await tenant.do(source) == 3


async def test_a_slot_that_is_used_again_has_the_limits_of_its_next_tenant(
    boot: Boot, spawner: Any, open_spawner: Any
) -> None:
    """Bounds on a group outlive the sandbox that they were made for; the next one gets its own."""
    if spawner.layers["cgroups"] != "active":
        pytest.skip(spawner.layers["cgroups"])
    source = """
    import threading
    def main():
        stop = threading.Event()
        threads = [threading.Thread(target=stop.wait) for _ in range(8)]
        for thread in threads: thread.start()
        stop.set()
        return len(threads)
    """
    async with open_spawner() as own:
        for _ in range(3):
            small = await boot(limits=Limits(threads=2), spawner=own)
            with pytest.raises(RemoteError, match="can't start new thread"):
                await small.do(source)
            await small.sandbox.close("done")
            large = await boot(spawner=own)
            assert large.sandbox.number == small.sandbox.number
            assert await large.do(source) == 8
            await large.sandbox.close("done")


async def test_a_sandbox_without_memory_for_its_answers_says_so(boot: Boot) -> None:
    """It cannot even say that it has none: its end does, and no call is left without an answer."""
    tenant = await boot(limits=Limits(memory_bytes=64 * MIB))
    calls = [tenant.do("def main(): return bytes(12_000_000)") for _ in range(4)]
    told = [error for error in await asyncio.gather(*calls, return_exceptions=True) if isinstance(error, Exception)]
    assert told
    words = r"^MemoryError|^the sandbox (exceeded 64 MiB of memory|had no memory left to answer with; .* 64 MiB)$"
    assert all(re.match(words, str(error)) for error in told), told


async def test_printing_much_costs_lines_and_nothing_else(boot: Boot) -> None:
    """Forty thousand short ones, of which either end drops what comes too fast for it."""
    tenant = await boot()
    assert await tenant.do("def main():\n    for n in range(40_000): print(n)\n    return 'alive'") == "alive"
    assert 0 < len(tenant.lines) < 40_000


@pytest.mark.parametrize(
    "said",
    [r'b"\x04\x00" * 4096', r'b"\x04\x09\x04PING\x00\x0aab" * 700', r'b"\x04\x01x" * 2730'],
    ids=["empty commands", "heartbeats", "commands nobody knows"],
)
async def test_what_costs_the_host_more_than_its_bytes_is_charged_for(boot: Boot, said: str) -> None:
    """Under the limits that everybody has who asks for none."""
    tenant = await boot()
    at_once(tenant)
    source = (
        WIRE
        + f"""
def main():
    while True: write({said})
"""
    )
    with pytest.raises(LimitExceeded, match="bytes in a second"):
        await tenant.do(source)
