"""The least of HTTP/1.1 that a load generator needs: one request at a time over connections that stay open.

Clients of more comfort take longer for a request than some peers take for a workflow, and would be what is measured.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any


class Http:
    """A pool of connections to one port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> Any:
        """What was answered, as JSON. `RuntimeError` unless all is well."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: Any) -> Any:
        """The same with something to say."""
        return await self._ask("POST", path, json.dumps(body).encode())

    async def _ask(self, method: str, path: str, data: bytes) -> Any:
        pair = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = pair
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        if headers.get("transfer-encoding") == "chunked":
            content = b""
            while size := int(await reader.readline(), 16):
                content += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            content = await reader.readexactly(int(headers.get("content-length", 0)))
        self._free.append(pair)
        if status.split()[1][0] != "2":
            raise RuntimeError(f"{path}: {status}: {content[:500]!r}")
        return json.loads(content) if content else None
