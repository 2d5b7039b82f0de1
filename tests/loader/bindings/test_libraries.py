"""Libraries that know of no sandbox, unchanged: they reach what the host granted for a network."""

from __future__ import annotations

import asyncio
import gzip
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from cloister.loader import WorkerCode
from cloister.loader.bindings import Egress, Fetcher, FetchLimits, Rule

Told = Callable[..., Awaitable[object]]

LIBRARIES = {
    "urllib": """
        import urllib.request
        return urllib.request.urlopen(urllib.request.Request(url, data=b"data", headers={"X-A": "b"})).read().decode()
    """,
    "http.client": """
        import http.client, urllib.parse
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        connection.request("POST", "/", body=iter([b"da", b"ta"]), headers={"X-A": "b"}, encode_chunked=True)
        return connection.getresponse().read().decode()
    """,
    "urllib3": """
        import urllib3
        return urllib3.PoolManager().request("POST", url, body=b"data", headers={"X-A": "b"}).data.decode()
    """,
    "requests": """
        import requests
        return requests.post(url, data=b"data", headers={"X-A": "b"}).text
    """,
    "requests, a session in a thread": """
        import asyncio, requests
        with requests.Session() as session:
            post = lambda: session.post(url, data=b"data", headers={"X-A": "b"}).text
            first, second = await asyncio.gather(asyncio.to_thread(post), asyncio.to_thread(post))
            return first if first == second else [first, second]
    """,
    "httpx": """
        import httpx
        return httpx.post(url, content=b"data", headers={"X-A": "b"}, timeout=100).text
    """,
    "httpx, asynchronous": """
        import httpx
        async with httpx.AsyncClient(timeout=100) as client:
            return (await client.post(url, content=b"data", headers={"X-A": "b"})).text
    """,
}


@pytest.mark.parametrize("name", LIBRARIES)
async def test_libraries_that_a_tenant_brings_reach_the_network(
    loader: Any, tenant: str, code: Any, libraries: Any, server: Any, name: str
) -> None:
    """Unchanged, and where they fail they fail as they do elsewhere."""
    body = LIBRARIES[name].replace("\n        ", "\n            ")
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def post(self, url):
            {body.strip()}

        async def fails(self, url):
            try:
                await self.post(url)
            except OSError as error:
                return ["OSError", type(error).__name__]
            except Exception as error:
                return [type(error).__mro__[-4].__name__, type(error).__name__]
    """
    async with Fetcher(allow=[at(server)]) as fetcher:
        made = code(source, global_outbound=fetcher)
        made = type(made)(main_module="main.py", modules={**libraries, **made.modules}, global_outbound=fetcher)
        worker = loader.get(tenant, lambda: made).get_entrypoint()
        assert await worker.post(f"{server.url}/") == "POST / data"
        assert b"X-A: b" in server.requests[0].replace(b"x-a", b"X-A")
        expected = {
            "urllib": ["OSError", "URLError"],
            "http.client": ["OSError", "PermissionError"],
            "urllib3": ["HTTPError", "ProtocolError"],
            "httpx": ["HTTPError", "ConnectError"],
        }
        kind = expected.get(name.partition(",")[0], ["OSError", "ConnectionError"])
        assert await worker.fails("http://elsewhere.example/") == kind


async def test_libraries_of_a_profile_reach_the_network(loader: Any, server: Any) -> None:
    """Also by `https`, of which they were told that there is none when they were imported: the host is asked."""
    source = """
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, url):
            import httpx, requests, urllib3
            pool = urllib3.PoolManager()
            return [requests.get(url).text, pool.request("GET", url).data.decode(), httpx.get(url).text]
        async def fetch(self, request):
            return Response(request.url)
    """
    modules = {"main.py": textwrap.dedent(source)}
    web = loader.load(WorkerCode(main_module="main.py", modules=modules)).get_entrypoint()
    code = WorkerCode(main_module="main.py", modules=modules, global_outbound=web, preload=("requests", "httpx"))
    assert await loader.load(code).get_entrypoint().main("https://a.b/c") == ["https://a.b/c"] * 3


async def test_a_library_that_waits_too_long_gives_up(
    loader: Any, tenant: str, code: Any, libraries: Any, server: Any
) -> None:
    """By its own time limit, though it holds up the loop of its sandbox; the host's request is given up with it."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, url, seconds):
            import httpx, requests, urllib.request
            found = []
            for way in (lambda: urllib.request.urlopen(url, timeout=seconds),
                        lambda: requests.get(url, timeout=seconds), lambda: httpx.get(url, timeout=seconds)):
                try:
                    way()
                except Exception as error:
                    found.append(f"{type(error).__name__}: {error}")
            async with httpx.AsyncClient(timeout=seconds) as client:
                try:
                    await client.get(url)
                except httpx.ReadTimeout:
                    found.append("ReadTimeout")
            return [*found, (await self.env.PING())]
    """
    never = asyncio.Event()
    asked = list[object]()

    def answer(*request: object) -> list[asyncio.Event]:
        asked.append(request)
        return [never]

    server.answer = answer
    log: asyncio.Queue[Egress] = asyncio.Queue()
    async with Fetcher(allow=[at(server)], log=log.put_nowait) as fetcher:
        made = code(source)
        made = type(made)(main_module="main.py", modules={**libraries, **made.modules}, global_outbound=fetcher,
                          env={"PING": lambda: "pong"})  # fmt: skip
        for seconds in (0.05, 1.0, 10.0):  # a machine that is too busy to ask in time has more of it
            asked.clear()
            told = await loader.get(tenant, lambda: made).get_entrypoint().main(server.url, seconds)
            if told[3:] == ["ReadTimeout", "pong"] and len(asked) == 4:
                break
            while not log.empty():
                log.get_nowait()
        assert ["timed out" in words.lower() for words in told[:3]] == [True] * 3
        assert told[3:] == ["ReadTimeout", "pong"]
        assert [(await log.get()).status for _ in range(4)] == [None] * 4  # which may come a little later


async def test_encrypted_places_need_no_encryption_inside(loader: Any, tenant: str, code: Any, libraries: Any) -> None:
    """The host speaks TLS: a tenant's `https` gets as far as the host's answer, though there is no `ssl` module."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, url):
            import httpx, requests, urllib.request
            found = []
            for way in (lambda: urllib.request.urlopen(url), lambda: requests.get(url),
                        lambda: httpx.get(url, timeout=100)):
                try:
                    way()
                except Exception as error:
                    found.append("is not among the places" in str(error))
            return found
    """
    async with Fetcher(allow=[]) as fetcher:
        made = code(source)
        made = type(made)(main_module="main.py", modules={**libraries, **made.modules}, global_outbound=fetcher)
        assert await loader.get(tenant, lambda: made).get_entrypoint().main("https://a.example/") == [True] * 3


MAIN = """
import httpx, io, requests, urllib3
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def main(self, url, expression, patience):
        names = {"httpx": httpx, "io": io, "requests": requests, "urllib3": urllib3, "url": url, "patience": patience}
        try:
            return eval(expression, names)
        except Exception as error:
            return f"{type(error).__module__}.{type(error).__name__}"
"""


@pytest.fixture(scope="module")
def told(runner: asyncio.Runner, loader: Any, libraries: Any, lasting_server: Any) -> Iterator[Told]:
    """What comes of an expression in a tenant that brings the libraries: its value, or the error by its name."""
    lasting_server.answer = answers
    fetcher = Fetcher(allow=[at(lasting_server)], log=lambda record: None)
    runner.run(fetcher.__aenter__())
    code = WorkerCode(main_module="main.py", modules={**libraries, "main.py": MAIN}, global_outbound=fetcher)

    async def tell(expression: str, patience: float = 60.0) -> object:
        entrypoint = loader.get("with libraries", lambda: code).get_entrypoint()
        return await entrypoint.main(lasting_server.url, expression, patience)

    yield tell
    runner.run(fetcher.__aexit__(None, None, None))


def answers(method: str, target: str, body: bytes) -> bytes | list[Any]:
    """What a server of many moods has to say."""
    never = asyncio.Event()
    known: dict[str, bytes | list[Any]] = {
        "/length": ok(str(len(body))),
        "/large": ok(b"x" * 1_000_000),
        "/zipped": ok(gzip.compress(b"hello"), "Content-Encoding: gzip"),
        "/there": ok("there"),
        "/redirects": ok("", "Location: /there", status="302 Found"),
        "/circle": ok("", "Location: /circle", status="302 Found"),
        "/missing": ok("no", status="404 Not Found"),
        "/silent": [never],
        "/stuck": [b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 300_000, never],
        "/cut": [b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 300_000],
    }
    return known[target]


GIVES = {
    "requests, a generator": (
        """requests.post(url + "/length", data=(b"y" * 10_000 for _ in range(100))).text""", "1000000"),
    "requests, a file of some size": (
        """requests.post(url + "/length", data=io.BytesIO(b"y" * 1_000_000)).text""", "1000000"),
    "requests, in pieces": (
        """sum(map(len, requests.get(url + "/large", stream=True).iter_content(50_000)))""", 1_000_000),
    "requests, zipped": ("""requests.get(url + "/zipped").text""", "hello"),
    "requests, redirects": (
        """[requests.get(url + "/redirects").text, requests.get(url + "/redirects").history[0].reason]""",
        ["there", "Found"]),
    "requests, no redirect": (
        """requests.get(url + "/redirects", allow_redirects=False).status_code""", 302),
    "urllib3, some of it": (
        """len(urllib3.PoolManager().request("GET", url + "/large", preload_content=False).read(1000))""", 1000),
    "httpx, a generator": (
        """httpx.post(url + "/length", content=(b"y" * 10_000 for _ in range(100)), timeout=100).text""", "1000000"),
    "httpx, form and file": (
        """httpx.post(url + "/length", files={"a": b"y" * 1_000_000}, timeout=100).status_code""", 200),
    "httpx, in pieces": (
        """[sum(map(len, answer.iter_bytes())) for stream in [httpx.stream("GET", url + "/large", timeout=100)]
            for answer in [stream.__enter__()]][0]""", 1_000_000),
    "httpx, zipped": ("""httpx.get(url + "/zipped", timeout=100).text""", "hello"),
    "httpx, redirects": ("""httpx.get(url + "/redirects", follow_redirects=True, timeout=100).text""", "there"),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "expected"), GIVES.values(), ids=GIVES)
async def test_what_a_library_does_elsewhere_it_does_here(told: Told, expression: str, expected: object) -> None:
    """Bodies of any size and kind, both ways; redirects as the library follows them."""
    assert await told(expression) == expected


FAILS = {
    "requests, refused": ("requests.get('http://elsewhere.example/')", "requests.exceptions.ConnectionError"),
    "requests, silent": ("requests.get(url + '/silent', timeout=patience)", "requests.exceptions.ReadTimeout"),
    "requests, two timeouts": ("requests.get(url + '/silent', timeout=(60, patience))",
                               "requests.exceptions.ReadTimeout"),
    "requests, stuck": ("requests.get(url + '/stuck', timeout=patience)", "requests.exceptions.ConnectionError"),
    "requests, cut off": ("requests.get(url + '/cut')", "requests.exceptions.ChunkedEncodingError"),
    "requests, in a circle": ("requests.get(url + '/circle')", "requests.exceptions.TooManyRedirects"),
    "requests, missing": ("requests.get(url + '/missing').raise_for_status()", "requests.exceptions.HTTPError"),
    "urllib3, silent": ("urllib3.PoolManager().request('GET', url + '/silent', timeout=patience, retries=False)",
                        "urllib3.exceptions.ReadTimeoutError"),
    "httpx, refused": ("httpx.get('http://elsewhere.example/', timeout=100)", "httpx.ConnectError"),
    "httpx, silent": ("httpx.get(url + '/silent', timeout=patience)", "httpx.ReadTimeout"),
    "httpx, stuck": ("httpx.get(url + '/stuck', timeout=patience)", "httpx.ReadTimeout"),
    "httpx, cut off": ("httpx.get(url + '/cut', timeout=100)", "httpx.ReadError"),
    "httpx, in a circle": ("httpx.get(url + '/circle', follow_redirects=True, timeout=100)", "httpx.TooManyRedirects"),
    "httpx, missing": ("httpx.get(url + '/missing', timeout=100).raise_for_status()", "httpx.HTTPStatusError"),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "expected"), FAILS.values(), ids=FAILS)
async def test_what_fails_is_told_by_the_librarys_own_errors(told: Told, expression: str, expected: str) -> None:
    """Those that code around it expects. A machine that is too busy to come as far as that in time has more of it."""
    for patience in (0.2, 2, 20):
        if (found := await told(expression, patience)) == expected:
            return
    assert found == expected


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_is_made_is_sent_as_it_is_made(
    loader: Any, tenant: str, code: Any, libraries: Any, server: Any, kind: str
) -> None:
    """A body without an end takes no more memory than a piece of it, and is ended by the limit of the host."""
    call = {
        "sync": "httpx.post(url, content=iter(lambda: b'x' * 65536, None), timeout=100)",
        "async": "await httpx.AsyncClient(timeout=100).post(url, content=forever())",
    }[kind]
    source = f"""
    import httpx
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, url):
            async def forever():
                while True:
                    yield b"x" * 65536
            try:
                {call}
            except httpx.ConnectError as error:
                return str(error)
    """
    async with Fetcher(allow=[at(server)], limits=FetchLimits(request_bytes=1_000_000)) as fetcher:
        made = code(source)
        made = WorkerCode(main_module="main.py", modules={**libraries, **made.modules}, global_outbound=fetcher)
        told = await loader.get(tenant, lambda: made).get_entrypoint().main(server.url)
        assert told.startswith("the body of the request is longer than 1")


def at(server: Any) -> Rule:
    """A rule that leads to the server of the test."""
    return Rule(origin=server.url, private=True)


def ok(body: str | bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A response."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


@pytest.mark.parametrize("url", ["http://a.b:80/x", "http://a.b/x", "https://a.b:443/x", "http://a.b:8080/x"])
async def test_a_port_is_asked_for_as_it_was_written(loader: Any, url: str) -> None:
    """The usual one too, which nobody needs to write."""
    told = """
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(request.url)
"""
    asks = """
import urllib.request
from workers import WorkerEntrypoint
class Default(WorkerEntrypoint):
    def ask(self, url):
        return urllib.request.urlopen(url).read().decode()
"""
    origin = loader.load(WorkerCode(main_module="m.py", modules={"m.py": told})).get_entrypoint()
    asker = loader.load(WorkerCode(main_module="m.py", modules={"m.py": asks}, global_outbound=origin))
    assert await asker.get_entrypoint().ask(url) == url
