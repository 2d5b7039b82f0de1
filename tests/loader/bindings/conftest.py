"""What the tests of bindings share: a server on loopback that keeps every byte it was sent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Answering = Callable[[str, str, bytes], bytes | list[Any]]


class Server:
    """A server that answers with what a function makes of method, target and body: bytes, or a list of bytes and events
    to wait for. It says nothing that it was not told to, not even a header."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer: Answering = lambda method, target, body: ok(f"{method} {target} {body.decode()}")
        self._server: asyncio.Server
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop."""
        self._server.close()
        for task in self._serving:
            task.cancel()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            lines = head.lower().split(b"\r\n")
            length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
            body = await reader.readexactly(length)
            if b"transfer-encoding: chunked" in lines:
                while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readuntil(b"\r\n")
            method, target, _ = head.decode("latin-1").split(" ", 2)
            answer = self.answer(method, target, body)
            for part in answer if isinstance(answer, list) else [answer]:
                if isinstance(part, asyncio.Event):
                    await part.wait()
                else:
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def ok(body: str | bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A response."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def served(runner: asyncio.Runner) -> Iterator[Server]:
    """A server while a fixture lives."""
    server = Server()
    runner.run(server.open())
    yield server
    runner.run(server.close())


server = pytest.fixture(served, name="server")
lasting_server = pytest.fixture(served, scope="module", name="lasting_server")
"""A server of this test's own, and one of this module's."""


@pytest.fixture(scope="session")
def libraries() -> dict[str, str]:
    """`requests` and `httpx` with what they need, as modules that a tenant brings along."""
    site = Path(sys.modules["pytest"].__file__ or "").parent.parent
    found = {}
    for name in ("requests", "urllib3", "idna", "certifi", "charset_normalizer", "httpx"):
        for file in (site / name).rglob("*.py"):
            found[file.relative_to(site).as_posix()] = file.read_text()
    return found
