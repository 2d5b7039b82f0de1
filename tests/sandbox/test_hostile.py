"""A tenant that speaks to the host over its own connection: its own calls fail, the host and the neighbours do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import CapabilityError, PayloadError, RemoteError, RpcTarget, values
from cloister.sandbox import LimitExceeded, Limits, ProtocolViolation, SandboxDied

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


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("say(b'')", "impossible length"),
        ("say(b'garbage')", "impossible length"),
        ("say(os.urandom(1000))", "broke the protocol"),
        ("say(b'\\x00\\x02\\x91\\x63')", "unknown kind"),
        ("say(Hello(1, b''))", "a Hello while the connection is ready"),
        ("say(Result(10**6, b''))", "never made"),
        ("say(Failure(10**6, b''))", "never made"),
        ("say(Result(1, b'\\xc0'))", "second answer"),
        ("say(Failure(2, b'\\xc1'))", "broke the protocol"),
        ("say(Failure(2, values.dumps(['x'])))", "not a name, a message and a traceback"),
        ("say(Release(12345, 1))", "not held that often"),
        ("say(Note('log', b'\\xc1'))", "broke the protocol"),
        ("say(Note('log', values.dumps(['x'])))", "a note of an unknown form on 'log'"),
        ("say(Note('log', values.dumps([0] * 60_000)))", "more than 5 elements"),
        ("say(Note('log', values.dumps([[[]]])))", "nested more than 1 deep"),
        ("say(Note('unknown', values.dumps(None)))", "a note of an unknown form on 'unknown'"),
        ("say(Note('background', values.dumps('many')))", "a note of an unknown form"),
        ("say(*[Call(n, 0, '', values.dumps([[], {}])) for n in range(9, 1100)])", "more than 1024 calls in flight"),
        ("say(*[Call(9, 0, '', values.dumps([[], {}]))] * 2)", "call 9 was made twice"),
        ("write(b'\\x01\\x01a\\x00\\x01b')", "several parts"),
        ("write(struct.pack('>BQ', 2, 2**40) + bytes(99))", "a frame of 1,099,511,627,776 bytes; at most"),
        ("write(b'\\xff' * 99)", "flags that do not exist"),
        ("[attempt(lambda: os.write(each, b'garbage' * 99)) for each in range(3, 11)]", "flags that do not exist"),
        ("os.close(3)", "closed its connection"),
        ("import socket; socket.socket(fileno=3).shutdown(2)", "closed its connection"),
    ],
    ids=lambda value: value[:50],
)
async def test_what_breaks_the_protocol_ends_it_with_words(boot: Boot, body: str, words: str) -> None:
    """The tenant's own call fails with the reason; a neighbour is answered before, during and after."""
    neighbour = await boot()
    assert await neighbour.do("def main(): return 1") == 1
    with pytest.raises(ProtocolViolation, match=f"^the sandbox .*({words})"):
        await wait_for_ever(boot, body)
    assert await neighbour.do("def main(): return 2") == 2


async def test_a_goodbye_is_an_end(boot: Boot) -> None:
    """With the reason that it gives, which is not believed to be anything but its words."""
    with pytest.raises(SandboxDied, match=r"^the sandbox broke off: so long$"):
        await wait_for_ever(boot, "say(Goodbye(b'so long'))")
    with pytest.raises(SandboxDied) as told:
        await wait_for_ever(boot, "say(Goodbye(b'x' * 10**7))")
    assert len(str(told.value)) < 10_000


async def test_an_answer_that_is_no_value_is_the_tenants_fault(boot: Boot) -> None:
    """It answers its own call with what cannot be read: too deep, too much, keys twice, a forged capability."""
    much = b"\xdd\x00\x02\x00\x00" + b"\x90" * 2**17
    for payload in (b"\xc1", b"", b"\x91" * 100_000, much, b"\x82\xa1a\xc0\xa1a\xc0"):
        with pytest.raises(PayloadError):
            await wait_for_ever(boot, f"say(Result(2, {payload!r}))")
    home = values.dumps([object()], export=lambda _: values.dumps([1, 7]))
    with pytest.raises(CapabilityError, match="capability 7 is not granted"):
        await wait_for_ever(boot, f"say(Result(2, {home!r}))")


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
    import gc
    from cloister.ipc.peer import Peer
    async def main():
        peer = next(found for found in gc.get_objects() if isinstance(found, Peer))
        outcomes = {}
        for number in range(1, 1001):
            try:
                outcome = peer.decode(await peer.call(number, "open", peer.encode([[], {}])))[0]
            except Exception as error:
                outcome = error.name
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        return outcomes
    """
    assert await thief.do(source) == {"CapabilityError": 1000}
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


async def test_a_host_that_waits_for_a_tenants_callback_is_not_held_up(boot: Boot, until: Until) -> None:
    """The callback's own sandbox is what a deadline ends; the call of the host's object is cancelled with it."""
    ended: list[str] = []

    async def ask(callback: Any) -> None:
        try:
            await callback()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    tenant = await boot(env={"ASK": ask})
    source = "import asyncio\nasync def main():\n    await env.ASK(asyncio.Event().wait)"
    with pytest.raises(LimitExceeded):
        await tenant.do(source, limits=Limits(wall_ms=50))
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
