"""Functions of one tenant's that others call: what that costs is charged to each call, and ends it, not the tenant."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from cloister.sandbox import LimitExceeded, Limits, ProtocolViolation, SandboxDied
from cloister.sandbox.lockdown.shares import Rank

Boot = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]
GIVES = """
import asyncio, time
def use(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
    return seconds
async def work():
    while True:
        use(0.002)
        await asyncio.sleep(0)
async def main():
    await env.TAKE([use, work])
"""


@pytest.fixture
def visited(boot: Boot) -> Callable[..., Any]:
    """A tenant with a low limit, and two functions of its own that it has given away."""

    async def start(**limits: Any) -> tuple[Any, Any, Any]:
        taken: list[Any] = []

        async def take(functions: Any) -> None:
            taken.extend(function.dup() for function in functions)

        tenant = await boot(env={"TAKE": take}, limits=Limits(**limits))
        await tenant.do(GIVES)
        return tenant, *taken

    return start


async def test_others_cannot_use_up_what_a_tenant_may(visited: Callable[..., Any]) -> None:
    """Many calls, each within the limit, and far more than that in all."""
    tenant, use, _ = await visited(cpu_ms=200)
    for _ in range(10):
        assert await use(0.05) == 0.05
    assert tenant.sandbox.alive
    assert tenant.sandbox.cpu_seconds() > 0.5


async def test_who_computes_for_others_gives_way_as_well(visited: Callable[..., Any], until: Until) -> None:
    """A program that does all its work so would be looked at by nobody."""
    tenant, use, _ = await visited()
    precedence, told = tenant.sandbox._precedence, list[Rank]()
    precedence._tell = told.append
    await until(lambda: not precedence._looking)
    told.clear()
    using = asyncio.ensure_future(use(3600))
    await until(lambda: Rank.BEHIND in told)
    await give_up(using)


async def begun(tenant: Any, call: Any, until: Until) -> asyncio.Future[Any]:
    """A call which is at work, as the CPU time tells that its process uses."""
    before = tenant.sandbox.cpu_seconds()
    calling: asyncio.Future[Any] = asyncio.ensure_future(call)
    await until(lambda: tenant.sandbox.cpu_seconds() > before + 0.005)
    return calling


async def give_up(calling: asyncio.Future[Any]) -> None:
    """Nobody waits for it any longer; it may have been answered by then."""
    calling.cancel()
    await asyncio.wait({calling})


async def test_nor_by_giving_up(visited: Callable[..., Any], until: Until) -> None:
    """What still goes on then is the call's as well, until it has stopped."""
    tenant, use, work = await visited(cpu_ms=200)
    for _ in range(10):
        for call in (use(0.05), work()):
            await give_up(await begun(tenant, call, until))
        assert await use(0) == 0
    assert tenant.sandbox.alive
    assert tenant.sandbox.cpu_seconds() > 0.5


async def test_a_call_beyond_the_limit_is_ended_and_nothing_else(
    visited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be told to stop."""
    monkeypatch.setattr("cloister.sandbox.visits.LATE_GRACE", 100.0)  # on a busy machine nobody stops within 60 ms
    tenant, use, work = await visited(cpu_ms=200)
    with pytest.raises(LimitExceeded, match=r"^the call exceeded 200 ms of CPU$"):
        await work()
    assert await use(0) == 0
    assert tenant.sandbox.alive


async def test_what_does_not_stop_when_told_to_is_the_tenants_own_fault(visited: Callable[..., Any]) -> None:
    """It has granted it."""
    tenant, use, _ = await visited(cpu_ms=200)
    with pytest.raises(LimitExceeded, match=r"^the call exceeded 200 ms of CPU$"):
        await use(60)
    async with asyncio.timeout(100):
        assert await tenant.sandbox.died == "exceeded 200 ms of CPU in a call that did not stop when it was given up"


async def test_nor_does_one_go_on_for_ever_that_nobody_waits_for(visited: Callable[..., Any], until: Until) -> None:
    """It has the limit of any other."""
    tenant, use, _ = await visited(cpu_ms=200)
    await give_up(await begun(tenant, use(60), until))
    async with asyncio.timeout(100):
        assert await tenant.sandbox.died == "exceeded 200 ms of CPU in a call that did not stop when it was given up"


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ("os.write(3, bytes([255]) * 99)", ProtocolViolation, "the sandbox broke the protocol: a frame with flags"),
        ("os.write(3, bytes([0, 1, 99]))", ProtocolViolation, "the sandbox broke the protocol: a frame of an unknown"),
        ("os._exit(5)", SandboxDied, "the sandbox exited with 5"),
        ("os.close(3)", ProtocolViolation, "the sandbox closed its connection"),
    ],
)
async def test_who_visits_is_told_of_the_end_as_who_calls_is(
    boot: Boot, end: str, error: type[Exception], words: str
) -> None:
    """By an error of this package, whatever it was, in this call and in later ones."""
    taken: list[Any] = []

    async def take(function: Any) -> None:
        taken.append(function.dup())

    tenant = await boot(env={"TAKE": take})
    await tenant.do(f"import asyncio, os\nasync def leave():\n    {end}\n    await asyncio.sleep(60)\n"
                    "async def main(): await env.TAKE(leave)")  # fmt: skip
    for _ in range(2):
        with pytest.raises(error, match=words):
            await taken[0]()


async def test_an_answer_that_found_no_room_is_not_charged(boot: Boot, until: Any) -> None:
    """It was not sent, so nobody has to wait for it."""
    answered, asked, opened = list[int](), list[int](), asyncio.Event()

    async def page(size: int) -> bytes:
        asked.append(size)
        await opened.wait()
        return bytes(size)

    tenant = await boot(env={"PAGE": page})
    tenant.sandbox._hearing.intake.answered = answered.append
    tenant.sandbox._link._most = 1 << 20
    source = """
    import asyncio
    async def main():
        asks = [asyncio.ensure_future(env.PAGE(600_000)) for _ in range(9)]
        return [isinstance(each, bytes) for each in await asyncio.gather(*asks, return_exceptions=True)]
    """
    call = asyncio.ensure_future(tenant.do(source))
    await until(lambda: len(asked) == 9)
    pidfd = tenant.sandbox._process._pidfd
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)  # while it reads nothing
    opened.set()
    await until(lambda: not tenant.sandbox._peer._answering)
    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    told = await call
    assert told.count(True) == len(answered)
    assert told.count(False) > 0
