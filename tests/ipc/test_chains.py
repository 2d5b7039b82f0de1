"""Calls on the result of a call that is yet to be made: one round trip, made once, bounded, clear about its place."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.ipc import CapabilityError, CodecError, PayloadError, RemoteError, RpcTarget, Stub, values
from cloister.ipc.messages import Call, Release, Result
from cloister.ipc.stubs import MAX_LINKS

OpenPair = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]


class Node(RpcTarget):
    """One that leads to others."""

    def __init__(self, path: str = "root") -> None:
        self.path = path
        self.closed: list[str] = []

    async def down(self, name: str) -> Node:
        node = Node(f"{self.path}/{name}")
        node.closed = self.closed
        return node

    def at_once(self, name: str) -> Node:
        return Node(f"{self.path}/{name}")

    def where(self, *, loud: bool = False) -> str:
        return self.path.upper() if loud else self.path

    def adder(self, n: int) -> Callable[[int], int]:
        return lambda m: n + m

    def fail(self, words: str) -> None:
        raise LookupError(words)

    def nothing(self) -> None:
        """Leads nowhere."""

    async def call(self, function: Any) -> Node:
        return Node(await function())

    async def count(self) -> AsyncIterator[int]:
        for n in range(3):
            yield n

    def rpc_disposed(self) -> None:
        self.closed.append(self.path)


def grant(pair: Any, thing: object) -> Any:
    """The guest's stub for something that the host grants."""
    return pair.guest.decode(pair.host.encode(thing))[0]


@pytest.fixture(params=["guest to host", "host to guest"])
def root(request: pytest.FixtureRequest, open_pair: OpenPair) -> Callable[[object], tuple[Any, Any]]:
    """A stub of an object, whichever side it is on, and the pair."""

    def make(thing: object) -> tuple[Any, Any]:
        pair = open_pair()
        giver, taker = (pair.host, pair.guest) if request.param == "guest to host" else (pair.guest, pair.host)
        return taker.decode(giver.encode(thing))[0], pair

    return make


async def test_a_chain_is_one_round_trip(root: Any) -> None:
    """Methods that are coroutines and those that are not, functions, arguments by place and by name."""
    stub, pair = root(Node())
    assert await stub.down("a").at_once("b").down("c").where(loud=True) == "ROOT/A/B/C"
    assert await stub.adder(40)(2) == 42
    assert await stub.down("a").adder(1)(2) == 3
    assert (pair.count(Call), pair.count(Result)) == (3, 3)


async def test_what_lies_between_is_not_granted(root: Any, until: Until) -> None:
    """And it is disposed of when the chain has been followed."""
    node = Node()
    stub, pair = root(node)
    assert await stub.down("a").down("b").where() == "root/a/b"
    assert node.closed == ["root/a", "root/a/b"]
    last = await stub.down("a").down("b")
    assert node.closed[2:] == ["root/a"]
    last.dispose()
    await until(lambda: pair.count(Release) == 1)
    await until(lambda: node.closed[2:] == ["root/a", "root/a/b"])


async def test_a_call_is_made_once(root: Any) -> None:
    """Awaited twice, continued twice, or continued after it was awaited: an error here, and no second call there."""
    stub, pair = root(Node())
    call = stub.down("a")
    assert await call.where() == "root/a"
    for again in (call.where, call.__await__):
        with pytest.raises(RuntimeError, match="once"):
            again()
    assert pair.count(Call) == 1


async def test_a_call_that_is_not_awaited_is_not_made_and_says_so(root: Any) -> None:
    """As a coroutine does."""
    stub, pair = root(Node())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        stub.down("a").where()
        gc.collect()
    assert [str(warning.message) for warning in told] == ["<call of down.where> was never awaited, so it was not made"]
    assert pair.count(Call) == 0


async def test_a_call_becomes_a_task_as_a_coroutine_does(root: Any) -> None:
    """With everything that asyncio has for coroutines; and it can be described, and cancelled."""
    gate = asyncio.Event()
    stub, _ = root(Node())
    waiting, _ = root(gate.wait)
    task = asyncio.create_task(stub.down("a").where())
    assert "RemoteCall" in repr(task)
    async with asyncio.TaskGroup() as group:
        other = group.create_task(stub.where())
    assert [await task, other.result()] == ["root/a", "root"]
    both: Any = await asyncio.gather(stub.where(), stub.down("b").where())
    assert both == ["root", "root/b"]
    assert await asyncio.wait_for(stub.where(), 100) == "root"
    for turns in (0, 3):
        task = asyncio.create_task(waiting())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    call = stub.where()
    assert asyncio.iscoroutine(call)
    await call


async def test_a_call_can_be_entered(root: Any, until: Until) -> None:
    """`async with` disposes of what it returns at the end; and nobody takes it for a stream."""
    node = Node()
    stub, _ = root(node)
    assert [n async for n in await stub.down("a").count()] == [0, 1, 2]
    call = stub.where()
    assert not hasattr(call, "__aiter__")
    await call
    async with stub.down("b") as below:
        assert await below.where() == "root/b"
    with pytest.raises(CapabilityError, match="disposed"):
        await below.where()
    await until(lambda: "root/b" in node.closed)


async def test_an_error_in_a_chain_keeps_its_class_and_names_its_place(root: Any) -> None:
    """And nothing after it is called."""
    stub, _ = root(Node())
    with pytest.raises(RemoteError, match="LookupError: not there") as told:
        await stub.down("a").fail("not there").where()
    assert told.value.__notes__ == ["in call 2 of 3: down.fail.where"]
    for wrong, place in ((stub.down("a").absent(), 2), (stub.absent().where(), 1)):
        with pytest.raises(CapabilityError, match="no method 'absent'") as refused:
            await wrong
        assert refused.value.__notes__[0].startswith(f"in call {place} of 2")


async def test_what_cannot_be_sent_in_a_chain_is_told_by_its_call(root: Any) -> None:
    """They go together, and each has arguments of its own."""
    stub, _ = root(Node())
    with pytest.raises(CodecError, match=r"at args of call 2\[0\]$"):
        await stub.down("a").down(object()).where()
    with pytest.raises(CodecError, match=r"at kwargs of call 3\['loud'\]$"):
        await stub.down("a").down("b").where(loud=object())


@pytest.mark.parametrize("call", ["nothing", "where"])
async def test_a_chain_on_what_cannot_be_called_says_what_it_was(root: Any, call: str) -> None:
    """On nothing, or on plain data."""
    stub, _ = root(Node())
    kind = {"nothing": "NoneType", "where": "str"}[call]
    with pytest.raises(CapabilityError, match=f"'on' cannot be called on a {kind}"):
        await getattr(stub, call)().on()


class Command:
    """Of the host's own, which cannot be sent. It has methods of the names by which capabilities are called."""

    attributes = ("secret",)

    def __init__(self) -> None:
        self.invoked: list[object] = []

    def invoke(self, *arguments: object) -> str:
        """Of which nobody outside is to know."""
        self.invoked += arguments
        return "invoked"

    def read(self, name: str) -> str:
        """Likewise."""
        self.invoked.append(name)
        return "read"


class Asked(RpcTarget):
    """Gives what cannot be sent."""

    def __init__(self) -> None:
        self.found = Command()

    def command(self) -> Command:
        return self.found


async def test_a_chain_calls_nothing_of_what_could_not_be_sent_either(root: Any) -> None:
    """An object is no capability because it has a method of some name."""
    stub, _ = root(asked := Asked())
    with pytest.raises(CapabilityError, match="'run' cannot be called on a Command, which is what came before"):
        await stub.command().run("x")
    with pytest.raises((AttributeError, RemoteError), match="'secret' cannot be read of a Command"):
        await stub.command().secret
    assert asked.found.invoked == []


async def test_private_names_are_as_private_within_a_chain(root: Any) -> None:
    """Also where the chain is forged."""
    stub, pair = root(Node())
    call = stub.down("a")
    with pytest.raises(AttributeError):
        _ = call._private
    await call
    taker = pair.guest if stub._channel is pair.guest else pair.host
    for name in ("_private", "__init__", "rpc_disposed", "path"):
        payload = values.dumps([["a"], None, None, {}])
        with pytest.raises(CapabilityError, match="no method"):
            await taker.call(stub._target, f"down.{name}", payload)


async def test_an_exception_that_is_raised_again_and_again_gathers_no_notes(open_pair: OpenPair) -> None:
    """The host may keep one for a thousand calls."""
    error = LookupError("always")

    class Broken(RpcTarget):
        def me(self) -> Broken:
            return self

        def fail(self) -> None:
            raise error

    stub = grant(open_pair(), Broken())
    for _ in range(50):
        with pytest.raises(RemoteError):
            await stub.me().fail()
        for depth in range(2, MAX_LINKS):
            call = stub
            for _ in range(depth):
                call = call.me()
            with pytest.raises(RemoteError):
                await call.fail()
    assert len(error.__notes__) <= 16


async def test_a_chain_is_bounded_on_either_side(open_pair: OpenPair) -> None:
    """Its caller is told before it is sent; one that is sent all the same is refused before anything is called."""
    pair = open_pair()
    stub = grant(pair, Node())
    call = stub.down("0")
    for n in range(1, MAX_LINKS):
        call = call.down(str(n))
    with pytest.raises(CapabilityError, match="at most 16"):
        call.down("more")
    calls = MAX_LINKS + 1
    path, payload = ".".join(["down"] * calls), values.dumps([["x"], None] * calls)
    with pytest.raises(PayloadError, match="at most 16"):
        await pair.guest.call(stub._target, path, payload)
    long = getattr(stub.down("a"), "n" * 128)()
    with pytest.raises(CodecError, match="128 characters at most; await it in between"):
        await long


@pytest.mark.parametrize(
    "links",
    [None, [], [["a"], {}], [["a"], {}] * 3, [["a"], {}, []], [["a"], [1], [], {}], ["a", {}, [], {}], {"a": 1}],
)
async def test_a_chain_that_does_not_fit_its_names_is_refused(open_pair: OpenPair, links: object) -> None:
    """Fewer or more arguments than names, or something else."""
    pair = open_pair()
    stub = grant(pair, Node())
    with pytest.raises(PayloadError):
        await pair.guest.call(stub._target, "down.where", values.dumps(links))
    assert not pair.closed


async def test_a_chain_on_nothing_calls_nothing(open_pair: OpenPair, until: Until) -> None:
    """A number that was never granted, or no longer: an error, and what came as arguments is let go of."""
    pair = open_pair()
    stub = grant(pair, Node())
    stale = stub._target
    stub.dispose()
    await until(lambda: len(pair.host.exports) == 0)
    for number in (stale, 4711):
        payload = pair.guest.encode([[lambda: 1], None, [lambda: 2], None])
        with pytest.raises(CapabilityError, match="is not granted"):
            await pair.guest.call(number, "call.call", payload)
    await until(lambda: len(pair.guest.exports) == 0)
    assert not pair.closed


async def test_each_call_of_a_chain_counts(open_pair: OpenPair) -> None:
    """Whoever counts calls hears how many it is, before any is made."""
    heard: list[int] = []

    def count(_: object, calls: int) -> None:
        heard.append(calls)
        if calls > 3:
            raise CapabilityError("too many")

    stub = grant(open_pair(on_call=count), Node())
    await stub.where()
    await stub.down("a").down("b").where()
    with pytest.raises(CapabilityError, match="too many"):
        await stub.down("a").down("b").down("c").where()
    assert heard == [1, 3, 4]


async def test_a_chain_through_a_third_party_goes_on_as_one(open_pair: OpenPair) -> None:
    """The host stands between two guests: one round trip on each side."""
    owner, user = open_pair(), open_pair()
    held, _ = owner.host.decode(owner.guest.encode(Node()))
    stub = grant(user, held)
    assert await stub.down("a").down("b").where() == "root/a/b"
    assert (owner.count(Call), user.count(Call)) == (1, 1)
    with pytest.raises(RemoteError, match="LookupError: gone") as told:
        await stub.down("a").fail("gone").where()
    assert told.value.__notes__ == ["in call 2 of 3: down.fail.where"]


async def test_arguments_live_until_the_chain_has_been_followed(open_pair: OpenPair, until: Until) -> None:
    """And are let go of then, whatever became of it."""
    pair = open_pair()
    stub = grant(pair, Node())
    assert await stub.call(lambda: "a").call(lambda: "b").where() == "b"
    with pytest.raises(RemoteError):
        await stub.call(lambda: "a").fail("x").call(lambda: "c")
    await until(lambda: len(pair.guest.exports) == 0)


async def test_a_call_cannot_be_sent_before_it_is_made(open_pair: OpenPair) -> None:
    """What is meant is its result."""
    stub = grant(open_pair(), Node())
    call = stub.down("a")
    with pytest.raises(CodecError, match="await it, and send its result"):
        await stub.call(call)
    await call


@given(st.lists(st.tuples(st.sampled_from(["down", "at_once"]), st.text(max_size=5)), max_size=MAX_LINKS - 1))
def test_any_chain_leads_where_its_calls_lead_one_by_one(steps: list[tuple[str, str]]) -> None:
    """To the same end, in one round trip."""

    async def both() -> None:
        from .conftest import Pair

        pair = Pair()
        root = grant(pair, Node())
        one: Any = root
        for name, argument in steps:
            one = await getattr(one, name)(argument)
        calls = pair.count(Call)
        chain: Any = root
        for name, argument in steps:
            chain = getattr(chain, name)(argument)
        assert await chain.where() == await one.where()
        assert pair.count(Call) == calls + 2

    asyncio.run(both())


async def test_a_stub_that_is_disposed_of_begins_no_chain(open_pair: OpenPair) -> None:
    """It says so when the chain is awaited."""
    stub = grant(open_pair(), Node())
    stub.dispose()
    with pytest.raises(CapabilityError, match="disposed"):
        await stub.down("a").where()
    assert isinstance(stub, Stub)


async def test_a_chain_that_breaks_on_its_way_to_another_is_no_call_that_was_forgotten(open_pair: OpenPair) -> None:
    """Whoever sent it is to blame, and nobody else is warned."""
    owner, user = open_pair(), open_pair()
    held = owner.host.decode(owner.guest.encode(Node()))[0]
    stub = user.guest.decode(user.host.encode(held))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for broken in ([[], {}, 5, {}], [["x"], {}, [], 5]):
            with pytest.raises(PayloadError):
                await user.guest.call(stub._target, "down.where", values.dumps(broken))
        gc.collect()
    assert owner.count(Call) == 0


class Shop(RpcTarget):
    """One that has properties, of all kinds that are none to be read as well."""

    limit = 5
    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner = "tea & co"

    @property
    def name(self) -> str:
        return self.owner.title()

    @property
    async def stock(self) -> dict[str, Any]:
        return {"tea": {"count": 3}, "milk": Node("milk")}

    @property
    def _till(self) -> int:
        return 1_000

    @property
    def broken(self) -> int:
        raise LookupError("it is not there")

    @property
    def first(self) -> Node:
        return Node("first")

    def itself(self) -> Shop:
        return self

    def rpc_attributes(self) -> dict[str, Any]:
        return {"id": "s-1"}


async def test_a_property_is_read_by_awaiting_it(root: Any) -> None:
    """Of an object, within a chain, or of what a map has under a name; one round trip each."""
    stub, pair = root(Shop())
    assert await stub.name == "Tea & Co"
    assert await stub.stock.tea == {"count": 3}
    assert await stub.stock.tea.count == 3
    assert await stub.stock.milk.where(loud=True) == "MILK"
    assert await stub.itself().first.down("a").where() == "first/a"
    assert (stub.id, await stub.itself().id) == ("s-1", "s-1")
    assert (pair.count(Call), pair.count(Result)) == (6, 6)
    both: Any = await asyncio.gather(stub.name, stub.itself().name)
    assert both == ["Tea & Co"] * 2


@pytest.mark.parametrize(
    "name", ["owner", "limit", "absent", "itself", "rpc_attributes", "_till", "__class__", "__dict__"]
)
async def test_nothing_but_properties_of_the_class_is_read(root: Any, name: str) -> None:
    """Neither what is set on the object nor what is private, wherever in a chain it is asked for, forged or not."""
    stub, pair = root(Shop())
    taker = pair.guest if stub._channel is pair.guest else pair.host
    for path, links in ((name, [False, None]), (f"itself.{name}", [[], {}, False, None])):
        with pytest.raises(CapabilityError, match=f"no property '{name}'") as refused:
            await taker.call(stub._target, path, values.dumps(links))
        assert ("call it" in str(refused.value)) == (name in {"itself", "rpc_attributes"})


async def test_a_read_that_fails_says_what_of(root: Any) -> None:
    """The property's own error, with its place where there is more than one; or what it was that has no properties."""
    stub, _ = root(Shop())
    with pytest.raises(RemoteError, match="LookupError: it is not there") as told:
        await stub.broken
    assert not hasattr(told.value, "__notes__")
    with pytest.raises(RemoteError, match="it is not there") as told:
        await stub.itself().broken.more
    assert told.value.__notes__ == ["in call 2 of 3: itself.broken.more"]
    with pytest.raises(RemoteError, match="AttributeError: 'more' cannot be read of a str, which is what came before"):
        await stub.name.more
    with pytest.raises(RemoteError, match="AttributeError: 'coffee' cannot be read of a dict"):
        await stub.stock.coffee
    function, _ = root(lambda: 1)
    with pytest.raises(CapabilityError, match="cannot be read of a function"):
        await function.name


async def test_a_method_that_is_looked_at_is_neither_read_nor_sent(root: Any) -> None:
    """Nothing is made of a name but when it is called or awaited."""
    stub, pair = root(Shop())
    method = stub.stock.tea.count
    assert repr(method).startswith("<method count of <method tea of <method stock of <Stub")
    with pytest.raises(CodecError, match="await it, and send its result"):
        await stub.itself(method)
    with pytest.raises(AttributeError):
        _ = method._private
    del method
    gc.collect()
    assert pair.count(Call) == 0
