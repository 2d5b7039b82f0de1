"""Bindings that a tenant's code speaks to as to Cloudflare's: a database whose statements are made without asking, and
objects whose content is read like a body.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cloister.ipc.stubs import Stub

from .bodies import Bodied
from .conversions import JsArray
from .values import JsDict

_CAPITAL = re.compile(r"([A-Z])")
_ONLY_STATE: Final = "latest"
"""Of a database that has one copy."""


class Database:
    """A database of the tenant's own: `await db.prepare(query).bind(*params).all()`."""

    __module__ = "workers"

    def __init__(self, stub: Stub, bookmark: str | None = None) -> None:
        self._stub, self._bookmark = stub, bookmark

    def prepare(self, query: str) -> Statement:
        """A statement, which costs nothing yet."""
        return Statement(self, query, ())

    def withSession(self, constraint: str = "", /) -> Database:  # noqa: N802
        """The same: there is one copy, and whoever reads finds what was written."""
        return Database(self._stub, None if constraint in {"", "first-primary", "first-unconstrained"} else constraint)

    def getBookmark(self) -> str | None:  # noqa: N802
        """Which state a session has seen, None before its first query. It is for `withSession`, and says no more."""
        return self._bookmark

    async def batch(self, statements: list[Statement]) -> list[Any]:
        """Several of them as one transaction: each result, or nothing of it was done."""
        results: list[Any] = await self._stub.batch([[one.query, list(one.params)] for one in statements])
        self._bookmark = self._bookmark or _ONLY_STATE
        for result in results:
            result["results"] = JsArray(result["results"])
        return results

    async def sql(self, query: str, *params: Any) -> list[Any]:
        """One statement; the rows it gives."""
        rows: list[Any] = await self._stub.sql(query, *params)
        return rows

    async def exec(self, script: str) -> Any:
        """Several statements in one text, without parameters."""
        return await self._stub.exec(script)


class Statement:
    """A query, and the parameters that were bound to it."""

    __module__ = "workers"

    def __init__(self, database: Database, query: str, params: tuple[Any, ...]) -> None:
        self._database, self.query, self.params = database, query, params

    def bind(self, *params: Any) -> Statement:
        """The same with these parameters."""
        return Statement(self._database, self.query, params)

    async def run(self) -> Any:
        """Rows, and what it changed: `{results, success, meta}`."""
        (result,) = await self._database.batch([self])
        return result

    all = run

    async def first(self, column: str | None = None) -> Any:
        """The first row, or one column of it; None if there is none."""
        rows = (await self.run()).results
        if not rows or column is None:
            return rows[0] if rows else None
        if column not in rows[0]:
            raise KeyError(f"there is no column {column!r}")
        return rows[0][column]

    async def raw(self, options: Mapping[str, Any] | None = None, *, columnNames: bool = False) -> list[Any]:  # noqa: N803
        """The rows as lists, after the names of the columns if those are asked for."""
        rows = (await self.run()).results
        named = columnNames or bool((options or {}).get("columnNames"))
        return ([list(rows[0])] if rows and named else []) + [list(row.values()) for row in rows]


class Object(Bodied):
    """What lies in a bucket under a key; its content is read like a body, if that was asked for."""

    __module__ = "workers"

    def __init__(self, attributes: Mapping[str, Any], stub: Stub) -> None:
        known = {name: value for name, value in attributes.items() if name.isidentifier() and name != "body"}
        self._about = JsDict(
            (name, JsDict(value) if isinstance(value, dict) else value) for name, value in known.items()
        )
        self._receive(attributes, stub)

    def writeHttpMetadata(self, headers: Any) -> None:  # noqa: N802
        """Put into headers what is known of the content."""
        for name, value in self.httpMetadata.items():
            headers.set("expires" if name == "cacheExpiry" else _CAPITAL.sub(r"-\1", name).lower(), value)

    def __getattr__(self, name: str) -> Any:
        about: JsDict = vars(self).get("_about") or JsDict()
        if name not in about:
            raise AttributeError(name)
        return about.__getattr__(name)

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def __repr__(self) -> str:
        return f"<Object {self.key!r}, {self.size:,} bytes>"


class Upload:
    """An object that comes in parts: `await upload.uploadPart(1, data)`, `await upload.complete(parts)`."""

    __module__ = "workers"

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self.key, self.uploadId = stub._attributes["key"], stub._attributes["uploadId"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stub, name)

    def __getitem__(self, name: str) -> Any:
        return {"key": self.key, "uploadId": self.uploadId}[name]


def dress(kind: str, stub: Stub) -> Any:
    """What the host sent, as an object of its class."""
    if kind not in _MADE:
        return _CLASSES[kind](stub) if kind in _CLASSES else stub
    made = importlib.import_module(f"{__package__}.{_MADE[kind]}").received
    return made(stub._attributes, stub)


_CLASSES: Final[dict[str, Callable[[Stub], Any]]] = {
    "Database": Database,
    "Upload": Upload,
    "Object": lambda stub: Object(stub._attributes, stub),
}
_MADE: Final = {
    "Blob": "blobs", "File": "blobs", "FormData": "forms", "DurableObjectNamespace": "objects", "Error": "guises",
    "Headers": "headers",
}  # fmt: skip
"""Class: the module whose `received` makes one."""
