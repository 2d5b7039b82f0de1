"""What a tenant and its host say to each other: capabilities both ways, and what no tenant can bring the host to do.

What breaks the protocol is in the catalogue of attacks, theme "wire", in the folder of hostile tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import PayloadError, RemoteError, RpcTarget
from cloister.sandbox import LimitExceeded, Limits, SandboxDied

Boot = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]

WRITE = """
import os, select, struct
from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import *

def write(data, descriptor=3):
    data, poll = memoryview(data), select.poll()
    poll.register(descriptor, select.POLLOUT)
    while data:
        try:
            data = data[os.write(descriptor, data):]
        except BlockingIOError:
            poll.poll()

def say(*messages):
    for message in messages:
        write(zmtp.message(message if isinstance(message, bytes) else codec.encode(message)))
"""


async def wait_for_ever(boot: Boot, body: str) -> Any:
    """A tenant that does something to its connection, which is descriptor 3, and waits for what comes of it."""
    tenant = await boot(env={"WAIT": asyncio.Event().wait})
    return await tenant.do(WRITE + f"import asyncio\nasync def main():\n    {body}\n    await asyncio.Event().wait()")


async def test_the_reason_of_a_goodbye_is_cut(boot: Boot) -> None:
    """It is not believed to be anything but words, and not more than one wants to read."""
    with pytest.raises(SandboxDied) as told:
        await wait_for_ever(boot, "say(Goodbye(b'x' * 10**7))")
    assert len(str(told.value)) < 10_000


async def test_numbers_that_were_not_granted_reach_nothing(boot: Boot) -> None:
    """The host's answer is an error, for each of a thousand guesses; another tenant's grant is not among them."""

    class Vault(RpcTarget):
        def __init__(self) -> None:
            self.opened = 0

        def open(self) -> str:
            self.opened += 1
            return "gold"

    vault = Vault()
    owner = await boot(env={"VAULT": vault})
    thief = await boot(env={"OTHER": lambda: "silver"})
    source = """
    async def main():
        peer = env.OTHER._channel
        outcomes = {}
        for number in range(1, 1001):
            try:
                outcome = peer.decode(await peer.call(number, "open", peer.encode([[], {}])))[0]
            except Exception as error:
                outcome = type(error).__name__
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        return outcomes
    """
    unhurried = Limits(wall_ms=None)  # a thousand turns, each of which may be long in coming
    assert await thief.do(source, limits=unhurried) == {"CapabilityError": 1000}
    assert vault.opened == 0
    assert await owner.do("async def main(): return await env.VAULT.open()") == "gold"


async def test_capabilities_work_and_give_only_what_they_are(boot: Boot) -> None:
    """A host's object: public methods, attributes, callbacks in both directions; and errors of the host by name."""

    class Shop(RpcTarget):
        def rpc_attributes(self) -> dict[str, Any]:
            return {"name": "tea"}

        async def sell(self, count: int, tell: Any) -> Any:
            return [count * 3, await tell("sold")]

        def refuse(self) -> None:
            raise KeyError("out of tea")

        def _books(self) -> str:
            return "private"

    source = """
    async def main():
        heard = []
        async def tell(word):
            heard.append(word)
            return len(heard)
        result = [env.SHOP.name, await env.SHOP.sell(2, tell), heard, await env.DOUBLE(21), env["PLAN"], env.PLAN]
        for call in (env.SHOP.refuse, env.SHOP.__getattr__("sell")):
            try:
                await call()
            except Exception as error:
                result.append(f"{type(error).__name__}: {error}")
        return result
    """
    tenant = await boot(env={"SHOP": Shop(), "DOUBLE": lambda n: n * 2, "PLAN": "pro"})
    *results, refused, misused = await tenant.do(source)
    assert results == ["tea", [6, 1], ["sold"], 42, "pro", "pro"]
    assert refused.startswith("KeyError: ")
    assert "out of tea" in refused
    assert misused.startswith("TypeError: ")
    assert tenant.sandbox.alive


async def test_a_host_that_waits_for_a_tenants_callback_is_not_held_up(
    boot: Boot, until: Until, run_out: Callable[[Any], None]
) -> None:
    """The callback's own sandbox is what a deadline ends; the call of the host's object is cancelled with it."""
    asked, ended = list[bool](), list[str]()

    async def ask(callback: Any) -> None:
        asked.append(True)
        try:
            await callback()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    tenant = await boot(env={"ASK": ask})
    source = "import asyncio\nasync def main():\n    await env.ASK(asyncio.Event().wait)"
    call = asyncio.ensure_future(tenant.do(source))
    await until(lambda: asked)
    run_out(tenant)
    with pytest.raises(LimitExceeded, match="exceeded 60,000 ms of time"):
        await call
    await until(lambda: ended == ["cancelled"])


async def test_calls_without_end_are_bounded(boot: Boot) -> None:
    """As many at a time as a connection may have; the tenant is told."""
    gate = asyncio.Event()
    tenant = await boot(env={"WAIT": gate.wait})
    source = """
    import asyncio
    async def main():
        calls = [asyncio.ensure_future(env.WAIT()) for _ in range(1500)]
        done, pending = await asyncio.wait(calls, timeout=0.05)
        kinds = {type(call.exception()).__name__ for call in done}
        for call in pending:
            call.cancel()
        return [len(pending), sorted(kinds)]
    """
    assert await tenant.do(source) == [1024, ["TooManyCalls"]]
    gate.set()
    assert await tenant.do("async def main(): return await env.WAIT()") is True


async def test_an_import_hook_or_a_patched_guest_harms_its_own_sandbox_only(boot: Boot) -> None:
    """Everything inside is the tenant's to break: the host believes none of it."""
    neighbour, tenant = await boot(), await boot()
    source = """
    import sys
    from cloister.ipc import codec, peer, values
    def main():
        for module in list(sys.modules):
            if module.startswith("cloister"):
                for name in list(vars(sys.modules[module])):
                    if not name.startswith("__"):
                        setattr(sys.modules[module], name, None)
    """
    with pytest.raises((SandboxDied, RemoteError, LimitExceeded)):
        await tenant.do(source, limits=Limits(wall_ms=300))
    assert await neighbour.do("def main(): return 1") == 1


async def test_random_bytes_on_the_wire(boot: Boot) -> None:
    """Whatever it says, it is ended or ignored, with an error of this package; the seed is printed."""
    neighbour = await boot()
    for seed in range(15):
        print("seed", seed)
        body = (
            f"import random; chance = random.Random({seed}); "
            "frames = [codec.encode(Result(2, values.dumps([1]))), codec.encode(Call(5, 0, 'm', b'')), "
            "codec.encode(Note('log', values.dumps(['a', 'b', 1, 1]))), codec.encode(Release(0, 1))]; "
            "stream = bytearray(b''.join(zmtp.message(chance.choice(frames)) for _ in range(20))); "
            "[stream.__setitem__(chance.randrange(len(stream)), chance.randrange(256)) for _ in range(3)]; "
            "write(stream); await asyncio.sleep(0.05); os._exit(5)"
        )
        try:
            await wait_for_ever(boot, body)
        except (SandboxDied, PayloadError, RemoteError):
            assert await neighbour.do("def main(): return 1") == 1


async def test_what_waits_to_be_taken_comes_whole_and_in_order(boot: Boot) -> None:
    """Small and large ones, far more than the kernel keeps, from all that want to say something at once."""
    sizes = [size for _ in range(40) for size in (10, 3_000, 40_000, 300_000)]

    async def echo(piece: bytes) -> bytes:
        return piece

    tenant = await boot(env={"ECHO": echo})
    source = """
    import asyncio
    async def main(sizes):
        sent = [number.to_bytes(2, "big") * size for number, size in enumerate(sizes)]
        return await asyncio.gather(*map(env.ECHO, sent)) == sent
    """
    assert await tenant.do(source, sizes)


async def test_as_much_is_kept_of_what_is_sent_as_twice_its_size(boot: Boot) -> None:
    """Forty-eight MiB at once leave a tenant of 128 MiB alive, and what has no room is an error that says so.

    With its last byte taken it is chance where the next is wanted: in the call, in what gathers the answers, or in the
    interpreter, which calls it a `SystemError`. It may end of it too; but nobody is told anything else.
    """

    async def count(piece: bytes) -> int:
        return len(piece)

    tenant = await boot(env={"COUNT": count})
    source = """
    import asyncio
    async def main(number):
        piece = bytes(1 << 20)
        told = await asyncio.gather(*(env.COUNT(piece) for _ in range(number)), return_exceptions=True)
        return [each if isinstance(each, int) else type(each).__name__ for each in told]
    """
    assert await tenant.do(source, 48) == [1 << 20] * 48
    told: Any = (await asyncio.gather(tenant.do(source, 400), return_exceptions=True))[0]
    if isinstance(told, list):
        assert {*told} <= {1 << 20, "MemoryError", "SystemError"}
        assert told.count(1 << 20) >= 48
    elif isinstance(told, RemoteError):
        assert told.name in ("MemoryError", "SystemError")
    else:
        assert isinstance(told, LimitExceeded)
        assert "memory" in str(told)
