"""Libraries that would open a socket, connected to what the host granted for the network instead.

`http.client` is the lowest place that `urllib` and `urllib3` (and so `requests`) have in common: it is given something
that it takes for a socket. `httpx` has a place of its own for this, see `httpx_transports`. Encryption is the host's
business, so that `https` works without `ssl`. Not imported by the guest itself: it is kept with the standard library,
and is asked for when one of these modules was imported.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from . import http, scope
from .bodies import Stream
from .headers import Pairs

HOPS: Final = frozenset({"transfer-encoding", "connection", "keep-alive"})


def connect(module: types.ModuleType) -> None:
    """One of these modules was just imported."""
    _CONNECT[module.__name__](module)


def blocking(work: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
    """What a coroutine gives that waits for nothing but the host, without giving the loop its turn meanwhile.

    On another thread than the loop's, which goes on there. `TimeoutError` after so many seconds.
    """
    if asyncio._get_running_loop() is None:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), scope.loop).result()
    end = None if timeout is None else time.monotonic() + timeout
    scope.held_up = True
    try:
        while True:
            answer = work.send(None)
            answer._asyncio_future_blocking = False
            while not answer.done():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("timed out")
                scope.pump(left)
    except StopIteration as done:
        return done.value
    finally:
        scope.held_up = False
        work.close()


async def exchange(method: str, url: str, headers: Pairs, body: Any) -> http.Response:
    """Ask the host, which follows no redirect: the library knows how it likes to."""
    kept = [(name, value) for name, value in headers if name.lower() not in {*HOPS, "content-length", "host"}]
    request = http.Request(url, method=method, headers=kept, redirect="manual")
    if body:
        request.body = body if isinstance(body, Stream) else Stream(body)
    return await http.outbound().fetch(request)  # type: ignore[no-any-return]


class Pipe:
    """What `http.client` takes for a connected socket: it collects a request, and has the answer to it."""

    def __init__(self, scheme: str, host: str, port: int | None, timeout: Any) -> None:
        http.outbound()  # without one the connection fails, as it would without a network
        usual = port in {None, (80, 443)[scheme == "https"]}
        self._origin = f"{scheme}://{f'[{host}]' if ':' in host else host}{'' if usual else f':{port}'}"
        self._usual = f":{port or (80, 443)[scheme == 'https']}" if usual else None
        self._sent = bytearray()
        self.settimeout(timeout)

    def sendall(self, data: Any) -> None:
        """A part of the request."""
        self._sent += data

    send = sendall

    def settimeout(self, timeout: Any) -> None:
        """Seconds to wait for each answer of the host's."""
        self._timeout = timeout if isinstance(timeout, int | float) else None

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """The answer. All has been sent when it is read, and so the host is asked then."""
        return io.BufferedReader(Answer(self._ask, self._timeout))

    def _ask(self) -> http.Response:
        head, end, body = self._sent.partition(b"\r\n\r\n")
        if not end:
            raise ConnectionError("an answer is waited for to a request that was not sent")
        self._sent = bytearray()
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        if any(name.lower() == "transfer-encoding" for name, _ in headers):
            body = bytearray().join(_chunks(body))
        method, target, _ = first.split(" ", 2)
        said = any(self._usual and name.lower() == "host" and value.endswith(self._usual) for name, value in headers)
        origin = f"{self._origin}{self._usual}" if said else self._origin  # who has written it has it as written
        url = target if "://" in target else origin + target
        return blocking(exchange(method, url, headers, bytes(body)), self._timeout)  # type: ignore[no-any-return]

    def close(self, *_: object) -> None:
        """Nothing is open."""

    shutdown = setsockopt = close


class Answer(io.RawIOBase):
    """A response, written out as a server would have it. It is asked for when it is read."""

    def __init__(self, ask: Callable[[], http.Response], timeout: float | None) -> None:
        self._ask: Callable[[], http.Response] | None = ask
        self._timeout = timeout
        self._kept = b""
        self._body: Stream | None = None

    def readable(self) -> bool:
        """Of course."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some of it."""
        if self._ask is not None:
            ask, self._ask = self._ask, None
            response = ask()
            self._kept, self._body = _head(response), response.body and response.body.arrived()
        if not self._kept and self._body is not None:
            self._kept = blocking(self._body.next(), self._timeout)["value"] or b""
        piece = self._kept[: len(buffer)]
        self._kept = self._kept[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _head(response: http.Response) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {response.status_text}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in response.headers.pairs if name.lower() not in HOPS]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _chunks(data: bytearray) -> Iterator[bytearray]:
    """A body that was sent in chunks."""
    start = 0
    while (end := data.find(b"\r\n", start)) > 0 and (length := int(data[start:end].split(b";")[0], 16)):
        yield data[end + 2 : end + 2 + length]
        start = end + length + 4


def _http_client(module: Any) -> None:
    def connected(scheme: str) -> Callable[[Any], None]:
        def connect(self: Any) -> None:
            self.sock = Pipe(scheme, self.host, self.port, self.timeout)

        return connect

    class HTTPSConnection(module.HTTPConnection):  # type: ignore[misc]
        """Encrypted by the host."""

        default_port = 443
        connect = connected("https")

        def __init__(self, host: str, port: int | None = None, **options: Any) -> None:
            known = {name: options[name] for name in ("timeout", "source_address", "blocksize") if name in options}
            super().__init__(host, port, **known)

    module.HTTPConnection.connect = connected("http")
    module.HTTPSConnection = HTTPSConnection
    module._create_https_context = lambda _version: None
    module.__all__.append("HTTPSConnection")


def _urllib(module: Any) -> None:
    opened = module.AbstractHTTPHandler.do_open

    def do_open(*args: Any, **options: Any) -> Any:
        try:
            return opened(*args, **options)
        except (module.URLError, TimeoutError):
            raise
        except OSError as error:  # elsewhere it would have failed when it connected
            raise module.URLError(error) from error

    module.AbstractHTTPHandler.do_open = do_open


def _urllib3(module: Any) -> None:
    class HTTPSConnection(module.HTTPConnection):  # type: ignore[misc]
        """Encrypted by the host."""

        default_port = 443
        is_verified = True

        def __init__(self, host: str, port: int | None = None, **options: Any) -> None:
            known = ("timeout", "source_address", "blocksize", "socket_options", "proxy", "proxy_config")
            super().__init__(host, port or 443, **{name: options[name] for name in known if name in options})

        def set_cert(self, *_: object, **__: object) -> None:
            """The host has its own."""

        def _new_conn(self) -> Pipe:
            return Pipe("https", self.host, self.port, self.timeout)

    module.HTTPConnection._new_conn = lambda self: Pipe("http", self.host, self.port, self.timeout)
    module.HTTPSConnection = module.VerifiedHTTPSConnection = HTTPSConnection
    pool: Any = sys.modules.get("urllib3.connectionpool")
    if hasattr(pool, "HTTPSConnectionPool"):  # in a profile, where it was told already that there is no `ssl`
        pool.HTTPSConnection = pool.HTTPSConnectionPool.ConnectionCls = HTTPSConnection


def _certifi(module: Any) -> None:
    module.where = lambda: "cacert.pem"  # which nobody reads


def _requests(module: Any) -> None:
    module.HTTPAdapter.cert_verify = lambda *_: None  # the host does


def _httpx(module: Any) -> None:
    from . import httpx_transports

    httpx_transports.connect(module)


_CONNECT: Final[dict[str, Callable[[Any], None]]] = {
    "http.client": _http_client,
    "urllib.request": _urllib,
    "urllib3.connection": _urllib3,
    "certifi.core": _certifi,
    "requests.adapters": _requests,
    "httpx._transports.default": _httpx,
}
