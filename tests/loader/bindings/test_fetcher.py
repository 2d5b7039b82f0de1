"""The way out: where it leads, where it doesn't, what it adds, and what it keeps from a tenant."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.loader import InvalidCode, TenantError, WorkerStub
from cloister.loader.bindings import Egress, Fetcher, FetchLimits, Network, Rule, Secrets, secret_header
from cloister.loader.bindings.addresses import public
from cloister.loader.bindings.rules import find, place

Make = Callable[..., WorkerStub]

ASKS = """
from workers import Request, Response, WorkerEntrypoint, fetch

class Default(WorkerEntrypoint):
    async def ask(self, url, options={}):
        try:
            response = await fetch(url, **options)
            return [response.status, await response.text()]
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    async def head(self, url):
        response = await fetch(url)
        return [response.url, response.redirected, response.headers.items()]

    async def stream(self, url):
        async def body():
            for number in range(5):
                yield f"{number}"
        response = await fetch(Request(url, method="POST", body=body()))
        return [piece async for piece in response.body]

    async def part(self, url):
        async for piece in (await fetch(url)).body:
            return piece

    async def smuggle(self, url, name, value):
        request = Request(url)
        request._headers.pairs.append((name, value))
        try:
            return (await self.env.API.fetch(request)).status
        except Exception as error:
            return f"{type(error).__name__}: {error}"
"""


@contextlib.asynccontextmanager
async def asking(worker: Make, allow: list[Any], **options: Any) -> AsyncIterator[Any]:
    """A tenant whose network is a fetcher."""
    async with Fetcher(allow=allow, **options) as fetcher:
        yield worker(ASKS, global_outbound=fetcher, env={"API": fetcher}).get_entrypoint()


def at(server: Any, **options: Any) -> Rule:
    """A rule that leads to the server of the test."""
    return Rule(origin=server.url, private=True, **options)


async def test_a_tenant_has_no_network_unless_it_is_granted_one(worker: Make) -> None:
    """And is told so; a host that grants something else is told too."""
    told = await worker(ASKS).get_entrypoint().ask("https://example.com/")
    assert told.startswith("PermissionError: [Errno 13] this worker is not permitted to reach the network")
    with pytest.raises(InvalidCode, match="global_outbound"):
        worker(ASKS, global_outbound="https://example.com")


async def test_what_is_allowed_is_fetched(worker: Make, server: Any) -> None:
    """With method, headers and body as they were given, and no more than HTTP needs."""
    async with asking(worker, [at(server)]) as tenant:
        options = {"method": "PUT", "headers": {"X-One": 1}, "body": "text"}
        assert await tenant.ask(f"{server.url}/a?b=c d#e".replace(" ", "%20"), options) == [200, "PUT /a?b=c%20d text"]
        assert server.requests == [
            f"PUT /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nX-One: 1\r\n"
            "content-type: text/plain;charset=UTF-8\r\nContent-Length: 4\r\n\r\n".encode()
        ]


async def test_bodies_stream_both_ways(worker: Make, server: Any) -> None:
    """Neither has to be complete before it is passed on."""
    gate = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with asking(worker, [at(server)]) as tenant:
        server.answer = lambda *_: [head, b"5\r\nfirst\r\n", gate, b"3\r\nend\r\n0\r\n\r\n"]
        assert await tenant.part(server.url) == b"first"
        gate.set()
        server.answer = lambda _, __, body: ok(body)
        assert b"".join(await tenant.stream(server.url)) == b"01234"
        assert b"Transfer-Encoding: chunked" in server.requests[1]


async def test_a_binding_fetches_as_the_network_does(worker: Make, server: Any) -> None:
    """One tenant may have several, each with rights of its own."""
    source = """
    from workers import Request, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, url):
            first = await self.env.API.fetch(url, method="POST", body="a")
            second = await self.env.API.fetch(Request(url, method="POST", body="b"))
            return [await first.text(), await second.text(), type(first).__name__]
    """
    async with Fetcher(allow=[at(server)]) as fetcher:
        tenant = worker(source, env={"API": fetcher}).get_entrypoint()
        assert await tenant.main(server.url) == ["POST / a", "POST / b", "Response"]


@pytest.mark.parametrize(
    ("origin", "url", "fits"),
    [
        ("https://a.example", "https://a.example/x", True),
        ("https://a.example", "https://A.EXAMPLE./x", True),
        ("https://a.example", "https://a.example:443/", True),
        ("https://a.example", "http://a.example/", False),
        ("https://a.example", "https://a.example:444/", False),
        ("https://a.example", "https://b.a.example/", False),
        ("https://a.example", "https://a.example.evil.test/", False),
        ("https://*.a.example", "https://b.a.example/", True),
        ("https://*.a.example", "https://c.b.a.example/", True),
        ("https://*.a.example", "https://a.example/", False),
        ("https://*.a.example", "https://evila.example/", False),
        ("https://*", "https://anything.example/", True),
        ("https://*:8443", "https://anything.example:8443/", True),
        ("https://*", "http://anything.example/", False),
        ("http://[::1]:80", "http://[::1]/", True),
        ("https://münchen.example", "https://xn--mnchen-3ya.example/", True),
    ],
)
def test_rules_are_of_scheme_host_and_port(origin: str, url: str, fits: bool) -> None:
    """However the URL is written."""
    assert Rule(origin=origin).fits(place(url)) is fits


@pytest.mark.parametrize(
    "url",
    ["https://a@b.example/", "https://a:b@c.example/", "ftp://a.example/", "file:///etc/passwd", "https://",
     "//a.example",
     "https://a.example\\@b.example/", "https://a b/", "https://a.example/\r\nX: y", "https://a.example:0/",
     "https://a.example:99999/", "https://a_/../b\x00", "gopher://a.example", "https://[::1", "https://a..example/",
     "javascript:alert(1)", "https://a.example%2eb/", "https://-a.example/"],
)  # fmt: skip
def test_urls_that_could_be_read_in_two_ways_are_refused(url: str) -> None:
    """Before anything is compared."""
    with pytest.raises(TypeError):
        place(url)


def test_no_host_is_longer_than_a_name_may_be() -> None:
    """What it is would take as long to find out as its sender liked."""
    longest = "a." * 123 + "example"
    assert place(f"https://{longest}./").host == longest
    for long in (f"a{'a.' * 123}example", f"[{':' * 16_000}g]"):
        with pytest.raises(TypeError, match="Invalid URL"):
            place(f"https://{long}/")


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://a.example/x", "ftp://a.example", "https://"]
)
def test_a_rule_that_says_nothing_clear_is_refused(origin: str) -> None:
    """When it is made."""
    with pytest.raises(ValueError, match="origin"):
        Rule(origin=origin)


def test_methods_are_part_of_a_rule() -> None:
    """The first rule of a place that has the method is the one."""
    rules = [Rule(origin="https://a.example", methods=("GET",)), Rule(origin="https://a.example", methods=("POST",))]
    assert find(rules, place("https://a.example"), "POST") is rules[1]
    with pytest.raises(PermissionError, match=r"^DELETE is not allowed at https://a\.example$"):
        find(rules, place("https://a.example"), "DELETE")


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("192.168.0.1", False), ("224.0.0.1", False), ("::", False),
        ("255.255.255.255", False), ("::1", False), ("fe80::1", False), ("fc00::1", False), ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True), ("2002:7f00:1::", False), ("64:ff9b::7f00:1", False), ("ff02::1", False),
        ("64:ff9b::5db8:d822", True), ("fe80::1%eth0", False), ("198.18.0.1", False), ("240.0.0.1", False),
        ("fd00:ec2::254", False), ("2001:0:7f00:1::", False), ("::127.0.0.1", False), ("fec0::1", False),
        ("64:ff9b:1::7f00:1", False), ("168.63.129.16", False), ("192.88.99.1", False), ("3fff::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_the_internets(address: str, is_public: bool) -> None:
    """Loopback, private, link-local, shared and reserved ones are not, in whatever they are wrapped."""
    assert public(address) is is_public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0"])
async def test_no_name_leads_to_a_private_address(worker: Make, server: Any, host: str) -> None:
    """Though the rule allows every host: what is connected to is looked at, and not what it is called."""
    async with asking(worker, [Rule(origin=f"http://*:{server.port}")]) as tenant:
        told = await tenant.ask(f"http://{host}:{server.port}/")
        assert told.startswith(("PermissionError: ", "ConnectionError: ")), told
        assert server.requests == []


async def test_the_address_that_was_checked_is_the_one_connected_to(worker: Make, server: Any) -> None:
    """A name that leads elsewhere when it is asked for again is asked for once."""
    answers = iter([["127.0.0.1"], ["93.184.216.34", "127.0.0.1"]])
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    rule = Rule(origin=f"http://rebind.example:{server.port}")
    async with asking(worker, [rule], resolve=resolve) as tenant:
        told = await tenant.ask(f"http://rebind.example:{server.port}/")
        assert told == "PermissionError: rebind.example is not on the internet, and other networks are not granted"
    assert (asked, server.requests) == (["rebind.example"], [])


async def test_each_redirect_is_checked_anew(worker: Make, server: Any) -> None:
    """One that leads to what is not allowed is not followed."""
    server.answer = lambda *_: ok("", "Location: http://169.254.169.254/latest", status="302 Found")
    async with asking(worker, [at(server)]) as tenant:
        told = await tenant.ask(server.url)
        assert told == "PermissionError: http://169.254.169.254 is not among the places that this worker may reach"
        assert await tenant.ask(server.url, {"redirect": "manual"}) == [302, ""]
        assert (await tenant.ask(server.url, {"redirect": "error"})).startswith("ConnectionError: ")


async def test_redirects_are_followed_so_far(worker: Make, server: Any) -> None:
    """A form that was posted becomes a question; what was put is put again."""

    def answer(method: str, target: str, body: bytes) -> bytes:
        number = int(target[1:] or 0)
        if number < 3:
            return ok("", f"Location: /{number + 1}", status="307 Temporary Redirect" if number else "302 Found")
        return ok(f"{method} {target} {body.decode()}")

    server.answer = answer
    async with asking(worker, [at(server)], limits=FetchLimits(redirects=3)) as tenant:
        assert await tenant.ask(server.url, {"method": "POST", "body": "b"}) == [200, "GET /3 "]
        assert await tenant.ask(f"{server.url}/1", {"method": "PUT", "body": "b"}) == [200, "PUT /3 b"]
        assert (await tenant.head(server.url))[:2] == [f"{server.url}/3", True]
    async with asking(worker, [at(server)], limits=FetchLimits(redirects=2)) as tenant:
        assert await tenant.ask(server.url) == "ConnectionError: more than 2 redirects"


async def test_credentials_do_not_follow_a_redirect_elsewhere(worker: Make, server: Any) -> None:
    """Neither the tenant's nor the host's: each place has its own rule."""
    other = server.url.replace("127.0.0.1", "localhost")
    server.answer = lambda _, target, __: (
        ok("", f"Location: {other}/there", status="302 Found") if target == "/" else ok("x")
    )
    rules = [at(server, headers={"X-Key": "host's"}), Rule(origin=other, private=True)]
    async with asking(worker, rules) as tenant:
        await tenant.ask(server.url, {"headers": {"authorization": "mine", "cookie": "a=b", "x-other": "stays"}})
    first, second = server.requests
    assert b"X-Key: host's" in first
    assert b"authorization: mine" in first
    assert b"X-Key" not in second
    assert b"mine" not in second
    assert b"a=b" not in second
    assert b"x-other: stays" in second


async def test_headers_of_the_hosts_are_added_and_cannot_be_overridden(worker: Make, server: Any) -> None:
    """A secret goes with the request, and the tenant never has it."""
    secrets = Secrets({"KEY": "s3cret"})
    rule = at(server, headers={"Authorization": secret_header(secrets, "KEY", "Bearer {}")})
    assert "s3cret" not in repr(rule)
    async with asking(worker, [rule]) as tenant:
        await tenant.ask(server.url, {"headers": {"AUTHORIZATION": "mine", "x-a": "b"}})
    assert b"Authorization: Bearer s3cret\r\n" in server.requests[0]
    assert b"mine" not in server.requests[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-a", "b\r\nX-Injected: c"), ("x-a", "b\nc"), ("x-a\r\nX-Injected", "c"), ("x a", "b"), ("", "b"),
     ("x-a", "b\0"),
     ("x-a:", "b"), ("x-ä", "b"), ("x-a", "\u2028")],
)  # fmt: skip
async def test_no_header_smuggles_another(worker: Make, server: Any, name: str, value: str) -> None:
    """A tenant that makes its own requests by force is refused by the host."""
    async with asking(worker, [at(server)]) as tenant:
        assert (await tenant.smuggle(server.url, name, value)).startswith("TypeError: a header that cannot be sent")
        assert server.requests == []


@pytest.mark.parametrize(
    "name", ["Transfer-Encoding", "Content-Length", "Host", "Connection", "Upgrade", "TE", "Expect"]
)
async def test_framing_is_the_hosts(worker: Make, server: Any, name: str) -> None:
    """A request is framed once; the tenant's own idea of it is dropped."""
    async with asking(worker, [at(server)]) as tenant:
        assert await tenant.smuggle(server.url, name, "chunked") == 200
    assert server.requests == [f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()]


async def test_bytes_are_limited_both_ways(worker: Make, server: Any) -> None:
    """What is said to be longer, and what turns out to be."""
    limits = FetchLimits(request_bytes=1000, response_bytes=1000)
    async with asking(worker, [at(server)], limits=limits) as tenant:
        assert (await tenant.ask(server.url, {"method": "POST", "body": "x" * 980}))[0] == 200
        told = await tenant.ask(server.url, {"method": "POST", "body": "x" * 1001})
        assert told == "PermissionError: the body of the request is longer than 1,000 bytes"
        server.answer = lambda *_: ok("x" * 1001)
        assert await tenant.ask(server.url) == "PermissionError: the response is longer than 1,000 bytes"
        server.answer = lambda *_: b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 100_000
        assert "the response is longer than 1,000 bytes" in await tenant.ask(server.url)


async def test_time_is_limited(worker: Make, server: Any) -> None:
    """For the head, and for what follows it."""
    never = asyncio.Event()
    limits = FetchLimits(total_s=0.2)
    async with asking(worker, [at(server)], limits=limits) as tenant:
        server.answer = lambda *_: [never]
        assert await tenant.ask(server.url) == f"TimeoutError: {server.url} took too long"
        server.answer = lambda *_: [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", never]
        assert await tenant.ask(server.url) == f"TimeoutError: {server.url} took too long"
    never.set()


async def test_a_body_that_is_compressed_is_passed_on_as_it_is(worker: Make, server: Any) -> None:
    """So that a bomb bursts in the sandbox, under its limits, which unpacks what it reads."""
    packed, log = gzip.compress(b"a" * 100_000), list[Egress]()
    server.answer = lambda *_: ok(packed, "Content-Encoding: gzip")
    async with Fetcher(allow=[at(server)], log=log.append) as fetcher:
        assert await worker(ASKS, global_outbound=fetcher).get_entrypoint().part(server.url) == b"a" * 100_000
    assert log[0].received_bytes == len(packed)


async def test_what_a_server_says_badly_is_an_error_of_the_network(worker: Make, server: Any) -> None:
    """Nonsense, and an end too early; a tenant can tell neither from a broken line."""
    async with asking(worker, [at(server)]) as tenant:
        for nonsense in (b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b""):
            server.answer = lambda *_, said=nonsense: said
            assert (await tenant.ask(server.url)).startswith(f"ConnectionError: {server.url}: ")


async def test_every_request_is_on_record(worker: Make, server: Any) -> None:
    """Also one that was refused; without queries and headers, which may hold what nobody else should read."""
    log: list[Egress] = []
    secrets = Secrets({"KEY": "s3cret"})
    rule = at(server, headers={"Authorization": secret_header(secrets, "KEY")})
    async with asking(worker, [rule], log=log.append) as tenant:
        await tenant.ask(f"{server.url}/a?token=t", {"method": "POST", "body": "body"})
        await tenant.ask("https://elsewhere.example/")
    assert [(one.method, one.url, one.status, one.sent_bytes, one.received_bytes) for one in log] == [
        ("POST", f"{server.url}/a", 200, 4, len("POST /a?token=t body")),
        ("GET", "https://elsewhere.example/", None, 0, 0),
    ]
    assert log[1].error == "https://elsewhere.example is not among the places that this worker may reach"
    assert "s3cret" not in repr(log)


async def test_what_a_tenant_words_is_no_line_of_the_hosts_log(
    worker: Make, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the error with which the body ends that it sends."""
    source = """
    from workers import Request, WorkerEntrypoint, fetch
    class Default(WorkerEntrypoint):
        async def main(self, url):
            async def body():
                yield "a"
                raise ValueError("bad" + chr(10) + "2026-11-28 CRITICAL all is lost")
            try:
                await fetch(Request(url, method="POST", body=body()))
            except Exception as error:
                return type(error).__name__
    """
    caplog.set_level("INFO", "cloister.egress")
    async with Fetcher(allow=[at(server)]) as fetcher:
        await worker(source, global_outbound=fetcher).get_entrypoint().main(server.url)
    (message,) = caplog.messages
    assert "CRITICAL all is lost" in message
    assert all(line.startswith("    | ") for line in message.split("\n")[1:])


async def test_a_tenant_waits_for_its_turn(worker: Make, server: Any) -> None:
    """So many requests of one fetcher are under way at once; one that is given up gives its turn back."""
    gate, under_way, most = asyncio.Event(), 0, 0

    def answer(*_: object) -> list[Any]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 2:
            gate.set()
        return [gate, ok("x")]

    server.answer = answer
    source = ASKS + "\n    async def many(self, url):\n        import asyncio\n"
    source += "        return len(await asyncio.gather(*(self.ask(url) for _ in range(6))))\n"
    async with Fetcher(allow=[at(server)], limits=FetchLimits(at_once=2)) as fetcher:
        assert await worker(source, global_outbound=fetcher).get_entrypoint().many(server.url) == 6


async def test_a_response_that_nobody_reads_takes_no_turn_from_the_next(server: Any) -> None:
    server.answer = lambda method, target, body: (
        ok(b"x" * 1_000_000)
        if target == "/big"
        else b"HTTP/1.1 302 Found\r\nLocation: /big\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )
    heard: list[Egress] = []
    allow = [Rule(origin=server.url, private=True)]
    async with Fetcher(allow=allow, limits=FetchLimits(at_once=1, total_s=20), log=heard.append) as fetcher:
        for _ in range(2):
            response = await fetcher.fetch(f"{server.url}/redirects")
            response.dropped()
    assert [(record.status, record.error) for record in heard] == [(302, ""), (200, "")] * 2


async def test_a_log_that_raises_costs_nobody_an_answer_or_a_turn(server: Any) -> None:
    server.answer = lambda method, target, body: ok(b"x")

    def log(record: Egress) -> None:
        raise ValueError("the disk of the log is full")

    allow = [Rule(origin=server.url, private=True)]
    async with Fetcher(allow=allow, limits=FetchLimits(at_once=1, total_s=20), log=log) as fetcher:
        for _ in range(2):
            assert (await fetcher.fetch(server.url)).attributes["status"] == 200


async def test_a_response_that_is_held_unread_is_given_up_at_the_deadline(server: Any) -> None:
    server.answer = lambda method, target, body: ok(b"x" * 1_000_000)
    over: asyncio.Queue[Egress] = asyncio.Queue()
    allow = [Rule(origin=server.url, private=True)]
    async with Fetcher(allow=allow, limits=FetchLimits(at_once=1, total_s=1.0), log=over.put_nowait) as fetcher:
        held = await fetcher.fetch(f"{server.url}/held")
        assert "not read to its end in time" in (await over.get()).error
        with pytest.raises(TimeoutError):
            await held.answer("next", b"", cast(Any, None))
        assert (await fetcher.fetch(server.url)).attributes["status"] == 200


@pytest.mark.parametrize("method", ["TRACE", "track", "CONNECT"])
async def test_no_method_has_the_hosts_headers_told(server: Any, method: str) -> None:
    allow = [Rule(origin=server.url, private=True, headers={"X-Key": "secret"})]
    async with Fetcher(allow=allow) as fetcher:
        with pytest.raises(TypeError, match="not a method"):
            await fetcher.fetch(server.url, method=method)
    assert not server.requests


async def test_no_tenant_takes_all_turns_of_a_network(server: Any) -> None:
    """One has half of them at most and holds them; another is served meanwhile. Who waits too long is told for what."""
    server.answer = lambda method, target, body: ok(b"x" * 1_000_000 if target == "/big" else b"small")
    heard: list[Egress] = []
    limits = FetchLimits(at_once=4, at_once_per_tenant=2, total_s=60)
    async with Network(limits=limits, log=heard.append) as network:
        greedy, modest = (Fetcher(allow=[at(server)], tenant=name, network=network) for name in ("greedy", "modest"))
        held = [await greedy.fetch(f"{server.url}/big") for _ in range(2)]
        waiting = asyncio.ensure_future(greedy.fetch(f"{server.url}/more"))
        for _ in range(3):
            assert (await modest.fetch(server.url)).attributes["body"] == b"small"
        assert not waiting.done()
        held[0].dropped()
        assert (await waiting).attributes["body"] == b"small"
        assert {record.tenant for record in heard} == {"greedy", "modest"}
    async with Network(limits=FetchLimits(at_once=1, total_s=0.2), log=heard.append) as network:
        fetcher = Fetcher(allow=[at(server)], tenant="t", network=network)
        async with network.turn("t"):
            with pytest.raises(TimeoutError, match=r"no turn came to ask http://127.0.0.1.* are under way"):
                await fetcher.fetch(f"{server.url}/more")
    with pytest.raises(ValueError, match="are those of the network"):
        Fetcher(allow=[], network=network, limits=limits)


async def test_no_connection_serves_two_tenants(runner: asyncio.Runner) -> None:
    """What a server has misread of one request is not answered to another tenant. One tenant's are used again."""
    connections: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(mine := [])
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                mine.append(head.split(b" ")[1].decode())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, Network(log=lambda record: None) as network:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        allow = [Rule(origin=url, private=True)]
        for name in ("a", "b", "a", "b", "a"):
            await Fetcher(allow=allow, tenant=name, network=network).fetch(f"{url}/{name}")
    assert sorted(connections) == [["/a", "/a", "/a"], ["/b", "/b"]]


async def test_names_that_take_long_hold_up_one_tenant(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    """However many it looks up, the threads that look up others' are left."""
    go_on = threading.Event()
    really = socket.getaddrinfo

    def look(host: str, port: int, **options: Any) -> Any:
        if host == "slow.example":
            go_on.wait()
        return really("127.0.0.1", port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    allow = [
        Rule(origin="http://slow.example", private=True),
        Rule(origin=f"http://quick.example:{server.port}", private=True),
    ]
    async with Network(limits=FetchLimits(at_once=64, at_once_per_tenant=64), log=lambda record: None) as network:
        slow, quick = (Fetcher(allow=allow, tenant=name, network=network) for name in ("slow", "quick"))
        waiting = [asyncio.ensure_future(slow.fetch("http://slow.example/")) for _ in range(30)]
        await asyncio.sleep(0)
        assert (await quick.fetch(f"http://quick.example:{server.port}/")).attributes["status"] == 200
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        go_on.set()


async def test_encryption_is_with_the_host_that_was_asked_for() -> None:
    """Its name is what the certificate is held against, and what the server is told."""
    here = Path(__file__).parent
    told: list[str | None] = []
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(here / "certificate.pem")
    theirs.sni_callback = lambda _socket, name, _context: told.append(name)
    ours = ssl.create_default_context(cafile=here / "certificate.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok("encrypted"))
        await writer.drain()
        writer.close()

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
    async with listening, Network(ssl_context=ours, resolve=resolve, log=lambda record: None) as network:
        port = listening.sockets[0].getsockname()[1]
        origins = [f"https://api.example.com:{port}", f"https://other.example.com:{port}"]
        fetcher = Fetcher(allow=[Rule(origin=one, private=True) for one in origins], tenant="t", network=network)
        assert (await fetcher.fetch(origins[0])).attributes["body"] == b"encrypted"
        with pytest.raises(ConnectionError, match=r"certificate is not valid for 'other\.example\.com'"):
            await fetcher.fetch(origins[1])
    assert told == ["api.example.com", "other.example.com"]


@pytest.mark.parametrize(
    ("paths", "path", "allowed"),
    [
        ((), "/anything?x=1", True),
        (("/v1/orders",), "/v1/orders", True),
        (("/v1/orders",), "/v1/orders?page=2", True),
        (("/v1/orders",), "/v1/orders/7", False),
        (("/v1/orders/*",), "/v1/orders/7", True),
        (("/v1/orders/*",), "/v1/orders/a.b", True),
        (("/v1/orders/*",), "/v1/other", False),
        (("/v1/orders/*",), "/v1/orders/../other", False),
        (("/v1/orders/*",), "/v1/orders/%2e%2E/other", False),
        (("/v1/orders/*",), "/v1/orders/..", False),
        (("/v1/orders/*",), "/v1/orders/..;/other", False),
        (("/v1/orders/*",), "/v1/orders/.%2e/other", False),
        (("/v1/orders/*",), "/v1/orders//other", False),
        (("/v1/orders/*",), "/v1/orders/..%2fother", False),
        (("/v1/orders/*",), "/v1/orders/..%5cother", False),
        (("/*",), "//elsewhere.example/", False),
        (("/a", "/b"), "/b", True),
    ],
)
def test_paths_are_part_of_a_rule(paths: tuple[str, ...], path: str, allowed: bool) -> None:
    """And what a server may read as another path is none of them."""
    rules = [Rule(origin="https://a.example", paths=paths)]
    if allowed:
        assert find(rules, place(f"https://a.example{path}"), "GET") is rules[0]
    else:
        with pytest.raises(PermissionError, match=r"not among the paths that are allowed at https://a\.example"):
            find(rules, place(f"https://a.example{path}"), "GET")


@pytest.mark.parametrize("path", ["v1", "/a*b", "/a?b", "/a/../b", "//a", ""])
def test_a_path_that_says_nothing_clear_is_refused(path: str) -> None:
    """When the rule is made."""
    with pytest.raises(ValueError, match="a path of a rule is like"):
        Rule(origin="https://a.example", paths=(path,))


@pytest.mark.parametrize("origin", ["https://*", "http://*:8080"])
def test_a_secret_is_not_sent_to_every_host(origin: str) -> None:
    """A tenant would ask a host of its own, and be told."""
    key = secret_header(Secrets({"KEY": "s3cret"}), "KEY")
    with pytest.raises(ValueError, match="a secret would be told to it"):
        Rule(origin=origin, headers={"X-Key": key})


async def test_a_url_has_a_length(server: Any) -> None:
    """Taking a long one apart takes the host long."""
    async with Fetcher(allow=[at(server)]) as fetcher:
        with pytest.raises(TypeError, match="at most 16,384 characters"):
            await fetcher.fetch(f"{server.url}/{'x' * 20_000}")


@pytest.mark.parametrize("name", ["X_Account", "x-account", "X-ACCOUNT", "x_Account"])
async def test_no_header_looks_like_one_of_the_hosts(server: Any, name: str) -> None:
    """Many servers take a dash and an underscore for the same."""
    allow = [at(server, headers={"X-Account": "t-42"})]
    async with Fetcher(allow=allow) as fetcher:
        await fetcher.fetch(server.url, headers={name: "other", "Content_Length": "5", "X-Own": "mine"})
    head = server.requests[0].lower()
    assert head.count(b"account") == 1
    assert b"x-account: t-42" in head
    assert b"content_length" not in head
    assert b"x-own: mine" in head


async def test_no_proxy_of_the_hosts_is_used(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment says nothing about where tenants' requests go."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with Fetcher(allow=[at(server)]) as fetcher:
        assert (await fetcher.fetch(f"{server.url}/direct")).attributes["body"] == b"GET /direct "


async def test_options_are_a_map_or_keywords(server: Any) -> None:
    """As everywhere; what is none of them is told."""
    async with Fetcher(allow=[at(server)]) as fetcher:
        asked = await fetcher.fetch(server.url, {"method": "PUT", "body": b"x", "headers": {"X-A": "b"}})
        assert asked.attributes["body"] == b"PUT / x"
        assert (await fetcher.fetch(server.url, method="PUT")).attributes["body"] == b"PUT / "
        with pytest.raises(TypeError, match=r"fetch\(\) has no option 'methods'; it has method, headers"):
            await fetcher.fetch(server.url, methods="PUT")


async def test_no_cookie_is_kept(server: Any) -> None:
    """A tenant gets what was set, and sends what it likes; the host remembers none."""
    server.answer = lambda *_: ok("x", "Set-Cookie: a=b; Path=/", "Set-Cookie: c=d")
    async with Fetcher(allow=[at(server)]) as fetcher:
        answer = await fetcher.fetch(server.url)
        assert [value for name, value in answer.attributes["headers"] if name.lower() == "set-cookie"] == [
            "a=b; Path=/",
            "c=d",
        ]
        await fetcher.fetch(server.url)
    assert not any(b"cookie" in head.lower() for head in server.requests)


async def test_a_tenant_can_call_nothing_but_fetch(worker: Make, server: Any) -> None:
    """Neither what closes it for everybody nor what it is made of."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, name):
            return await getattr(self.env.API, name)()
    """
    async with Fetcher(allow=[at(server)]) as fetcher:
        tenant = worker(source, env={"API": fetcher}).get_entrypoint()
        for name in ("aclose", "close", "rules", "limits"):
            with pytest.raises(TenantError, match="has no method"):
                await tenant.main(name)


def ok(body: str | bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A response."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + data
