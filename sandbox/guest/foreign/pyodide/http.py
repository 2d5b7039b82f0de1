"""`pyodide.http`: what the network is asked by; see `workers.fetch`."""

from __future__ import annotations

from typing import Any

from cloister.sandbox.guest import http
from cloister.sandbox.guest.http import FetchResponse

__all__ = ["FetchResponse", "open_url", "pyfetch"]


async def pyfetch(url: str, /, **options: Any) -> http.Response:
    """See `workers.fetch`."""
    return await http.fetch(url, **options)


def open_url(url: str) -> Any:
    """The text at a URL, as a file."""
    import io

    from cloister.sandbox.guest.nesting import run_sync

    async def text() -> str:
        return await (await http.fetch(url)).text()

    return io.StringIO(run_sync(text()))
