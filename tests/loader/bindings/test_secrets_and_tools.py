"""Secrets that are used and not read, and functions with schemas."""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest

from cloister.loader import TenantError, WorkerStub
from cloister.loader.bindings import Rule, Secrets, SecretText, Tools, secret_header

Make = Callable[..., WorkerStub]


async def test_a_tenant_signs_with_a_secret_that_it_cannot_read(worker: Make) -> None:
    """By name, and checks what others have signed."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            secrets = self.env.SECRETS
            signature = await secrets.sign("HOOK", "data")
            return [signature, await secrets.verify("HOOK", b"data", signature),
                    await secrets.verify("HOOK", "data", bytes.fromhex(signature)),
                    await secrets.verify("HOOK", "other", signature), await secrets.verify("HOOK", "data", "ä"),
                    await secrets.verify("HOOK", "data", None), await secrets.names(),
                    await secrets.sign("HOOK", "data", "sha512") != signature]
    """
    expected = hmac.new(b"s3cret", b"data", hashlib.sha256).hexdigest()
    secrets = Secrets({"HOOK": "s3cret", "KEY": b"\x01"})
    assert await worker(source, env={"SECRETS": secrets}).get_entrypoint().main() == [
        expected, True, True, False, False, False, ["HOOK", "KEY"], True
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("sign('NONE', 'x')", "ValueError: there is no secret 'NONE'; there are HOOK"),
        ("sign('HOOK', 'x', 'md5')", "ValueError: algorithm is one of sha256, sha384, sha512"),
        ("sign('HOOK', 5)", "TypeError: text or bytes are signed"),
        ("sign('HOOK', b'x' * 9_000_000)", "ValueError: at most 8,388,608 bytes"),
        ("sign(['HOOK'], 'x')", "ValueError"),
        ("get('HOOK')", "CapabilityError: Secrets has no method 'get'"),
        ("text('HOOK')", "CapabilityError: Secrets has no method 'text'"),
        ("kept()", "CapabilityError: Secrets has no method 'kept'"),
        ("rpc_attributes()", "CapabilityError: Secrets has no method 'rpc_attributes'"),
    ],
)
async def test_no_call_gives_a_secret_away(worker: Make, call: str, error: str) -> None:
    """Neither by a method nor in an error."""
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            return await self.env.SECRETS.{call}
    """
    with pytest.raises(TenantError) as caught:
        await worker(source, env={"SECRETS": Secrets({"HOOK": "s3cret"})}).get_entrypoint().main()
    assert str(caught.value).startswith(error), caught.value
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", ["s3cret\x01", "s3cret\n", "s3cret ", "\x7fs3cret", "s3cret\0"])
def test_what_cannot_be_a_header_is_told_without_it(value: str) -> None:
    """When the rule is made, and by its name; not when a tenant asks, who would be told what it was."""
    with pytest.raises(ValueError, match="the secret 'KEY' cannot be a header") as caught:
        secret_header(Secrets({"KEY": value}), "KEY")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"a rule's header cannot be sent: 'X-Key': <a text that holds the s"
    ) as caught:
        Rule(origin="https://a.example", headers={"X-Key": SecretText("KEY", value + "\x01")})
    assert "s3cret" not in str(caught.value)


def test_a_secret_that_is_none_is_told() -> None:
    """To the host, at once."""
    with pytest.raises(ValueError, match="there is no secret 'OTHER'; there are KEY"):
        secret_header(Secrets({"KEY": "a"}), "OTHER")
    with pytest.raises(TypeError, match="the secret 'KEY' is int"):
        Secrets({"KEY": 5})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="is empty"):
        Secrets({"KEY": ""})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"headers": {"X y": "a"}}, "a rule's header cannot be sent"),
        ({"headers": {"X": "a\r\nY: b"}}, "a rule's header cannot be sent"),
        ({"headers": {"X": 5}}, "a rule's header cannot be sent"),
        ({"headers": {"Content-Length": "5"}}, "says how a request is sent"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "says how a request is sent"),
        ({"headers": {"host": "other.example"}}, "says how a request is sent"),
        ({"methods": "GET"}, "methods of a rule are a tuple"),
        ({"paths": "/v1"}, "paths of a rule are a tuple"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_when_it_is_made(options: dict[str, Any], error: str) -> None:
    """And not when a tenant asks."""
    with pytest.raises(ValueError, match=error):
        Rule(origin="https://a.example", **options)


def test_methods_of_a_rule_may_be_written_small() -> None:
    """As they often are."""
    assert Rule(origin="https://a.example", methods=("get",)).methods == ("GET",)


def test_a_secret_shows_itself_nowhere() -> None:
    """Not where it is printed, and one that could not be a header is refused."""
    secrets = Secrets({"KEY": "s3cret", "BAD": "a\nb"})
    assert "s3cret" not in repr(secrets) + repr(secret_header(secrets, "KEY", "Bearer {}")) + str(vars(secrets).keys())
    with pytest.raises(ValueError, match="cannot be a header"):
        secret_header(secrets, "BAD")
    with pytest.raises(ValueError, match="is empty"):
        Secrets({"EMPTY": ""})


class Colour(enum.Enum):
    """What there is."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Order:
    """Something to deliver."""

    item: str
    count: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1


def paint(what: str, colour: Colour = Colour.RED, coats: int | None = None) -> str:
    """Paint something.

    With what there is.
    """
    return f"{what} {colour.value} {coats}"


async def deliver(orders: list[Order], speed: Literal["slow", "fast"], *, account: str) -> dict[str, Any]:
    """Deliver orders."""
    return {
        "account": account,
        "speed": speed,
        "items": [order.item * order.count for order in orders],
        "first": orders[0],
    }


@pytest.fixture
def tools() -> Tools:
    """Both."""
    return Tools([paint, deliver], bound={"account": "t-42"})


def test_schemas_come_from_type_hints(tools: Tools) -> None:
    """What is required, what there is to choose from, and bounds; what the host has bound is not in it."""
    first, second = tools.list()["tools"]
    assert (first["name"], first["description"]) == ("paint", "Paint something.")
    assert first["inputSchema"]["type"] == "object"
    assert first["inputSchema"]["required"] == ["what"]
    assert first["inputSchema"]["additionalProperties"] is False
    assert first["inputSchema"]["properties"]["coats"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}],
        "default": None,
    }
    assert first["inputSchema"]["$defs"]["Colour"]["enum"] == ["blue", "red"]
    assert second["inputSchema"]["properties"].keys() == {"orders", "speed"}
    assert second["inputSchema"]["$defs"]["Order"]["properties"]["count"]["maximum"] == 10


async def test_a_tenant_looks_tools_up_and_calls_them(worker: Make, tools: Tools) -> None:
    """With arguments by name, which arrive as the types that were asked for."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            names = [tool.name for tool in (await self.env.TOOLS.list()).tools]
            done = await self.env.TOOLS.call("deliver", {"orders": [{"item": "a", "count": 3}], "speed": "fast"})
            return [names, await self.env.TOOLS.call("paint", what="door", colour="blue"), dict(done)]
    """
    done = {"account": "t-42", "speed": "fast", "items": ["aaa"], "first": {"item": "a", "count": 3}}
    # `items` of a dict is a method there, so the whole is compared here
    assert await worker(source, env={"TOOLS": tools}).get_entrypoint().main() == [
        ["paint", "deliver"], "door blue None", done
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("call('nothing')", "ValueError: there is no tool 'nothing'; there are paint, deliver"),
        ("call('_bound')", "ValueError"),
        ("call(['paint'])", "ValueError"),
        ("call('paint', [1])", "TypeError: paint: arguments are a map"),
        ("call('paint')", "TypeError: paint: Object missing required field `what`"),
        ("call('paint', {'what': 5})", "TypeError: paint: Expected `str`, got `int` - at `$.what`"),
        ("call('paint', {'what': 'x', 'colour': 'green'})", "TypeError: paint: Invalid enum value 'green'"),
        ("call('paint', {'what': 'x', 'more': 1})", "TypeError: paint: Object contains unknown field `more`"),
        ("call('deliver', {'orders': [], 'speed': 'fast', 'account': 'other'})",
         "TypeError: deliver: Object contains unknown field `account`"),
        ("call('deliver', {'orders': [{'item': 'a', 'count': 11}], 'speed': 'fast'})",
         "TypeError: deliver: Expected `int` <= 10"),
    ],
)  # fmt: skip
async def test_arguments_that_do_not_fit_are_told_before_anything_is_called(
    worker: Make, tools: Tools, call: str, error: str
) -> None:
    """With the place where they do not; what the host has bound cannot be given."""
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            return await self.env.TOOLS.{call}
    """
    with pytest.raises(TenantError) as caught:
        await worker(source, env={"TOOLS": tools}).get_entrypoint().main()
    assert str(caught.value).startswith(error), caught.value


def test_what_cannot_be_a_tool_is_refused_when_it_is_made() -> None:
    """No hints, no names, a name twice, or something bound that none of them takes."""

    def unhinted(what):  # type: ignore[no-untyped-def]
        """Nothing is known of it."""

    def many(*what: int) -> None:
        """They have no names."""

    with pytest.raises(TypeError, match="needs a type hint for its parameter 'what'"):
        Tools([unhinted])
    with pytest.raises(TypeError, match="its parameters must have names"):
        Tools([many])
    with pytest.raises(ValueError, match="no tool takes acount"):
        Tools([paint, deliver], bound={"acount": "t-42"})
    with pytest.raises(ValueError, match="same name"):
        Tools([paint, paint])
