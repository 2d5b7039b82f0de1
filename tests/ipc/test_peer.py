"""Two peers: capabilities in both directions, their lifetimes, errors, deadlines, and a side that breaks the rules."""

from __future__ import annotations

import abc
import asyncio
import functools
import gc
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cloister.ipc import (
    CapabilityError,
    CodecError,
    Connection,
    ConnectionClosed,
    DeadlineExceeded,
    IpcError,
    PayloadError,
    Peer,
    RemoteError,
    RemoteProtocolError,
    RpcTarget,
    Stub,
    TooManyCalls,
    codec,
    values,
)
from cloister.ipc.answer import Answer
from cloister.ipc.answering import MAX_HELD
from cloister.ipc.capabilities import serve
from cloister.ipc.messages import Call, Cancel, Failure, Goodbye, Message, Note, Release, Result

OpenPair = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]


class Mixin:
    def inherited(self) -> str:
        return "from a base class"


class Store(Mixin, RpcTarget, abc.ABC):
    """What the tests grant: every kind of member that an object may have."""

    limit = 5

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.hidden = lambda: "set on the object"

    def rpc_attributes(self) -> Mapping[str, Any]:
        return {"id": "s-1", "tags": ["a"], "_secret": 1}

    def get(self, key: str, default: object = None) -> object:
        return {"a": 1}.get(key, default)

    async def keep(self, thing: Any) -> int:
        self.kept.append(thing)
        return len(self.kept)

    async def keep_dup(self, thing: Stub) -> None:
        self.kept.append(thing.dup())

    async def use(self, thing: Any) -> Any:
        return await thing("used")

    async def another(self) -> Store:
        return Store()

    def me(self) -> Store:
        return self

    def raises(self, error: str) -> None:
        raise {"ValueError": ValueError("no\ud800 good"), "KeyError": KeyError("k"), "Unsayable": Unsayable()}[error]

    def is_mine(self, thing: object) -> bool:
        return thing is self

    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @property
    def computed(self) -> Callable[[], str]:
        return lambda: "a property"

    def _private(self) -> str:
        return "private"

    def __len__(self) -> int:
        return 7


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Odd(BaseException):
    pass


def grant(pair: Any, thing: object) -> Stub:
    """The guest's stub for something that the host grants."""
    stub, _ = pair.guest.decode(pair.host.encode(thing))
    assert isinstance(stub, Stub)
    return stub


def numbers(pair: Any) -> int:
    """How many capabilities the host has granted."""
    return len(pair.host.exports)


# What can be called


async def test_public_methods_can_be_called(open_pair: OpenPair) -> None:
    """Plain, async, static, of the class and inherited; with arguments by place and by name."""
    stub = grant(open_pair(), Store())
    assert await stub.get("a") == 1
    assert await stub.get("b", default=[1, {"x": 2}]) == [1, {"x": 2}]
    assert await stub.keep("x") == 1
    assert [await stub.static(), await stub.of_class(), await stub.inherited()] == [
        "static", "Store", "from a base class",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["_private", "__len__", "__init__", "__class__", "__getattribute__", "__reduce_ex__", "__dict__", "hidden", "limit",
     "computed", "kept", "register", "mro", "rpc_attributes", "nothing", "", "id"],
)  # fmt: skip
async def test_nothing_else_can(open_pair: OpenPair, name: str) -> None:
    """Private and dunder names, attributes, properties, what is set on the object, the metaclass's, the base's own."""
    pair = open_pair()
    stub = grant(pair, Store())
    with pytest.raises(CapabilityError, match="no method"):
        await pair.guest.call(stub._target, name, values.dumps([[], {}]))


async def test_the_stub_itself_has_no_private_attributes(open_pair: OpenPair) -> None:
    """So that no library takes it for what it is not."""
    stub = grant(open_pair(), Store())
    for name in ("_private", "__len__", "__await__", "_secret", "__fspath__"):
        with pytest.raises(AttributeError):
            getattr(stub, name)


async def test_attributes_travel_with_the_stub(open_pair: OpenPair) -> None:
    """They are read without a word on the wire."""
    pair = open_pair()
    stub = grant(pair, Store())
    assert (stub.id, stub.tags) == ("s-1", ["a"])
    assert pair.said == []


async def test_functions_and_bound_methods_can_be_sent(open_pair: OpenPair) -> None:
    """They are called as such, and have no methods."""
    pair = open_pair()
    double = grant(pair, lambda n: n * 2)
    assert await double(21) == 42
    bound = grant(pair, Store().keep)
    assert [await bound("a"), await bound("b")] == [1, 2]
    with pytest.raises(CapabilityError, match="a function has no method"):
        await double.__getattr__("something")()


async def test_calls_go_both_ways_within_calls(open_pair: OpenPair) -> None:
    """The guest calls the host with a function of its own, which the host calls, which calls the host."""
    pair = open_pair()
    stub = grant(pair, Store())

    async def mine(word: str) -> list[Any]:
        return [word, await stub.get("a")]

    assert await stub.use(mine) == ["used", 1]


async def test_an_object_that_comes_home_is_itself(open_pair: OpenPair) -> None:
    """Not a stub of a stub."""
    pair = open_pair()
    stub = grant(pair, Store())
    assert await stub.is_mine(stub) is True
    same = await stub.me()
    assert same._target == stub._target
    assert numbers(pair) == 1


async def test_forged_and_stale_numbers_are_errors_and_nothing_else(open_pair: OpenPair, until: Until) -> None:
    """A number that was never granted, or not any longer, or on another connection only. It is never used again."""
    pair, other = open_pair(), open_pair()
    for _ in range(5):
        grant(other, Store())
    stub = grant(pair, Store())
    with pytest.raises(CapabilityError, match="capability 4 is not granted"):
        await pair.guest.call(4, "get", values.dumps([["a"], {}]))
    stale = stub._target
    stub.dispose()
    await until(lambda: numbers(pair) == 0)
    again = grant(pair, Store())
    assert again._target != stale
    with pytest.raises(CapabilityError, match="is not granted"):
        await pair.guest.call(stale, "get", values.dumps([["a"], {}]))
    assert await again.get("a") == 1
    assert not pair.closed


async def test_a_forged_reference_to_an_object_at_home_is_an_error(open_pair: OpenPair) -> None:
    """As an argument, too, a number gives nothing that was not granted."""
    pair = open_pair()
    stub = grant(pair, Store())
    forged = values.dumps([[object()], {}], export=lambda _: values.dumps([1, 99]))
    with pytest.raises(CapabilityError, match="capability 99"):
        await pair.guest.call(stub._target, "keep", forged)


@pytest.mark.parametrize(
    "reference",
    [
        [],
        [3, 1],
        [2],
        [2, 1, {}],
        [2, -1],
        [0, 1],
        [0, "1", {}],
        [0, 1, []],
        [1],
        [1, None],
        "x",
        {"a": 1},
        [0, 1, {}, 1],
    ],
)
async def test_references_of_unknown_forms_are_errors(open_pair: OpenPair, reference: object) -> None:
    """They are told to the sender, and the object that was called sees none of it."""
    pair = open_pair()
    store = Store()
    stub = grant(pair, store)
    forged = values.dumps([[object()], {}], export=lambda _: values.dumps(reference))
    with pytest.raises(PayloadError):
        await pair.guest.call(stub._target, "keep", forged)
    assert store.kept == []


@pytest.mark.parametrize("arguments", [None, [], [[], []], [{}, {}], [[], {}, 1], {"a": 1}, 5])
async def test_a_call_carries_a_list_and_a_map(open_pair: OpenPair, arguments: object) -> None:
    """Everything else is refused before the method is looked at."""
    pair = open_pair()
    stub = grant(pair, Store())
    with pytest.raises(PayloadError, match="a list of arguments and a map"):
        await pair.guest.call(stub._target, "keep", values.dumps(arguments))


# Stubs that are passed on


async def passed_on(open_pair: OpenPair) -> tuple[Any, Any, Store, Stub]:
    """An object of one guest that the host holds, and has granted to another guest."""
    owner, user = open_pair(), open_pair()
    store = Store()
    held, _ = owner.host.decode(owner.guest.encode(store))
    owner.held = held
    return owner, user, store, grant(user, held)


async def test_a_stub_can_be_passed_on(open_pair: OpenPair) -> None:
    """The host stands between: each guest names only what was granted on its own connection."""
    _, _, store, stub = await passed_on(open_pair)
    assert await stub.get("a") == 1
    assert stub.id == "s-1"
    assert await stub.use(lambda word: word + " through two connections") == "used through two connections"
    assert await stub.keep({"x": [1]}) == 1
    assert store.kept == [{"x": [1]}]


async def test_a_function_can_be_passed_on(open_pair: OpenPair) -> None:
    """It is called, and has no methods there either."""
    owner, user = open_pair(), open_pair()
    held, _ = owner.host.decode(owner.guest.encode(lambda n: n + 1))
    stub = grant(user, held)
    assert await stub(1) == 2
    with pytest.raises(CapabilityError):
        await stub.anything()


@pytest.mark.parametrize(
    "name",
    ["__init__", "__setattr__", "__getattribute__", "__class__", "__reduce_ex__", "__del__", "__exit__", "_channel",
     "_target", "_attributes", "__repr__"],
)  # fmt: skip
async def test_a_stub_that_is_passed_on_gives_away_nothing_of_itself(open_pair: OpenPair, name: str) -> None:
    """Or a guest could point the host's own stub at something else."""
    owner, user, _, stub = await passed_on(open_pair)
    with pytest.raises(CapabilityError, match="no method"):
        await user.guest.call(stub._target, name, values.dumps([["_target", 0], {}]))
    assert owner.count(Call) == 0
    assert await owner.held.get("a") == 1


@pytest.mark.parametrize("name", ["dispose", "dup"])
async def test_another_guest_cannot_end_the_hosts_stub(open_pair: OpenPair, name: str) -> None:
    """What is a method of the stub here is a method of the object over there, which has none of that name."""
    _, user, _, stub = await passed_on(open_pair)
    with pytest.raises(CapabilityError, match="Store has no method"):
        await user.guest.call(stub._target, name, values.dumps([[], {}]))
    assert await stub.get("a") == 1


# Lifetimes


async def test_a_parameter_lives_until_the_call_returns(open_pair: OpenPair, until: Until) -> None:
    """After that the stub is dead, and the object that was lent is forgotten."""
    pair = open_pair()
    store = Store()
    stub = grant(pair, store)
    await stub.keep(lambda: "mine")
    with pytest.raises(CapabilityError, match=r"dup\(\) it in time"):
        await store.kept[0]()
    with pytest.raises(CapabilityError, match="disposed"):
        store.kept[0].dup()
    await until(lambda: len(pair.guest.exports) == 0)


async def test_a_duplicate_outlives_the_call(open_pair: OpenPair, until: Until) -> None:
    """Until the last duplicate is disposed of; disposing of one twice does not count twice."""
    pair = open_pair()
    store = Store()
    stub = grant(pair, store)
    await stub.keep_dup(lambda: "mine")
    first = store.kept[0]
    second = first.dup()
    first.dispose()
    first.dispose()
    assert await second() == "mine"
    assert len(pair.guest.exports) == 1
    second.dispose()
    await until(lambda: len(pair.guest.exports) == 0)
    with pytest.raises(CapabilityError):
        await second()


async def test_many_are_let_go_of_at_the_cost_of_one(
    open_pair: OpenPair, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is woken once for all that are disposed of together, and again for what comes later."""
    loop, woken = asyncio.get_running_loop(), []
    wake = loop.call_soon_threadsafe

    def wake_and_count(*call: Any, **more: Any) -> asyncio.Handle:
        woken.append(call)
        return wake(*call, **more)

    monkeypatch.setattr(loop, "call_soon_threadsafe", wake_and_count)
    pair = open_pair()
    for again in (1, 2):
        stubs = [pair.host.decode(pair.guest.encode(lambda: None))[0] for _ in range(100)]
        for stub in stubs:
            stub.dispose()
        assert len(woken) == again
        await until(lambda: not len(pair.guest.exports))


async def test_a_result_lives_until_it_is_disposed_of(open_pair: OpenPair, until: Until) -> None:
    """By hand, or at the end of a `with`."""
    pair = open_pair()
    stub = grant(pair, Store())
    with await stub.another() as result:
        assert numbers(pair) == 2
        assert await result.get("a") == 1
    await until(lambda: numbers(pair) == 1)
    with pytest.raises(CapabilityError):
        await result.get("a")
    assert "disposed" in repr(result)


async def test_a_result_that_nobody_holds_is_forgotten(open_pair: OpenPair, until: Until) -> None:
    """The collector lets go of it, from whichever thread."""
    pair = open_pair()
    stub = grant(pair, Store())
    others = [await stub.another() for _ in range(3)]
    assert numbers(pair) == 4
    await asyncio.to_thread(others.clear)
    gc.collect()
    await until(lambda: numbers(pair) == 1)


async def test_an_object_that_is_sent_twice_is_held_twice(open_pair: OpenPair, until: Until) -> None:
    """It has one number, and is forgotten when both stubs are gone."""
    pair = open_pair()
    store = Store()
    one, two = grant(pair, store), grant(pair, store)
    assert one._target == two._target
    one.dispose()
    await until(lambda: pair.count(Release) == 1)
    assert await two.get("a") == 1
    two.dispose()
    await until(lambda: numbers(pair) == 0)


async def test_what_could_not_be_sent_was_not_granted(open_pair: OpenPair) -> None:
    """A value with a capability and something unsendable in it grants nothing."""
    pair = open_pair()
    for bad in ([Store(), object()], [Store(), bytes(values.MAX_BYTES)], {"a": lambda: 1, "b": 2**70}):
        with pytest.raises(CodecError):
            pair.host.encode(bad)
    assert numbers(pair) == 0
    stub = grant(pair, Store())
    with pytest.raises(CodecError):
        await stub.keep(lambda: 1, object())
    assert len(pair.guest.exports) == 0


@pytest.mark.parametrize(("target", "count"), [(0, 2), (7, 1), (0, 2**40)])
async def test_letting_go_of_what_is_not_held_is_a_violation(
    open_pair: OpenPair, until: Until, target: int, count: int
) -> None:
    """Or a guest could make the host forget what another part of it still holds."""
    pair = open_pair()
    held = grant(pair, Store())
    pair.host.deliver(codec.encode(Release(target, count)))
    await until(lambda: pair.closed)
    assert isinstance(pair.closed[0], RemoteProtocolError)
    assert held is not None
    assert numbers(pair) == 0


async def test_grants_are_bounded(open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that asks for one object after the other and lets none go is told so."""
    monkeypatch.setattr("cloister.ipc.exports.MAX_GRANTS", 3)
    pair = open_pair()
    stub = grant(pair, Store())
    kept = [await stub.another() for _ in range(2)]
    with pytest.raises(RemoteError, match="dispose of some"):
        await stub.another()
    assert len(kept) == 2


async def test_what_was_let_go_of_before_an_answer_is_gone_when_the_answer_is_read(open_pair: OpenPair) -> None:
    """Also if both arrive together, and whoever waits goes on as soon as it may."""
    pair = open_pair()
    held = grant(pair, Store())
    left: list[int] = []

    async def ask() -> None:
        await pair.host.call(0, "m", b"")
        left.append(numbers(pair))

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    (number,) = pair.host.connection._outgoing
    released, answered = codec.encode(Release(held._target, 1)), codec.encode(Result(number, b""))
    asyncio.get_running_loop().call_soon(lambda: (pair.host.deliver(released), pair.host.deliver(answered)))
    await asking
    assert left == [0]


async def test_what_was_answered_before_the_end_is_found_where_it_is_read_after_it(open_pair: OpenPair) -> None:
    """What was let go of before has it wait for a turn, in which the connection may end: it was said all the same."""
    pair = open_pair()
    store = Store()
    held, other = grant(pair, store), grant(pair, Store())

    async def ask() -> object:
        return pair.host.decode(await pair.host.call(0, "m", b""))[0]

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    (number,) = pair.host.connection._outgoing
    said: list[Message] = [Release(other._target, 1), Result(number, pair.guest.encode(held)), Goodbye(b"over")]
    asyncio.get_running_loop().call_soon(lambda: [pair.host.deliver(codec.encode(message)) for message in said])
    assert await asking is store
    await asyncio.sleep(0)
    assert numbers(pair) == 0


async def test_an_object_comes_home_even_if_it_is_let_go_of_at_once(open_pair: OpenPair) -> None:
    """The result that it is in was said before the release, and is read before it."""
    pair = open_pair()
    store = Store()
    held, _ = pair.host.decode(pair.guest.encode(lambda thing: thing))
    for _ in range(3):
        assert await held(store) is store


# Errors


async def test_what_was_raised_is_told_by_name_and_message(open_pair: OpenPair) -> None:
    """What has no class of its own here is a `RemoteError`; the host's traceback is not for guests."""
    stub = grant(open_pair(), Store())
    with pytest.raises(RemoteError, match=r"^ValueError: no\? good$") as told:
        await stub.raises("ValueError")
    assert (told.value.name, told.value.message, told.value.trace) == ("ValueError", "no? good", "")
    with pytest.raises(RemoteError, match=r"^KeyError: 'k'$"):
        await stub.raises("KeyError")
    with pytest.raises(RemoteError, match=r"^TypeError: .*argument"):
        await stub.get()


async def test_a_traceback_is_told_where_it_is_wanted(open_pair: OpenPair) -> None:
    """The guest's is the host's to see."""
    pair = open_pair(guest={"trace": lambda error: f"trace of {error}"})
    held, _ = pair.host.decode(pair.guest.encode(Store()))
    with pytest.raises(RemoteError) as told:
        await held.raises("KeyError")
    assert told.value.trace == "trace of 'k'"


async def test_an_exception_without_words_is_answered_all_the_same(open_pair: OpenPair) -> None:
    """Its class is told, and that it could not say more."""
    stub = grant(open_pair(), Store())
    with pytest.raises(RemoteError, match=r"^Unsayable: its message cannot be read: RuntimeError"):
        await stub.raises("Unsayable")


@pytest.mark.parametrize("kind", [Odd, GeneratorExit, asyncio.CancelledError])
async def test_whatever_is_raised_is_an_answer(open_pair: OpenPair, kind: type[BaseException]) -> None:
    """Also what is not an `Exception`: the caller must not wait for ever."""

    async def target() -> None:
        raise kind("x")

    stub = grant(open_pair(), target)
    with pytest.raises(RemoteError, match=f"^{kind.__name__}: x"):
        await stub()


async def test_an_error_that_was_told_twice_keeps_its_name(open_pair: OpenPair) -> None:
    """Through the host, from one guest to another."""
    _, _, _, stub = await passed_on(open_pair)
    with pytest.raises(RemoteError, match=r"^KeyError: 'k'$"):
        await stub.raises("KeyError")


async def test_errors_of_the_protocol_keep_their_class(open_pair: OpenPair) -> None:
    """So that a caller can tell a capability that is gone from a method that failed."""
    pair = open_pair()

    async def refuse() -> None:
        raise CapabilityError("not for you")

    with pytest.raises(CapabilityError, match="not for you"):
        await grant(pair, refuse)()


async def test_long_words_are_cut_by_whoever_receives_them(open_pair: OpenPair) -> None:
    """The sender cuts too, but may not be the one that it should be."""
    pair = open_pair()
    held, _ = pair.host.decode(pair.guest.encode(lambda: 1))
    answer = asyncio.ensure_future(held())
    await asyncio.sleep(0)
    long = values.dumps(["N" * 10**6, "m" * 10**6, "t" * 10**6])
    pair.host.deliver(codec.encode(Failure(1, long)))
    with pytest.raises(RemoteError) as told:
        await answer
    assert len(told.value.name) <= 128
    assert len(told.value.message) <= 8192
    assert len(told.value.trace) <= 32_768
    pair.guest.close(ConnectionClosed("over"))


async def test_a_result_that_cannot_be_sent_is_an_error_of_the_callee(open_pair: OpenPair) -> None:
    """Its type or size is named, nothing is granted for it, and the connection goes on."""
    pair = open_pair()
    stub = grant(pair, lambda kind: {"type": [Store(), object()], "size": bytes(2**24)}[kind])
    with pytest.raises(RemoteError, match=r"^CodecError: what 'it' returned cannot be sent: <class 'object'>"):
        await stub("type")
    with pytest.raises(
        RemoteError, match=r"^CodecError: what 'it' returned cannot be sent: the value takes 16,777,221 bytes"
    ):
        await stub("size")
    assert numbers(pair) == 1
    assert not pair.closed


async def test_an_argument_that_cannot_be_sent_is_an_error_of_the_caller(open_pair: OpenPair) -> None:
    """Nothing is sent."""
    pair = open_pair()
    stub = grant(pair, Store())
    for name, argument in (("keep", 2**70), ("k" * 200, 1), ("k\ud800", 1)):
        with pytest.raises(CodecError):
            await getattr(stub, name)(argument)
    assert pair.said == []
    assert pair.guest.connection.calls_in_flight == 0


# Deadlines and cancellation


async def test_a_deadline_is_told_to_the_caller_and_cancels_the_callee(open_pair: OpenPair, until: Until) -> None:
    """The answer that comes all the same is dropped; other calls go on."""
    pair = open_pair()
    begun, ended = list[int](), list[str]()

    async def slow() -> None:
        begun.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.append(str(error))
            raise

    stub = grant(pair, slow)
    other = asyncio.ensure_future(stub())
    late = asyncio.ensure_future(pair.guest.call(stub._target, "", values.dumps([[], {}]), timeout=3600))
    await until(lambda: len(begun) == 2)
    [number] = [call for call, deadline in pair.guest.connection._outgoing.items() if deadline is not None]
    pair.guest.connection._outgoing[number] = 0.0  # its time is over
    pair.guest._expire()
    with pytest.raises(DeadlineExceeded):
        await late
    await until(lambda: ended == ["cancelled by the caller"])
    await until(lambda: not pair.guest.connection.cancelled)
    assert not other.done()
    other.cancel()
    await until(lambda: len(ended) == 2)
    assert pair.count(Cancel) == 2
    assert not pair.closed


async def test_deadlines_pass_in_their_own_order(open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter one that comes later does not wait for a longer one."""
    pair = open_pair()
    stub = grant(pair, asyncio.Event().wait)
    order: list[str] = []

    async def call(name: str, timeout: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await pair.guest.call(stub._target, "", values.dumps([[], {}]), timeout=timeout)
        order.append(name)

    loop = asyncio.get_running_loop()
    now = loop.time()
    with monkeypatch.context() as still:
        still.setattr(loop, "time", lambda: now)  # they begin together, however busy the machine is
        calls = [asyncio.ensure_future(call(*each)) for each in (("long", 0.06), ("short", 0.01), ("middle", 0.03))]
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert order == ["short", "middle", "long"]


async def test_a_callee_that_ignores_being_cancelled_is_known_to_be_busy(open_pair: OpenPair, until: Until) -> None:
    """The owner hears of each call that was given up, and sees when its answer has come."""
    pair = open_pair()
    go_on = asyncio.Event()

    async def stubborn() -> str:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        await go_on.wait()
        return "at last"

    stub = grant(pair, stubborn)
    call = asyncio.ensure_future(stub())
    await until(lambda: pair.count(Call) == 1)
    await asyncio.sleep(0)
    call.cancel()
    await until(lambda: pair.count(Cancel) == 1)
    assert pair.guest.connection.cancelled.keys() == {1}
    go_on.set()
    await until(lambda: pair.count(Result) == 1)
    await until(lambda: not pair.guest.connection.cancelled)


async def test_giving_up_is_told_to_the_owner(until: Until) -> None:
    """Even when the other side cannot be told."""
    given_up: list[int] = []
    full = False

    def send(_: bytes) -> None:
        if full:
            raise TooManyCalls("the queue is full")

    peer = Peer(Connection(greeted=True), send, on_cancel=lambda call, _: given_up.append(call))
    call = asyncio.ensure_future(peer.call(0, "m", b""))
    await asyncio.sleep(0)
    full = True
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert given_up == [1]


async def test_a_call_that_cannot_be_sent_is_not_in_flight() -> None:
    """The caller is told why; no deadline of it goes off later, and its place is free."""

    def send(_: bytes) -> None:
        raise TooManyCalls("the queue is full")

    peer = Peer(Connection(greeted=True, max_calls=1), send)
    for _ in range(3):
        with pytest.raises(TooManyCalls, match="the queue is full"):
            await peer.call(0, "m", b"", timeout=0.001)
    assert peer.connection.calls_in_flight == 0
    assert peer.connection.next_deadline() is None
    peer.note("t", b"")


async def test_too_many_calls_are_told_to_the_caller(open_pair: OpenPair, until: Until) -> None:
    """Those in flight go on."""
    pair = open_pair(max_calls=2)
    gate = asyncio.Event()
    stub = grant(pair, gate.wait)
    calls = [asyncio.ensure_future(stub()) for _ in range(2)]
    await until(lambda: pair.count(Call) == 2)
    with pytest.raises(TooManyCalls):
        await stub()
    gate.set()
    assert await asyncio.gather(*calls) == [True, True]


# The end


async def test_closing_fails_calls_in_flight_and_later_ones_with_the_same_error(
    open_pair: OpenPair, until: Until
) -> None:
    """What was being answered is cancelled, what was granted is forgotten, and the owner hears of it once."""
    pair = open_pair()
    cancelled: list[bool] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    held, _ = pair.host.decode(pair.guest.encode(slow))
    stub = grant(pair, slow)
    outgoing = [asyncio.ensure_future(held()) for _ in range(3)]
    incoming = asyncio.ensure_future(stub())
    await until(lambda: pair.count(Call) == 4)
    await asyncio.sleep(0)
    reason = ConnectionClosed("the machine is on fire")
    pair.host.close(reason)
    pair.host.close(ConnectionClosed("again"))
    for call in outgoing:
        with pytest.raises(ConnectionClosed, match="on fire"):
            await call
    with pytest.raises(ConnectionClosed, match="on fire"):
        await held()
    await until(lambda: cancelled)
    assert pair.closed == [reason]
    assert numbers(pair) == 0
    held.dispose()
    pair.guest.close(reason)
    with pytest.raises(ConnectionClosed):
        await incoming


async def test_goodbye_closes_with_its_reason(open_pair: OpenPair) -> None:
    """Cut to what is worth reading, whatever bytes it is."""
    pair = open_pair()
    held, _ = pair.host.decode(pair.guest.encode(lambda: 1))
    call = asyncio.ensure_future(held())
    await asyncio.sleep(0)
    pair.host.deliver(codec.encode(Goodbye(b"\xffbye\x1b[2J" + b"x" * 10**6)))
    with pytest.raises(ConnectionClosed, match="bye") as told:
        await call
    assert len(str(told.value)) < 10_000
    assert "\x1b" not in str(told.value)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"garbage",
        codec.encode(Result(99, b"")),
        codec.encode(Failure(1, b"\xc1")),
        codec.encode(Failure(1, values.dumps(["only", "two"]))),
        codec.encode(Failure(1, values.dumps({"name": "x"}))),
        bytes(codec.MAX_FRAME + 1),
    ],
)
async def test_a_violation_ends_the_conversation(open_pair: OpenPair, frame: bytes) -> None:
    """Calls in flight fail with it, and what comes after it is not read."""
    pair = open_pair()
    held, _ = pair.host.decode(pair.guest.encode(lambda: 1))
    call = asyncio.ensure_future(held())
    await asyncio.sleep(0)
    pair.host.deliver(frame)
    pair.host.deliver(codec.encode(Note("after", b"")))
    with pytest.raises(RemoteProtocolError):
        await call
    assert len(pair.closed) == 1
    assert isinstance(pair.closed[0], RemoteProtocolError)
    assert pair.notes == []
    await asyncio.sleep(0)


async def test_a_value_that_is_too_much_is_the_senders_fault(open_pair: OpenPair) -> None:
    """What an untrusted side sends is walked before it is built, attributes of capabilities included."""
    pair = open_pair()
    many = values.dumps([0, 1, {"a": [[]] * 1000}])
    bomb = values.dumps([[[object()] * 1000], {}], export=lambda _: many)
    stub = grant(pair, Store())
    with pytest.raises(PayloadError, match="elements"):
        await pair.guest.call(stub._target, "keep", bomb)
    assert not pair.closed


async def test_notes_arrive_in_order_and_want_no_answer(open_pair: OpenPair, until: Until) -> None:
    """And cost nothing when there is nobody to hear them."""
    pair = open_pair()
    for n in range(3):
        pair.guest.note("log", values.dumps(n))
    await until(lambda: len(pair.notes) == 3)
    assert [values.loads(payload) for _, payload in pair.notes] == [0, 1, 2]
    pair.guest.close(ConnectionClosed("over"))
    pair.guest.note("log", b"")
    assert pair.count(Note) == 3


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What the other side raised is no news for the log above debug."""
    caplog.set_level(logging.INFO, "cloister.ipc")


@pytest.mark.parametrize("where", ["when it is sent", "when its frame is made"])
@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (TooManyCalls("the queue is full"), r"^(the answer cannot be sent: )?the queue is full$"),
        (MemoryError(), r"^MemoryError(: the answer cannot be sent)?$"),
    ],
    ids=["no room", "no memory"],
)
async def test_an_answer_that_there_is_no_room_for_is_told_of(
    open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch, refusal: Exception, told: str, where: str
) -> None:
    """Whoever waits for it hears that, and the next one that fits is heard as ever."""
    pair = open_pair()
    carry, encode = pair.host._send, codec.encode

    def refuse_large(frame: bytes) -> None:
        if len(frame) > 1000:
            raise refusal
        carry(frame)

    def refuse_long(message: Message) -> bytes:
        if isinstance(message, Result) and len(message.payload) > 1000:
            raise refusal
        return encode(message)

    if where == "when it is sent":
        pair.host._send = refuse_large
    else:
        monkeypatch.setattr(codec, "encode", refuse_long)
    pair.host.exports.grant(Echo())
    async with asyncio.timeout(100):
        with pytest.raises(IpcError, match=told):
            await pair.guest.call(0, "say", pair.guest.encode([["x" * 5000], {}]))
        assert values.loads(await pair.guest.call(0, "say", pair.guest.encode([["x"], {}]))) == "x"


async def test_what_calls_hold_is_let_go_of_when_they_are_answered(open_pair: OpenPair) -> None:
    """Any number of them, one after the other, whatever they hold together."""
    pair = open_pair()
    pair.host.exports.grant(Echo())
    payload = pair.guest.encode([["x" * (MAX_HELD // 5)], {}])
    for _ in range(8):
        assert len(await pair.guest.call(0, "length", payload)) < 10


class Desk(RpcTarget):
    """Keeps calls waiting until it is opened, whatever came with them."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def wait(self, thing: object) -> None:
        await self.opened.wait()

    async def read(self, ask: Any, times: int) -> int:
        return sum([len(await ask()) for _ in range(times)])


async def test_what_calls_hold_is_counted_as_what_becomes_of_it(open_pair: OpenPair, until: Until) -> None:
    """A megabyte of empty lists is sixty-four: many small things are refused long before their bytes would be."""
    pair, desk = open_pair(hold=lambda _more, held: held <= 1 << 20), Desk()
    stub = pair.guest.decode(pair.host.encode(desk))[0]
    each = 1000
    most = (1 << 20) // (65 * each)  # with the bytes as which they come
    calls = [asyncio.ensure_future(stub.wait([[]] * each)) for _ in range(most)]
    await until(lambda: len(pair.host._answering) == most)
    async with asyncio.timeout(100):  # if they were taken they would wait
        with pytest.raises(TooManyCalls, match="hold more than 64 MiB of arguments"):
            await stub.wait([[]] * each)
        with pytest.raises(TooManyCalls):
            await stub.wait([print, *[[]] * each])
    await until(lambda: not len(pair.guest.exports))  # what was granted with them is given back
    assert not any(call.done() for call in calls)
    desk.opened.set()
    await asyncio.gather(*calls)
    for _ in range(2 * most):
        await stub.wait([[]] * each)


async def test_what_a_call_reads_meanwhile_is_not_what_it_holds(open_pair: OpenPair) -> None:
    """Answers to calls of its own, which it may forget: any number of them."""
    pair = open_pair(hold=lambda _more, held: held <= 1 << 20)
    stub = pair.guest.decode(pair.host.encode(Desk()))[0]
    assert await stub.read(lambda: [0] * 1000, 40) == 40_000


class Echo:
    """Answers with what it was told, or with how long that is."""

    attributes: Mapping[str, Any] = {}

    async def answer(self, method: str, payload: bytes, channel: Any) -> bytes:
        [[text], _], _ = channel.decode(payload)
        return values.dumps(text if method == "say" else len(text))


async def test_a_stub_of_somebody_elses_comes_home_and_stays_where_it_was(open_pair: OpenPair) -> None:
    """What was lent for a call ends with it, and not what was granted before."""
    owner, user = open_pair(), open_pair()
    held = owner.host.decode(owner.guest.encode(lambda: "here"))[0]
    stub, ask = user.guest.decode(user.host.encode([held, lambda function: function()]))[0]
    for _ in range(3):
        assert await ask(stub) == "here"
    assert await stub() == "here"


async def test_who_calls_after_the_end_is_told_so_any_number_of_times(open_pair: OpenPair) -> None:
    """The error holds no more for that."""
    pair = open_pair()
    stub = pair.host.decode(pair.guest.encode(lambda: None))[0]
    pair.host.close(ConnectionClosed("over"))
    depths = set()
    for _ in range(5):
        with pytest.raises(ConnectionClosed) as told:
            await stub()
        depths.add(len(list(traceback.walk_tb(told.value.__traceback__))))
    assert len(depths) == 1


async def test_nothing_is_done_for_a_peer_that_was_closed_for_what_it_asked(open_pair: OpenPair) -> None:
    """Neither when it was closed for the call nor for what came with it; and what is under way then ends."""
    made: list[str] = []
    ended = asyncio.Event()

    class Thing(RpcTarget):
        def rpc_disposed(self) -> None:
            made.append("disposed")

    def make(*_: object) -> Thing:
        made.append("made")
        return Thing()

    async def late() -> None:
        pair.host.close(RemoteProtocolError("too much"))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def at_once() -> Thing:
        pair.host.close(RemoteProtocolError("too much"))
        return make()

    def close(*_: int) -> None:
        pair.host.close(RemoteProtocolError("too much"))

    for way in ("on_call", "on_read"):
        pair = open_pair(**{way: close})
        number = pair.guest.decode(pair.host.encode(make))[0]._target
        pair.host.deliver(codec.encode(Call(1, number, "", values.dumps([[], {}]))))
        await asyncio.sleep(0)
        assert made == []
    pair = open_pair()
    number = pair.guest.decode(pair.host.encode(late))[0]._target
    pair.host.deliver(codec.encode(Call(1, number, "", values.dumps([[], {}]))))
    await asyncio.wait_for(ended.wait(), 100)
    pair = open_pair()
    number = pair.guest.decode(pair.host.encode(at_once))[0]._target
    pair.host.deliver(codec.encode(Call(1, number, "", values.dumps([[], {}]))))
    await asyncio.sleep(0)
    assert made == ["made"]
    assert len(pair.host.exports) == 0


async def test_a_call_that_is_given_up_in_any_turn_keeps_nothing(open_pair: OpenPair, until: Until) -> None:
    """Neither before its answer has come nor after, nor in the turn in which both happen."""

    def only_the_first(pair: Any) -> bool:
        return len(pair.host.exports) == 1

    for turns in range(12):
        pair = open_pair()
        stub = pair.guest.decode(pair.host.encode(lambda: lambda: None))[0]

        async def call(stub: Any = stub) -> Any:
            return await stub()

        task = asyncio.create_task(call())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result().dispose()
        await until(functools.partial(only_the_first, pair))
        assert pair.guest.connection.calls_in_flight == 0


async def test_what_is_asked_of_a_task_that_holds_the_loop_up_is_answered_meanwhile(open_pair: OpenPair) -> None:
    """A program that waits for an upload without giving the loop its turn is asked for the pieces of it: on every
    Python, and the task that waits is the one that runs afterwards too."""
    pair, seen = open_pair(), []

    async def piece() -> bytes:
        seen.append(asyncio.current_task())
        return b"piece"

    target = pair.guest.exports.grant(serve(piece))
    call = pair.host.connection.call(target, "", pair.host.encode([[], {}]))[1]
    pair.guest.deliver(call)
    sender, answer = pair.said[-1]
    assert (sender, values.loads(answer.payload)) == ("guest", b"piece")
    assert len(seen) == 1
    assert seen[0] is not asyncio.current_task() is not None


class Pledging(Echo):
    """Gives its word for answers, which a test keeps when it likes."""

    def __init__(self) -> None:
        self.pledged: list[Answer] = []

    def pledge(self, method: str, payload: bytes, channel: Any) -> Answer | None:
        if method == "raise":
            raise PayloadError("not this way")
        if method != "wait":
            return None
        self.pledged.append(Answer(asyncio.get_running_loop()))
        return self.pledged[-1]


async def test_what_is_pledged_is_answered_when_it_comes(open_pair: OpenPair, until: Until) -> None:
    """Without a task that waits meanwhile, in whichever order, by a result or by what was raised."""
    pair, pledging = open_pair(), Pledging()
    pair.host.exports.grant(pledging)
    calls = [asyncio.ensure_future(pair.guest.call(0, "wait", b"\x90")) for _ in range(3)]
    await until(lambda: len(pledging.pledged) == 3)
    assert not pair.host._answering
    pledging.pledged[1].settle(b"second")
    pledging.pledged[2].fail(TooManyCalls("no more"))
    assert await calls[1] == b"second"
    with pytest.raises(IpcError, match="no more"):
        await calls[2]
    pledging.pledged[0].settle(b"first")
    assert await calls[0] == b"first"


@pytest.mark.parametrize("method", ["raise", "say"])
async def test_what_is_not_pledged_is_answered_as_ever(open_pair: OpenPair, method: str) -> None:
    """Whether the capability says so or fails at it."""
    pair = open_pair()
    pair.host.exports.grant(Pledging())
    answer = await pair.guest.call(0, method, pair.guest.encode([["x"], {}]))
    assert values.loads(answer) == ("x" if method == "say" else 1)


async def test_a_pledged_call_that_is_given_up_is_still_answered(open_pair: OpenPair, until: Until) -> None:
    """So that its number is free again; nobody hears it."""
    pair, pledging = open_pair(), Pledging()
    pair.host.exports.grant(pledging)
    call = asyncio.ensure_future(pair.guest.call(0, "wait", b"\x90"))
    await until(lambda: pledging.pledged)
    call.cancel()
    await until(lambda: pair.count(Cancel))
    pledging.pledged[0].settle(b"\x90")
    await until(lambda: pair.count(Result))
    assert not pair.closed


async def test_what_is_pledged_when_the_connection_ends_is_told_to_nobody(open_pair: OpenPair, until: Until) -> None:
    """It comes all the same, and harms nobody."""
    pair, pledging = open_pair(), Pledging()
    pair.host.exports.grant(pledging)
    call = asyncio.ensure_future(pair.guest.call(0, "wait", b"\x90"))
    await until(lambda: pledging.pledged)
    pair.host.close(ConnectionClosed("over"))
    pledging.pledged[0].settle(b"\x90")
    await asyncio.sleep(0)
    assert not pair.count(Result)
    call.cancel()


async def test_arguments_of_pledged_calls_are_held_until_they_are_answered(open_pair: OpenPair, until: Until) -> None:
    """They count with all others, and what is too much is refused in the same words."""
    held: list[tuple[int, int]] = []

    def hold(more: int, all_of_it: int) -> bool:
        held.append((more, all_of_it))
        return all_of_it <= 10

    pair, pledging = open_pair(hold=hold), Pledging()
    pair.host.exports.grant(pledging)
    first = asyncio.ensure_future(pair.guest.call(0, "wait", b"\xa7pledged"))
    await until(lambda: pledging.pledged)
    with pytest.raises(IpcError, match="hold more than"):
        await pair.guest.call(0, "wait", b"\xa7refused")
    pledging.pledged[0].settle(b"\x90")
    assert await first == b"\x90"
    assert held[-1] == (-8, 0)
    assert len(pledging.pledged) == 1
