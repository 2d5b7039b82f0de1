"""What a host grants and a tenant gives back: objects, functions and nested stubs, in env, arguments and results."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from cloister.ipc import RemoteError
from cloister.loader import (
    CapabilityError,
    EntrypointNotFound,
    Limits,
    Loader,
    RpcTarget,
    SandboxError,
    TenantError,
    WorkerCode,
    WorkerStub,
    revocable,
)
from cloister.sandbox.intake import Intake

Code = Callable[..., WorkerCode]
MakeWorker = Callable[..., WorkerStub]


class Account(RpcTarget):
    """A host's object: a method that is a coroutine, one that is not, and things that are nobody's business."""

    secret = "class attribute"

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.balance = 0
        self.callback: Callable[..., Any] = print

    def rpc_attributes(self) -> Mapping[str, Any]:
        return {"owner": self.owner}

    async def deposit(self, amount: int, *, note: str = "") -> list[Any]:
        """May be called."""
        self.balance += amount
        return [self.balance, note]

    def peek(self) -> int:
        """May be called."""
        return self.balance

    def sibling(self, owner: str) -> Account:
        """Grants another one."""
        return Account(owner)

    def refuse(self) -> None:
        """Raises."""
        raise PermissionError("not on a Sunday")

    def _internal(self) -> str:
        return "never"

    @property
    def total(self) -> int:
        return self.balance


CALLER = """
    from workers import WorkerEntrypoint, RpcTarget

    class Counter(RpcTarget):
        def __init__(self):
            self.n = 0
        async def add(self, by=1):
            self.n += by
            return self.n
        def _hidden(self):
            return "never"

    class Default(WorkerEntrypoint):
        async def call(self, target, name, *args, **kwargs):
            return await getattr(target, name)(*args, **kwargs)
        async def granted(self, binding, name, *args, **kwargs):
            return await getattr(self.env[binding], name)(*args, **kwargs)
        async def attribute(self, binding, name):
            return getattr(self.env[binding], name)
        async def apply(self, function, *args):
            return await function(*args)
        async def outcome(self, binding, name, *args):
            try:
                return ["returned", await getattr(self.env[binding], name)(*args)]
            except Exception as error:
                return [type(error).__name__, getattr(error, "name", type(error).__name__), str(error)]
        async def chain(self, names):
            account = self.env.ACCOUNT
            for name in names:
                account = await account.sibling(name)
            return account.owner, await account.deposit(1)
        async def counter(self):
            return Counter()
        async def adder(self, n):
            return lambda m: n + m
        async def echo(self, value):
            return value
        async def keep(self, target):
            global kept
            kept = target
        async def keep_a_copy(self, target):
            global kept
            kept = target.dup()
        async def use_kept(self):
            return await kept.peek()
        async def let_go(self):
            kept.dispose()
"""


async def test_a_target_in_env_is_called_with_arguments_of_both_kinds(worker: MakeWorker) -> None:
    """Coroutine or not, positional or named; and what it knows without asking is an attribute."""
    account = Account("Ann")
    entrypoint = worker(CALLER, env={"ACCOUNT": account}).get_entrypoint()
    assert await entrypoint.granted("ACCOUNT", "deposit", 5, note="first") == [5, "first"]
    assert await entrypoint.granted("ACCOUNT", "peek") == 5
    assert await entrypoint.attribute("ACCOUNT", "owner") == "Ann"
    assert account.balance == 5


async def test_a_function_in_env_is_called_as_one(worker: MakeWorker) -> None:
    """Functions, coroutine functions and bound methods."""
    account = Account("Ann")

    def double(value: int) -> int:
        return value * 2

    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value * 3

    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def all(self):
                return [await self.env.DOUBLE(4), await self.env.LATER(value=4), await self.env.DEPOSIT(4, note="n")]
    """
    env = {"DOUBLE": double, "LATER": later, "DEPOSIT": account.deposit}
    assert await worker(source, env=env).get_entrypoint().all() == [8, 12, [4, "n"]]


async def test_what_is_granted_may_lie_deep_in_plain_data(worker: MakeWorker) -> None:
    """Nested in lists and dicts, in env and in arguments."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def total(self, given):
                granted = self.env.BANK["accounts"]
                return [await account.peek() for account in (*granted, *given["more"][0])]
    """
    accounts = [Account(name) for name in "abcd"]
    for number, account in enumerate(accounts):
        account.balance = number
    entrypoint = worker(source, env={"BANK": {"accounts": accounts[:2]}}).get_entrypoint()
    assert await entrypoint.total({"more": [accounts[2:]]}) == [0, 1, 2, 3]


async def test_a_capability_may_grant_further_ones(worker: MakeWorker) -> None:
    """Each result that is an object is a capability of its own."""
    assert await worker(CALLER, env={"ACCOUNT": Account("a")}).get_entrypoint().chain(list("bcd")) == ["d", [1, ""]]


async def test_an_argument_is_let_go_of_when_the_call_returns(worker: MakeWorker) -> None:
    """Kept without `dup()` it is dead afterwards, and says so."""
    entrypoint = worker(CALLER).get_entrypoint()
    await entrypoint.keep(Account("Ann"))
    with pytest.raises(TenantError, match=r"CapabilityError.*dup\(\)"):
        await entrypoint.use_kept()


async def test_a_duplicate_outlives_the_call_and_ends_when_it_is_let_go(worker: MakeWorker) -> None:
    """The host keeps the object exactly as long."""
    entrypoint = worker(CALLER).get_entrypoint()
    account = Account("Ann")
    account.balance = 7
    await entrypoint.keep_a_copy(account)
    assert await entrypoint.use_kept() == 7
    await entrypoint.let_go()
    gone = weakref.ref(account)
    del account
    await entrypoint.echo(1)
    gc.collect()
    assert gone() is None


async def test_a_tenant_gives_objects_and_functions_to_the_host(worker: MakeWorker) -> None:
    """They keep their state in the sandbox between calls."""
    entrypoint = worker(CALLER).get_entrypoint()
    counter = await entrypoint.counter()
    assert [await counter.add(), await counter.add(by=10)] == [1, 11]
    add = await entrypoint.adder(40)
    assert await add(2) == 42
    with pytest.raises(RemoteError, match="Counter has no method 'missing'"):
        await counter.missing()


async def test_calls_go_back_and_forth_through_callbacks(worker: MakeWorker) -> None:
    """Host calls tenant, which calls the host's function, which calls the tenant's, five levels deep."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def ping(self, n, pong):
                async def back(m):
                    return await self.ping(m, pong) if m else ["bottom"]
                return [f"tenant {n}", *await pong(n, back)]
    """

    async def pong(n: int, back: Any) -> list[str]:
        return [f"host {n}", *await back(n - 1)]

    told = await worker(source).get_entrypoint().ping(3, pong)
    assert told == ["tenant 3", "host 3", "tenant 2", "host 2", "tenant 1", "host 1", "bottom"]


async def test_what_comes_home_is_the_object_itself(worker: MakeWorker) -> None:
    """A host's object that a tenant returns, or passes to the host, is the very one that was granted."""
    seen: list[Any] = []
    account = Account("Ann")
    entrypoint = worker(CALLER, env={"SEEN": seen.append, "ACCOUNT": account}).get_entrypoint()
    assert await entrypoint.echo(account) is account
    assert (await entrypoint.echo({"deep": [account]}))["deep"][0] is account
    await entrypoint.apply(seen.append, account)
    assert seen == [account]


async def test_a_tenants_object_comes_home_to_it_as_well(worker: MakeWorker) -> None:
    """Through the hands of the host, as an argument and as a result."""
    source = """
        from workers import WorkerEntrypoint, RpcTarget
        class Token(RpcTarget):
            pass
        class Default(WorkerEntrypoint):
            async def round_trip(self):
                token = Token()
                return [await self.env.ECHO(token) is token for _ in range(3)]
    """
    assert await worker(source, env={"ECHO": lambda value: value}).get_entrypoint().round_trip() == [True] * 3


async def test_a_tenants_object_can_be_handed_on_to_another_tenant(worker: MakeWorker) -> None:
    """The host is in between, and adds nothing to what may be called."""
    counter = await worker(CALLER).get_entrypoint().counter()
    other = worker(CALLER, env={"COUNTER": counter}).get_entrypoint()
    assert await other.granted("COUNTER", "add", 5) == 5
    assert await other.call(counter, "add") == 6
    kind, name, _ = await other.outcome("COUNTER", "_hidden")
    assert kind != "returned", name


async def test_private_names_and_plain_attributes_cannot_be_called(worker: MakeWorker) -> None:
    """Of a host's object only public methods of its class, also when the call is forged frame by frame."""
    source = """
        from workers import WorkerEntrypoint
        from cloister.ipc.values import dumps
        class Default(WorkerEntrypoint):
            async def forge(self, name):
                stub = self.env.ACCOUNT
                try:
                    return await stub._channel.call(stub._target, name, dumps([[], {}]))
                except Exception as error:
                    return getattr(error, "name", type(error).__name__)
    """
    entrypoint = worker(source, env={"ACCOUNT": Account("Ann")}).get_entrypoint()
    inherited = ["__init__", "__class__", "__dict__", "__reduce__", "__getattribute__", "rpc_attributes"]
    for name in [*inherited, "_internal", "secret", "balance", "total", "callback", "missing", "", "x" * 128]:
        assert await entrypoint.forge(name) == "CapabilityError", name
    assert isinstance(await entrypoint.forge("peek"), bytes)


async def test_private_names_of_an_entrypoint_cannot_be_called(worker: MakeWorker) -> None:
    """Neither by name nor by a forged call."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            number = 5
            def _private(self): return "never"
            async def public(self): return "fine"
    """
    stub = worker(source)
    entrypoint = stub.get_entrypoint()
    with pytest.raises(AttributeError, match="public"):
        entrypoint._private()
    for name in ("number", "ctx", "env", "missing"):
        with pytest.raises(TenantError, match=f"Method {name} does not exist") as caught:
            await getattr(entrypoint, name)()
        assert caught.value.name == "TypeError"
    assert await entrypoint.public() == "fine"


async def test_an_unknown_entrypoint_is_told_with_those_there_are(worker: MakeWorker) -> None:
    """`EntrypointNotFound` is the tenant's error, and leaves the sandbox warm."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def who(self): return "default"
        class Admin(WorkerEntrypoint):
            async def who(self): return "admin"
        class _Hidden(WorkerEntrypoint):
            pass
        class NoEntrypoint:
            pass
    """
    stub = worker(source)
    for name in ("Nope", "_Hidden", "NoEntrypoint", "WorkerEntrypoint"):
        with pytest.raises(EntrypointNotFound, match=r"no such entrypoint.*Admin, Default") as caught:
            await stub.get_entrypoint(name).who()
        assert isinstance(caught.value, TenantError)
    names = [None, "default", "Default", "Admin"]
    assert [await stub.get_entrypoint(name).who() for name in names] == ["default", "default", "default", "admin"]


async def test_props_are_what_the_entrypoint_was_asked_for_with(worker: MakeWorker) -> None:
    """Each stub has its own, capabilities included, and they are not remembered."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def props(self):
                return self.ctx.props
            async def use(self):
                return await self.ctx.props["account"].peek()
    """
    stub = worker(source)
    assert await stub.get_entrypoint(props={"user": "Ann", "n": [1]}).props() == {"user": "Ann", "n": [1]}
    assert await stub.get_entrypoint(props="text").props() == "text"
    assert await stub.get_entrypoint().props() is None
    account = Account("Ann")
    account.balance = 3
    assert await stub.get_entrypoint(props={"account": account}).use() == 3


async def test_a_new_object_answers_each_call(worker: MakeWorker) -> None:
    """What a tenant keeps on `self` is gone with the call; what it keeps in its module stays while it is warm."""
    source = """
        from workers import WorkerEntrypoint
        calls = []
        class Default(WorkerEntrypoint):
            seen = None
            async def call(self):
                before, self.seen = self.seen, "set"
                calls.append(1)
                return [before, len(calls)]
    """
    entrypoint = worker(source).get_entrypoint()
    assert [await entrypoint.call() for _ in range(3)] == [[None, 1], [None, 2], [None, 3]]


async def test_every_kind_of_plain_value_goes_there_and_back(worker: MakeWorker) -> None:
    """Tuples come back as lists and whole-number keys as text; the rest as it was."""
    moment = dt.datetime(2026, 5, 1, 12, 30, 15, 123456)  # noqa: DTZ001 - both kinds are sent
    plain: list[Any] = [None, True, -(2**63), 2**64 - 1, 1.5, "äß漢\0", b"\0\xff", {"a": {"b": []}}, {1, 2}, moment]
    entrypoint = worker(CALLER).get_entrypoint()
    assert await entrypoint.echo(plain) == plain
    assert await entrypoint.echo(moment.replace(tzinfo=dt.UTC)) == moment.replace(tzinfo=dt.UTC)
    assert await entrypoint.echo((1, (2,))) == [1, [2]]
    assert await entrypoint.echo({1: "one"}) == {"1": "one"}


async def test_a_forged_capability_reaches_nothing(worker: MakeWorker) -> None:
    """A number that was not granted to this very connection is an error, also if another tenant holds it."""
    source = """
        from workers import WorkerEntrypoint
        from cloister.ipc.values import dumps
        class Default(WorkerEntrypoint):
            async def grab(self):
                channel, told = self.env.MINE._channel, set()
                for number in [*range(1, 50), 2**31, 2**52]:
                    try:
                        await channel.call(number, "peek", dumps([[], {}]))
                        told.add("reached")
                    except Exception as error:
                        told.add(getattr(error, "name", type(error).__name__))
                return sorted(told)
    """
    victim = worker(CALLER, env={f"ACCOUNT{n}": Account(str(n)) for n in range(20)}).get_entrypoint()
    assert await victim.granted("ACCOUNT7", "peek") == 0
    assert await worker(source, env={"MINE": Account("mine")}).get_entrypoint().grab() == ["CapabilityError"]


async def test_a_result_with_a_forged_capability_is_the_tenants_error(worker: MakeWorker) -> None:
    """The host's object of that number is not found by it."""
    source = """
        from workers import WorkerEntrypoint
        from cloister.ipc.stubs import Stub
        class Default(WorkerEntrypoint):
            async def forge(self):
                return Stub(self.env.MINE._channel, 12345, {})
    """
    with pytest.raises(TenantError, match="12345") as caught:
        await worker(source, env={"MINE": Account("mine")}).get_entrypoint().forge()
    assert caught.value.name in {"CapabilityError", "PayloadError"}


async def test_a_stub_of_a_sandbox_that_is_gone_says_so(loader: Loader, code: Code, tenant: str) -> None:
    """An object that a tenant gave does not outlive its sandbox."""
    counter = await loader.get(tenant, lambda: code(CALLER)).get_entrypoint().counter()
    assert await counter.add() == 1
    loader.evict(tenant)
    with pytest.raises(Exception, match=r"evicted|not granted"):
        await counter.add()


async def test_a_host_that_disposes_of_a_stub_cannot_use_it_again(worker: MakeWorker) -> None:
    """And the tenant's object is forgotten over there."""
    counter = await worker(CALLER).get_entrypoint().counter()
    with counter:
        assert await counter.add() == 1
    with pytest.raises(CapabilityError, match="disposed"):
        await counter.add()


# When the host's side raises


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad value"),
        KeyError("key"),
        PermissionError("no"),
        TimeoutError("late"),
        ZeroDivisionError("division by zero"),
        LookupError("äß漢"),
    ],
)
async def test_an_exception_of_the_hosts_reaches_the_tenant_as_its_class_and_comes_back_clearly(
    worker: MakeWorker, error: Exception
) -> None:
    """The tenant can catch it by class; if it does not, the caller is told class, message and the tenant's line."""

    def fail() -> None:
        raise error

    source = """
        import builtins
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def caught(self, name):
                try:
                    await self.env.FAIL()
                except getattr(builtins, name) as error:
                    return ["caught", type(error).__name__]
            async def through(self):
                return await self.env.FAIL()
    """
    entrypoint = worker(source, env={"FAIL": fail}).get_entrypoint()
    assert await entrypoint.caught(type(error).__name__) == ["caught", type(error).__name__]
    with pytest.raises(TenantError) as told:
        await entrypoint.through()
    assert told.value.name == type(error).__name__
    assert str(error).strip("'") in told.value.message
    assert "self.env.FAIL()" in told.value.trace


async def test_an_exception_of_a_class_that_python_does_not_have_keeps_its_name(worker: MakeWorker) -> None:
    """The tenant sees a `RemoteError` with that name, and no line of the host's code."""

    class QuotaExceeded(Exception):
        """The host's own."""

    def fail() -> None:
        raise QuotaExceeded("500 MB")

    source = """
        import traceback
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def caught(self):
                try:
                    await self.env.FAIL()
                except Exception as error:
                    return [error.name, error.message, error.trace, traceback.format_exc()]
    """
    name, message, trace, everything = await worker(source, env={"FAIL": fail}).get_entrypoint().caught()
    assert (name, message, trace) == ("QuotaExceeded", "500 MB", "")
    assert __file__ not in everything


async def test_a_host_function_that_is_called_wrongly_is_the_tenants_error(worker: MakeWorker) -> None:
    """Wrong arguments are a `TypeError` inside, and the host's function was never entered."""
    entered: list[int] = []

    def strict(number: int) -> None:
        entered.append(number)

    entrypoint = worker(CALLER, env={"STRICT": strict, "ACCOUNT": Account("a")}).get_entrypoint()
    for arguments in ([], [1, 2]):
        with pytest.raises(TenantError, match="TypeError"):
            await entrypoint.apply(strict, *arguments)
    assert (await entrypoint.outcome("ACCOUNT", "deposit"))[0] == "TypeError"
    assert entered == []


async def test_a_host_function_whose_result_cannot_be_sent_says_so(worker: MakeWorker) -> None:
    """The tenant gets an error with the name of the type, and can go on."""
    entrypoint = worker(CALLER, env={"ACCOUNT": Account("a")}).get_entrypoint()
    with pytest.raises(TenantError, match=r"CodecError.*object"):
        await entrypoint.apply(lambda: object())
    assert await entrypoint.granted("ACCOUNT", "peek") == 0


async def test_an_argument_that_cannot_be_sent_is_the_callers_error(worker: MakeWorker) -> None:
    """Raised here, before the tenant hears of anything, and not as the tenant's."""
    entrypoint = worker(CALLER).get_entrypoint()
    for bad in (object(), {"deep": [1, object()]}, 2**70, Exception("x")):
        with pytest.raises(Exception, match="cannot be sent") as caught:
            await entrypoint.echo(bad)
        assert not isinstance(caught.value, TenantError)
    assert await entrypoint.echo("fine") == "fine"


# Chains


class Database(RpcTarget):
    """Leads to its tables, by way of a function where that is wanted."""

    def __init__(self) -> None:
        self.rows = {"x": {1: "one"}}

    def table(self, name: str) -> Rows:
        return Rows(self.rows[name])

    def find(self) -> Callable[[str], Rows]:
        return self.table


class Rows(RpcTarget):
    """One table."""

    def __init__(self, rows: dict[int, str]) -> None:
        self.rows = rows

    async def get(self, key: int) -> str:
        return self.rows[key]


CHAINS = """
    from workers import WorkerEntrypoint, RpcTarget
    class Cart(RpcTarget):
        def __init__(self, name):
            self.name, self.items = name, []
        async def add(self, item):
            self.items.append(item)
            return self
        def count(self):
            return len(self.items)
        def fail(self):
            raise LookupError("no such item")
    class Default(WorkerEntrypoint):
        async def get(self, table, key):
            return await self.env.DB.table(table).get(key)
        async def found(self, table, key):
            return await self.env.DB.find()(table).get(key)
        async def outcome(self, table, key):
            try:
                return await self.env.DB.table(table).get(key)
            except Exception as error:
                return [type(error).__name__, str(error), error.__notes__]
        async def many(self, calls):
            import asyncio
            tasks = [asyncio.create_task(self.env.DB.table("x").get(1)) for _ in range(calls)]
            return [await task for task in tasks]
        def cart(self, name):
            return Cart(name)
        async def echo(self, value):
            return value
        async def apply(self, function, *args):
            return await function(*args)
"""


async def test_a_chain_from_a_tenant_is_one_round_trip(worker: MakeWorker) -> None:
    """As its calls tell; what lies between is never granted."""
    entrypoint = worker(CHAINS, env={"DB": Database()}).get_entrypoint()
    assert await entrypoint.get("x", 1) == "one"
    assert await entrypoint.found("x", 1) == "one"
    assert await entrypoint.many(50) == ["one"] * 50


async def test_an_error_within_a_chain_says_where(worker: MakeWorker) -> None:
    """With the class that it has."""
    entrypoint = worker(CHAINS, env={"DB": Database()}).get_entrypoint()
    kind, _, notes = await entrypoint.outcome("x", 2)
    assert (kind, notes) == ("KeyError", ["in call 2 of 2: table.get"])
    kind, text, notes = await entrypoint.outcome("y", 1)
    assert (kind, text, notes) == ("KeyError", "'y'", ["in call 1 of 2: table.get"])


async def test_a_chain_into_a_tenant_is_one_round_trip(worker: MakeWorker) -> None:
    """From the entrypoint on; an error has the tenant's lines, and the place."""
    entrypoint = worker(CHAINS).get_entrypoint()
    assert await entrypoint.cart("c").add("tea").add("milk").count() == 2
    with pytest.raises(TenantError, match="LookupError: no such item") as told:
        await entrypoint.cart("c").add("tea").fail().count()
    assert told.value.__notes__ == ["in call 3 of 4: cart.add.fail.count"]
    assert 'raise LookupError("no such item")' in told.value.trace
    with pytest.raises(TenantError, match=r"CapabilityError.*'more' cannot be called on a int"):
        await entrypoint.cart("c").count().more()


class Person(RpcTarget):
    """One with properties."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    @property
    def name(self) -> str:
        return self.owner.title()

    @property
    async def history(self) -> dict[str, Any]:
        return {"latest": [1, 2], "by": Person("a clerk")}


PROPERTIES = """
    from workers import RpcTarget, WorkerEntrypoint
    class Cart(RpcTarget):
        def __init__(self): self.items = ["tea"]
        @property
        def size(self): return len(self.items)
        @property
        def empty(self): raise LookupError("never")
    class Default(WorkerEntrypoint):
        @property
        def motto(self): return f"{self.ctx.props} {self.env.MOTTO}"
        @property
        async def cart(self): return Cart()
        def open(self): return Cart()
        async def read(self):
            account = self.env.ACCOUNT
            return [await account.name, await account.history.latest, await account.history.by.name]
        async def refused(self, *names):
            found = self.env.ACCOUNT
            for name in names: found = getattr(found, name)
            try:
                return await found
            except Exception as error:
                return f"{type(error).__name__}: {error}"
"""


async def test_properties_are_read_in_both_directions(worker: MakeWorker) -> None:
    """Of what the host granted, of an entrypoint, of what a tenant returned, and in the midst of a chain."""
    made = worker(PROPERTIES, env={"ACCOUNT": Person("alice"), "MOTTO": "for all"})
    entrypoint = made.get_entrypoint(props="tea")
    assert await entrypoint.read() == ["Alice", [1, 2], "A Clerk"]
    assert await entrypoint.motto == "tea for all"
    assert await entrypoint.cart.size == 1
    assert await entrypoint.open().size == 1
    async with entrypoint.open() as cart:
        assert await cart.size == 1
        with pytest.raises(TenantError, match="LookupError: never") as told:
            await cart.empty
        assert "def empty(self): raise LookupError" in told.value.trace
    for wrong in (cart.items, entrypoint.env, entrypoint.ctx, entrypoint.open):
        with pytest.raises((TenantError, CapabilityError)):
            await wrong


async def test_what_is_no_property_cannot_be_read_by_a_tenant(worker: MakeWorker) -> None:
    """What is set on an object stays its own."""
    entrypoint = worker(PROPERTIES, env={"ACCOUNT": Person("alice"), "MOTTO": ""}).get_entrypoint()
    words = "CapabilityError: Person has no property 'owner' that may be read from outside"
    assert await entrypoint.refused("owner") == words
    assert await entrypoint.refused("history", "by", "owner") == words
    assert await entrypoint.refused("history", "absent") == (
        "AttributeError: 'absent' cannot be read of a dict, which is what came before"
    )


async def test_a_tenant_reads_properties_of_another_ones_entrypoint(worker: MakeWorker) -> None:
    """By way of the host, one question each."""
    shop = worker(PROPERTIES, env={"ACCOUNT": Person("alice"), "MOTTO": "for all"}).get_entrypoint(props="tea")
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def read(self):
                return [await self.env.SHOP.motto, await self.env.SHOP.cart.size, await self.env.SHOP.open().size]
            async def forge(self, name):
                from cloister.ipc.values import dumps
                stub = self.env.SHOP
                try:
                    return await stub._channel.call(stub._target, name, dumps([False, None]))
                except Exception as error:
                    return type(error).__name__
    """
    other = worker(source, env={"SHOP": shop}).get_entrypoint()
    assert await other.read() == ["tea for all", 1, 1]
    assert [await other.forge(name) for name in ("_stub", "_name", "__class__", "")] == ["CapabilityError"] * 4


async def test_each_call_of_a_chain_is_a_subrequest(worker: MakeWorker) -> None:
    """So that a chain buys a tenant nothing but the wait."""
    entrypoint = worker(CHAINS, env={"DB": Database()}, limits=Limits(subrequests=9)).get_entrypoint()
    assert await entrypoint.many(4) == ["one"] * 4
    with pytest.raises(TenantError, match="limit of subrequests"):
        await entrypoint.many(5)


async def test_each_call_of_a_chain_counts_towards_what_a_sandbox_may_send(
    worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the message that they came with."""
    counted: list[int] = []
    monkeypatch.setattr(Intake, "chain", lambda _, calls: counted.append(calls))
    assert await worker(CHAINS, env={"DB": Database()}).get_entrypoint().many(4) == ["one"] * 4
    assert max(counted) > 1


# Entrypoints of other tenants


async def test_an_entrypoint_of_another_tenant_is_a_binding(worker: MakeWorker) -> None:
    """In env, props and arguments; with values, callbacks, objects and chains through it, and nothing private."""
    shop = worker(CHAINS, env={"DB": Database()})
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def buy(self):
                return [await self.env.SHOP.get("x", 1), await self.env.SHOP.cart("c").add("tea").count()]
            async def by_props(self):
                return await self.ctx.props["shop"].echo({"deep": [1]})
            async def by_argument(self, shop):
                cart = await shop.cart("c")
                await cart.add("tea")
                return await cart.count()
            async def callback(self):
                function = lambda n: n + 1
                called = await self.env.SHOP.apply(function, 41)
                return [called, await self.env.SHOP.echo(function) == function]
            async def outcome(self, name):
                try:
                    return await getattr(self.env.SHOP, name)()
                except Exception as error:
                    return [type(error).__name__, str(error)]
            async def forge(self, name):
                stub = self.env.SHOP
                from cloister.ipc.values import dumps
                try:
                    return await stub._channel.call(stub._target, name, dumps([[], {}]))
                except Exception as error:
                    return type(error).__name__
    """
    entrypoint = shop.get_entrypoint()
    buyer = worker(source, env={"SHOP": entrypoint})
    client = buyer.get_entrypoint(props={"shop": entrypoint})
    assert await client.buy() == ["one", 1]
    assert await client.by_props() == {"deep": [1]}
    assert await client.by_argument(entrypoint) == 1
    assert await client.callback() == [42, True]
    kind, text = await client.outcome("missing")
    assert (kind, "Method missing does not exist" in text) == ("TypeError", True)
    for name in ("_perform", "_stub", "__class__", "", "_then"):
        assert await client.forge(name) == "CapabilityError"


async def test_two_tenants_that_call_each_other_without_end_are_bounded(
    loader: Loader, code: Code, tenant: str
) -> None:
    """By the calls that either may have in flight; both live on."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def ping(self, n):
                return await self.env.OTHER.ping(n + 1)
            async def hello(self):
                return "hello"
    """
    names = [f"{tenant}-a", f"{tenant}-b"]
    limits = Limits(calls_in_flight=20)
    env: list[dict[str, Any]] = [{}, {}]
    stubs = [loader.get(name, lambda n=n: code(source, env=env[n], limits=limits)) for n, name in enumerate(names)]  # type: ignore[misc]
    for n in range(2):
        env[n]["OTHER"] = stubs[1 - n].get_entrypoint()
    with pytest.raises(TenantError, match="in flight"):
        await stubs[0].get_entrypoint().ping(0)
    assert [await stub.get_entrypoint().hello() for stub in stubs] == ["hello", "hello"]


# Streams


STREAMS = """
    import asyncio
    from workers import WorkerEntrypoint
    made, ended = 0, []
    class Default(WorkerEntrypoint):
        async def count(self, n):
            global made
            try:
                for i in range(n):
                    made += 1
                    yield i
            finally:
                ended.append("count")
        def plain(self, n):
            yield from range(n)
        async def state(self):
            return [made, ended]
        async def total(self, stream):
            return sum([n async for n in stream])
        async def size(self, stream):
            return sum([len(chunk) async for chunk in stream])
        async def some(self, stream, n):
            found = []
            async for item in stream:
                found.append(item)
                if len(found) == n:
                    break
            return found
        async def relay(self, stream):
            async for item in stream:
                yield [item, item]
        async def caught(self, stream):
            found = []
            try:
                async for item in stream:
                    found.append(item)
            except Exception as error:
                return [found, type(error).__name__, str(error)]
        async def bound(self):
            return await self.total(await self.env.ROWS(10))
        async def slow(self):
            yield 1
            await asyncio.sleep(3600)
"""


async def numbers(count: int, closed: list[int] | None = None) -> AsyncIterator[int]:
    """The host's stream."""
    n = -1
    try:
        for n in range(count):
            yield n
    finally:
        if closed is not None:
            closed.append(n)


async def test_generators_are_streams_in_both_directions(worker: MakeWorker) -> None:
    """As arguments, as results, of bindings, and through a tenant; of plain values and of bytes, of any length."""
    entrypoint = worker(STREAMS, env={"ROWS": numbers}).get_entrypoint()
    assert [n async for n in await entrypoint.count(1000)] == list(range(1000))
    assert [n async for n in await entrypoint.plain(5)] == list(range(5))
    assert await entrypoint.total(numbers(1000)) == 499_500
    assert await entrypoint.bound() == 45

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    assert await entrypoint.size(chunks()) == 40 << 20


async def test_what_a_tenant_makes_is_made_as_it_is_read(worker: MakeWorker, eventually: Any) -> None:
    """And no longer when the host lets go of it."""
    entrypoint = worker(STREAMS).get_entrypoint()
    async with entrypoint.count(1_000_000) as stream:
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        made, ended = await entrypoint.state()
        assert made < 100
        assert ended == []

    async def closed() -> bool:
        return bool((await entrypoint.state())[1] == ["count"])

    await eventually(closed)


async def test_what_a_host_makes_ends_with_the_call_that_it_was_given_to(worker: MakeWorker, eventually: Any) -> None:
    """The generator is closed where it stands; an error of it has its class."""
    entrypoint = worker(STREAMS).get_entrypoint()
    closed: list[int] = []
    assert await entrypoint.some(numbers(1_000_000, closed), 3) == [0, 1, 2]
    await eventually(lambda: closed)
    assert closed[0] < 100

    async def breaks() -> AsyncIterator[int]:
        yield 1
        raise LookupError("the end of the shelf")

    assert await entrypoint.caught(breaks()) == [[1], "LookupError", "the end of the shelf"]


async def test_a_stream_dies_with_its_sandbox_and_says_so(loader: Loader, code: Code, tenant: str) -> None:
    """On either side of it."""
    closed: list[int] = []
    entrypoint = loader.get(tenant, lambda: code(STREAMS)).get_entrypoint()
    stream, relay = await entrypoint.slow(), await entrypoint.relay(numbers(1_000_000, closed))
    assert await anext(stream) == 1
    assert await anext(relay) == [0, 0]
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    loader.evict(tenant)
    with pytest.raises(SandboxError, match="evicted"):
        await waiting
    while not closed:  # noqa: ASYNC110 - it is closed in a turn of the loop or two
        await asyncio.sleep(0)


# Disposal and errors


async def test_an_object_hears_when_the_last_of_its_stubs_is_gone(loader: Loader, code: Code, tenant: str) -> None:
    """By `dispose()`, at the end of a block, or because the sandbox that held it has ended."""
    gone: list[str] = []

    class Session(RpcTarget):
        def __init__(self, name: str) -> None:
            self.name = name

        def rpc_disposed(self) -> None:
            gone.append(self.name)
            raise ValueError("which harms nobody")

    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def block(self):
                async with self.env.OPEN("block") as session:
                    pass
                with await self.env.OPEN("with") as session:
                    pass
                return await self.env.OPEN("result")
            async def keep(self):
                global kept
                kept = await self.env.OPEN("kept")
    """
    entrypoint = loader.get(tenant, lambda: code(source, env={"OPEN": lambda name: Session(name)})).get_entrypoint()
    await entrypoint.block()
    await entrypoint.keep()
    assert gone == ["block", "with", "result"]
    loader.evict(tenant)
    assert gone == ["block", "with", "result", "kept"]


async def test_an_error_of_a_tenant_comes_with_notes_causes_and_its_own_lines(worker: MakeWorker) -> None:
    """Bounded and printable, whatever the tenant puts into it; none of it is taken for a class."""
    source = r"""
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def fail(self):
                try:
                    {}["k"]
                except KeyError as error:
                    error.add_note("looked in the drawer")
                    worse = ValueError("no sale")
                    worse.add_note("the till was empty")
                    raise worse from error
            async def hostile(self):
                error = type("\u202eEvil" * 100, (Exception,), {})("\x1b[2J\x00" * 5000)
                error.__notes__ = ["n\x1b" * 10_000] * 100
                cause = error
                for _ in range(100):
                    cause.__cause__ = type("Cause", (Exception,), {})("c" * 100_000)
                    cause = cause.__cause__
                cause.__cause__ = error
                raise error
    """
    entrypoint = worker(source).get_entrypoint()
    with pytest.raises(TenantError, match=r"^ValueError: no sale") as told:
        await entrypoint.fail()
    assert told.value.__notes__ == ["the till was empty"]
    cause = told.value.__cause__
    assert isinstance(cause, RemoteError)
    assert (cause.name, cause.message, cause.__notes__) == ("KeyError", "'k'", ["looked in the drawer"])
    assert "raise worse from error" in told.value.trace
    with pytest.raises(TenantError) as hostile:
        await entrypoint.hostile()
    links = 0
    error: BaseException | None = hostile.value
    while isinstance(error, RemoteError):
        texts = [error.name, error.message, error.trace, *getattr(error, "__notes__", ())]
        assert max(map(len, texts)) <= 32_768
        assert all(char.isprintable() or char in "\n\t" for text in texts for char in text)
        assert len(texts) < 20
        links, error = links + 1, error.__cause__
    assert links <= 9


async def test_an_error_of_the_hosts_has_its_notes_and_keeps_its_causes_to_itself(worker: MakeWorker) -> None:
    """What a library of the host's said to it is not the tenant's to read."""

    def fail() -> None:
        error = ValueError("not today")
        error.add_note("ask again tomorrow")
        raise error from OSError("password=hunter2")

    source = """
        import traceback
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def caught(self):
                try:
                    await self.env.FAIL()
                except ValueError as error:
                    return [error.__notes__, traceback.format_exc()]
    """
    notes, everything = await worker(source, env={"FAIL": fail}).get_entrypoint().caught()
    assert notes == ["ask again tomorrow"]
    assert "hunter2" not in everything


async def test_errors_of_the_protocol_keep_their_class_inside(worker: MakeWorker) -> None:
    """A tenant can tell a capability that was taken back from a method that failed."""
    grant = revocable(Account("Ann"))
    entrypoint = worker(CALLER, env={"ACCOUNT": grant}).get_entrypoint()
    assert await entrypoint.outcome("ACCOUNT", "peek") == ["returned", 0]
    grant.revoke("the plan ended")
    kind, name, text = await entrypoint.outcome("ACCOUNT", "peek")
    assert (kind, name, text) == ("CapabilityError", "CapabilityError", "the capability was revoked: the plan ended")


async def test_callers_that_give_up_leave_nothing_behind(worker: MakeWorker, eventually: Any) -> None:
    """A result with an object in it that comes too late, an argument of a call that was refused."""
    made, gone = list[int](), list[int]()

    class Thing(RpcTarget):
        def rpc_disposed(self) -> None:
            gone.append(1)

    async def late() -> Thing:
        await asyncio.sleep(0.01)
        made.append(1)  # unless the caller has given up before, which it may be late to say
        return Thing()

    source = """
        import asyncio
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def impatient(self):
                for _ in range(5):
                    try:
                        await asyncio.wait_for(self.env.LATE(), 0.001)
                    except TimeoutError:
                        pass
                await asyncio.sleep(0.1)
            async def mine(self):
                return len(self.env.LATE._channel.exports)
            async def refused(self):
                for _ in range(5):
                    for call in (self.env.LATE.missing(lambda: 1), self.env.LATE(lambda: 1)):
                        try:
                            await call
                        except Exception:
                            pass
    """
    entrypoint = worker(source, env={"LATE": late}).get_entrypoint()
    before = await entrypoint.mine()
    await entrypoint.impatient()
    await entrypoint.refused()

    async def settled() -> bool:
        return bool(await entrypoint.mine() == before)

    await eventually(settled)
    for _ in range(5):
        with pytest.raises(TenantError):
            await entrypoint.missing(Thing())
    await eventually(lambda: len(gone) == len(made) + 5)


# A worker's own entrypoints


EXPORTS = """
    from workers import Response, WorkerEntrypoint
    class Other(WorkerEntrypoint):
        count = 0
        def who(self, greeting="hello"):
            type(self).count += 1
            return f"{greeting} from {self.ctx.props}, {self.env.NAME}"
        async def fetch(self, request):
            return Response(f"{request.method} by {self.ctx.props}")
        def _secret(self):
            pass
    class Default(WorkerEntrypoint):
        async def own(self):
            exports = self.ctx.exports
            return [await exports.Other.who(), await exports.Other(props="p").who("hi"),
                    await exports.Other({"props": "q"}).who(greeting="ho"), await exports.default.ping(),
                    await (await exports.Other(props="r").fetch("https://own.example/", method="POST")).text()]
        def ping(self):
            return "pong"
        async def hand(self):
            return await self.env.TAKE(self.ctx.exports.Other(props="handed"))
        async def outcome(self, name, method):
            try:
                return await getattr(getattr(self.ctx.exports, name), method)()
            except Exception as error:
                return f"{type(error).__name__}: {error}"
"""


async def test_a_worker_reaches_its_own_entrypoints(worker: MakeWorker) -> None:
    """By `ctx.exports`, with props of its own choice, a new object for each call; what is not there says so."""
    entrypoint = worker(EXPORTS, env={"NAME": "a worker"}).get_entrypoint()
    assert await entrypoint.own() == [
        "hello from None, a worker", "hi from p, a worker", "ho from q, a worker", "pong", "POST by r",
    ]  # fmt: skip
    assert (await entrypoint.outcome("Nobody", "who")).startswith(
        "NoSuchEntrypoint: Worker has no such entrypoint: Nobody"
    )
    assert await entrypoint.outcome("Other", "_secret") == "AttributeError: _secret"
    assert await entrypoint.outcome("Other", "what") == "TypeError: Method what does not exist"


async def test_a_worker_hands_its_own_entrypoints_on(worker: MakeWorker) -> None:
    """As a binding with the props that it chose, which whoever has it cannot change."""
    taken: list[Any] = []

    async def take(stub: Any) -> Any:
        taken.append(stub.dup())
        return await stub.who("you")

    entrypoint = worker(EXPORTS, env={"NAME": "a worker", "TAKE": take}).get_entrypoint()
    assert await entrypoint.hand() == "you from handed, a worker"
    assert await taken[0].who() == "hello from handed, a worker"
    for name in ("_ask", "_make", "__call__"):
        payload = taken[0]._channel.encode([[], {}])
        with pytest.raises(TenantError, match="no method"):
            await taken[0]._channel.call(taken[0]._target, name, payload)
