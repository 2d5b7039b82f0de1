"""What an ASGI server tells of a request, as one for a tenant. What is wrong with it is refused before it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from .headers import Malformed, Pairs, find, headers
from .inbox import Refused
from .messages import Request

_PREFIX: Final = b"x-forwarded-prefix"
_OF_HTTP: Final = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one request may take. `body_bytes` is of the request's, `response_bytes` of the response's, None for any."""

    header_bytes: int = 32 * 1024
    url_bytes: int = 8 * 1024
    body_bytes: int | None = 64 * 1024 * 1024
    response_bytes: int | None = None
    message_bytes: int = 1024 * 1024
    """Of one message on a web socket, either way."""
    idle_s: float = 60.0
    """Seconds that the tenant may take for each next piece of its response, and the client to take it; on a web socket,
    that the client may take for a message, and the tenant for its next one when it works on many, or for the end."""


def request(
    scope: MutableMapping[str, Any], given: Pairs, limits: HttpLimits, body: AsyncIterator[bytes] | None
) -> Request:
    """The request. `Refused`."""
    host = find(given, "host") or ":".join(str(part) for part in scope.get("server") or ("localhost",) if part)
    if any(sign in host for sign in "/\\@?# \t") or not host.isascii():
        raise Refused(400, "The Host header is malformed.")
    raw = scope.get("raw_path") or scope["path"].encode()
    target = raw.decode("latin-1") + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
    if len(target) > limits.url_bytes:
        raise Refused(414, "The URL is too long.")
    scheme = scope.get("scheme", "http")
    try:
        return Request(f"{_OF_HTTP.get(scheme, scheme)}://{host}{target}", method=scope.get("method", "GET"),
                       headers=given, body=body, cf=scope.get("cf"))  # fmt: skip
    except Malformed as error:
        raise Refused(400, "The request is malformed.") from error


def headers_of(scope: MutableMapping[str, Any], limits: HttpLimits) -> Pairs:
    """Its headers. `Refused`."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > limits.header_bytes:
        raise Refused(431, "The headers are too large.")
    try:
        return headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
    except Malformed as error:
        raise Refused(400, "A header is malformed.") from error


def at_root(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The same request, as an application at the root would get it."""
    root = scope.get("root_path", "").rstrip("/")
    kept = [
        (name, value) for name, value in scope["headers"] if name.lower() != _PREFIX
    ]  # of which clients know nothing
    path, raw, prefix = scope["path"], scope.get("raw_path"), quote(root).encode()
    if path == root or path.startswith(f"{root}/"):  # or it was left out by the server already
        path = path.removeprefix(root) or "/"
        raw = raw.removeprefix(prefix) or b"/" if raw is not None and raw.startswith(prefix) else quote(path).encode()
    return {**scope, "path": path, "raw_path": raw, "headers": [*kept, (_PREFIX, prefix)] if root else kept}
