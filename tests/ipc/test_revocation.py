"""What was granted can be taken back: nothing passes through a revoked grant, nor through what was obtained by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cloister.ipc import CapabilityError, RpcTarget, expiring, revocable

OpenPair = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]


class Till(RpcTarget):
    """What is granted, and what it leads to."""

    def __init__(self) -> None:
        self.opened = 0
        self.disposed = 0
        self.gate = asyncio.Event()

    def open(self) -> str:
        self.opened += 1
        return "gold"

    def me(self) -> Till:
        return self

    def drawers(self) -> dict[str, Any]:
        return {"top": [Till()], "open": self.open}

    async def slowly(self) -> str:
        await self.gate.wait()
        return self.open()

    async def coins(self) -> AsyncIterator[Any]:
        yield 1
        yield self.open
        await asyncio.Event().wait()

    @property
    def sum(self) -> int:
        return self.opened

    @property
    def deputy(self) -> Till:
        return Till()

    def mine(self, thing: object) -> bool:
        return thing is self

    def rpc_attributes(self) -> dict[str, Any]:
        return {"shop": "tea"}

    def rpc_disposed(self) -> None:
        self.disposed += 1


def cross(pair: Any, thing: object) -> Any:
    """The same value at the guest."""
    return pair.guest.decode(pair.host.encode(thing))[0]


async def test_a_grant_is_what_it_stands_for_until_it_is_taken_back(open_pair: OpenPair) -> None:
    """Methods, attributes, functions, chains; then every call fails, with the host's reason, and reaches nothing."""
    pair, till = open_pair(), Till()
    grants = revocable(till), revocable(till.open)
    stub, function = cross(pair, {"deep": list(grants)})["deep"]
    assert [await stub.open(), await function(), await stub.me().me().open(), stub.shop] == ["gold"] * 3 + ["tea"]
    for grant in grants:
        assert not grant.revoked
        grant.revoke("the shop is closed")
        grant.revoke("again")
        assert grant.revoked
    for call in (stub.open(), function(), stub.me().open(), stub.missing()):
        with pytest.raises(CapabilityError, match=r"^the capability was revoked: the shop is closed$"):
            await call
    assert till.opened == 3


async def test_what_was_obtained_through_a_grant_ends_with_it(open_pair: OpenPair) -> None:
    """Objects, functions, those deep in a result, those of a chain, of a stream, and of what was obtained so."""
    pair, till = open_pair(), Till()
    grant = revocable(till)
    stub = cross(pair, grant)
    inner = await stub.drawers()
    reached = [inner["top"][0], await stub.me(), await stub.me().me(), await (await stub.me()).me()]
    functions = [inner["open"], (await inner["top"][0].drawers())["open"]]
    stream = await stub.coins()
    functions += [[await anext(stream), await anext(stream)][1]]
    for thing in reached:
        assert await thing.open() == "gold"
    for function in functions:
        assert await function() == "gold"
    grant.revoke()
    for call in [*(thing.open() for thing in reached), *(function() for function in functions)]:
        with pytest.raises(CapabilityError, match="revoked"):
            await call


async def test_a_grant_within_a_chain_holds_what_the_chain_leads_to(open_pair: OpenPair) -> None:
    """An object that hands out grants cannot be called around them."""

    class Bank(RpcTarget):
        grant = revocable(Till())

        def till(self) -> Any:
            return self.grant

    pair = open_pair()
    stub = cross(pair, Bank())
    reached = await stub.till().me()
    assert await reached.open() == await stub.till().open() == "gold"
    Bank.grant.revoke()
    for call in (reached.open(), stub.till().open(), stub.till().me()):
        with pytest.raises(CapabilityError, match="revoked"):
            await call


async def test_what_is_under_way_when_a_grant_is_revoked_tells_nothing_more(open_pair: OpenPair) -> None:
    """A call's result is withheld; a stream that is being waited for ends."""
    pair, till = open_pair(), Till()
    grant = revocable(till)
    stub = cross(pair, grant)
    stream = await stub.coins()
    assert await anext(stream) == 1
    assert await (await anext(stream))() == "gold"
    waiting = [asyncio.ensure_future(anext(stream)), asyncio.ensure_future(stub.slowly())]
    for _ in range(10):
        await asyncio.sleep(0)
    grant.revoke("enough")
    till.gate.set()
    for wait in waiting:
        with pytest.raises(CapabilityError, match="revoked: enough"):
            await wait


async def test_a_grant_expires_by_itself(open_pair: OpenPair) -> None:
    """Not before, and for good."""
    now = 100.0
    pair, till = open_pair(), Till()
    grant = expiring(till, 5, clock=lambda: now)
    stub = cross(pair, grant)
    now = 104.9
    assert await stub.open() == "gold"
    now = 105.0
    assert grant.revoked
    for _ in range(2):
        with pytest.raises(CapabilityError, match="expired 5 s after it was granted"):
            await stub.open()
        now = 100.0
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds above zero"):
            expiring(till, seconds)


async def test_a_stream_ends_when_its_grant_expires_whoever_waits_for_it(open_pair: OpenPair) -> None:
    """Without another call."""
    now = 100.0
    stream = await cross(open_pair(), expiring(Till(), 0.02, clock=lambda: now)).coins()
    now = 100.02
    with pytest.raises(CapabilityError, match="expired"):
        [item async for item in stream]


async def test_a_grant_in_many_hands_is_taken_from_all(open_pair: OpenPair) -> None:
    """And a grant beside it is another: the same object stays reachable through that, and directly."""
    pairs, till = [open_pair() for _ in range(3)], Till()
    with revocable(till) as lent:
        stubs = [cross(pair, lent) for pair in pairs]
        kept, direct = cross(pairs[0], [revocable(till), till])
        assert len({stub._target for stub in (stubs[0], kept, direct)}) == 3
    for stub in stubs:
        with pytest.raises(CapabilityError, match="revoked"):
            await stub.open()
    assert [await kept.open(), await direct.open()] == ["gold", "gold"]


async def test_what_comes_home_through_a_grant_is_the_object_until_it_is_revoked(open_pair: OpenPair) -> None:
    """A revoked one is no argument either."""
    pair, till = open_pair(), Till()
    grant = revocable(till)
    lent, direct = cross(pair, [grant, till])
    assert await direct.mine(lent) is True
    grant.revoke()
    with pytest.raises(CapabilityError, match="revoked"):
        await direct.mine(lent)


async def test_a_grant_is_let_go_of_like_what_it_stands_for(open_pair: OpenPair, until: Until) -> None:
    """The object hears of its last stub; revoking is not disposing."""
    pair, till = open_pair(), Till()
    grant = revocable(till)
    stub = cross(pair, grant)
    grant.revoke()
    assert till.disposed == 0
    stub.dispose()
    await until(lambda: till.disposed == 1)
    assert len(pair.host.exports) == 0


@pytest.mark.parametrize("plain", ["text", b"bytes", 1, 1.5, None, True, {"a": 1}, [1], (1,), {1}])
def test_what_is_copied_cannot_be_taken_back(plain: object) -> None:
    """And nobody is left to believe it."""
    with pytest.raises(TypeError, match="copied"):
        revocable(plain)


async def test_a_chain_goes_no_further_than_to_where_it_was_when_its_grant_was_revoked(open_pair: OpenPair) -> None:
    """What is yet to be called of it is not called; what it has come by hears that it is over."""
    pair, inner, gate = open_pair(), Till(), asyncio.Event()

    class Shop(RpcTarget):
        async def till(self) -> Till:
            await gate.wait()
            return inner

    grant = revocable(Shop())
    shop = cross(pair, grant)

    async def chain() -> object:
        return await shop.till().open()

    task = asyncio.create_task(chain())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    grant.revoke()
    gate.set()
    with pytest.raises(CapabilityError, match="revoked"):
        await task
    assert inner.opened == 0
    grant = revocable(Shop())
    assert await cross(pair, grant).till().me().open() == "gold"
    assert inner.disposed == 1


async def test_what_a_callback_is_given_ends_with_the_grant_that_it_was_passed_to(open_pair: OpenPair) -> None:
    """It was obtained through it, as what a call returns is. And nobody is called back through what was revoked."""
    pair, inner = open_pair(), Till()
    kept: list[Any] = []

    class Feed(RpcTarget):
        async def subscribe(self, callback: Any) -> object:
            self.callback = callback.dup()
            return await callback(inner)

        def same(self, callback: Any) -> Any:
            return callback

    feed = Feed()
    grant = revocable(feed)
    stub = cross(pair, grant)

    def listen(till: Any) -> str:
        kept.append(till.dup())
        return "heard"

    assert await stub.subscribe(listen) == "heard"
    assert await kept[0].open() == "gold"
    assert await (await stub.same(listen))(kept[0]) == "heard"
    grant.revoke()
    with pytest.raises(CapabilityError, match="revoked"):
        await kept[0].open()
    with pytest.raises(CapabilityError, match="revoked"):
        await feed.callback(inner)
    assert inner.opened == 1


async def test_properties_end_with_the_grant(open_pair: OpenPair) -> None:
    """And what they gave; alone, and within a chain."""
    grant = revocable(Till())
    stub = cross(open_pair(), grant)
    deputy, second = await stub.deputy, await stub.me().deputy
    assert [await stub.sum, await stub.me().sum, await deputy.sum, await second.sum] == [0, 0, 0, 0]
    grant.revoke()
    for end in (stub, stub.me(), stub.deputy, deputy, second):
        with pytest.raises(CapabilityError, match="revoked"):
            await end.sum
