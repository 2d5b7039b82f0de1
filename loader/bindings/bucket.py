"""An object store after Cloudflare's R2: `Bucket(store, tenant)` is one tenant's, and knows no other.

A key is a row and never a path, so that none can lead anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from cloister.ipc import RpcTarget, Stub
from cloister.ipc.streams import RemoteStream

from ..http.bodies import Sent, read
from ..http.headers import Malformed
from . import conditions, ranges, uploads
from . import options as given
from .checksums import SUMS, Checksum
from .conditions import Condition
from .objects import PIECE, ObjectStore, Written
from .shelf import owner
from .uploads import MultipartUpload

MOST_KEY: Final = 1024
_MOST_ABOUT: Final = 8192
_PAGE: Final = 1000
_MOST_PAGE: Final = 4 * 1024 * 1024
"""Bytes of what is told of the objects of one page."""
_COLUMNS: Final = "key, file, size, etag, uploaded, http, custom"
_HTTP: Final = "content_type content_language content_disposition content_encoding cache_control cache_expiry"


class Bucket(RpcTarget):
    """`env={"BUCKET": Bucket(store, tenant_id)}`: `put`, `get`, `head`, `delete`, `list`, and
    `create_multipart_upload` for an object that comes in parts."""

    def __init__(self, store: ObjectStore, tenant: str, *, name: str = "") -> None:
        self._store, self._scope = store, (owner(tenant), name)

    async def put(self, key: object, value: object, options: object = None, /, **more: object) -> Sent | None:
        """Store text, bytes, or what a body or an asynchronous iterator yields. Options: `http_metadata`, a map or
        headers, `custom_metadata`, `only_if` as of `get`: None where that does not hold; a checksum, `md5`, `sha1`,
        `sha256`, `sha384` or `sha512`; `storage_class`, of which there is one. `ValueError`, `StorageQuotaExceeded`.
        Nothing changes in any of these cases."""
        found = given.options(options, more, f"http_metadata custom_metadata {SUMS} only_if storage_class", "put()")
        name = given.key(key, MOST_KEY)
        http, custom = _metadata(found)
        condition = conditions.read(found.get("only_if"))
        had = await self._row(name)
        room = await self._store.room(self._scope[0]) + (had[2] if had is not None else 0)
        checksum = Checksum.read(found)
        content = await self._written(value, room, checksum)
        row = (name, *content, self._store.now(), http, custom)
        try:
            checksum.check()
        except BaseException:
            await asyncio.shield(self._store.forget([content.file]))
            raise
        entering = asyncio.ensure_future(self._entered(row, condition))
        try:
            entered = await asyncio.shield(entering)
        except asyncio.CancelledError:
            await asyncio.wait({entering})  # so that whoever gave it up finds it done, or not
            raise
        return _sent(row, None) if entered else None

    async def get(self, key: object, options: object = None, /, **more: object) -> Sent | None:
        """An object with its content, None if there is none. Options: `range` (`offset`, `length`, `suffix`), `only_if`
        (`etag_matches`, `etag_does_not_match`, `uploaded_before`, `uploaded_after`: without content where that does not
        hold); or a request's headers for either."""
        found = given.options(options, more, "range only_if", "get()")
        name, condition = given.key(key, MOST_KEY), conditions.read(found.get("only_if"))
        while (row := await self._row(name)) is not None:
            if not condition.holds(row[3], row[4]):
                return _sent(row, None)
            start, length = ranges.read(found.get("range"), row[2])
            try:
                reading = await self._store.read(self._scope[0], row[1], start, length)
            except FileNotFoundError:
                if await self._row(name) == row:
                    raise
                continue  # it was replaced or deleted a moment ago
            part = {"range": {"offset": start, "length": length}} if "range" in found else {}
            if length > PIECE:
                return _sent(row, reading, **part)
            async with contextlib.aclosing(reading):
                return _sent(row, b"".join([piece async for piece in reading]), **part)
        return None

    async def create_multipart_upload(self, key: object, options: object = None, /, **more: object) -> MultipartUpload:
        """Begin an object that comes in parts. Options: `http_metadata`, `custom_metadata`, `storage_class`."""
        found = given.options(options, more, "http_metadata custom_metadata storage_class", "createMultipartUpload()")
        return await uploads.begin(self, given.key(key, MOST_KEY), *_metadata(found))

    def resume_multipart_upload(self, key: object, upload_id: object, /) -> MultipartUpload:
        """Go on with one. Whether it is there shows when it is used."""
        return MultipartUpload(self, given.key(key, MOST_KEY), given.key(upload_id, 64))

    createMultipartUpload, resumeMultipartUpload = create_multipart_upload, resume_multipart_upload  # noqa: N815

    async def head(self, key: object) -> Sent | None:
        """The same without its content."""
        row = await self._row(given.key(key, MOST_KEY))
        return None if row is None else _sent(row, None)

    async def delete(self, keys: object) -> None:
        """Forget an object, or up to 1,000. Harmless where there is none."""
        names = [given.key(key, MOST_KEY) for key in (keys if isinstance(keys, list) else [keys])]
        if len(names) > _PAGE:
            raise ValueError(f"at most {_PAGE:,} objects are deleted at once")

        def work(connection: sqlite3.Connection) -> list[str]:
            gone = []
            for name in names:
                for file, charged in connection.execute(
                    "DELETE FROM objects WHERE tenant = ? AND bucket = ? AND key = ? RETURNING file, charged",
                    (*self._scope, name),
                ).fetchall():
                    self._store.charge(connection, self._scope[0], -charged, -1)
                    gone.append(file)
            return gone

        await self._store.forget(await self._store.work(self._scope[0], work))

    async def list(self, options: object = None, /, **more: object) -> dict[str, Any]:
        """Objects in order of their keys: `{objects, truncated, cursor, delimitedPrefixes}`. Options: `prefix`,
        `limit`, `cursor`, `delimiter`. A page may have fewer, where there is much metadata."""
        found = given.options(options, more, "prefix limit cursor delimiter include start_after", "list()")
        prefix, delimiter = given.text(found, "prefix", MOST_KEY), given.text(found, "delimiter", 64)
        limit = given.number(found, "limit", _PAGE, 1, _PAGE)
        after = given.text(found, "start_after", MOST_KEY)
        start = max(prefix, given.after(found), f"{after}\0" if after else "")
        return await self._store.look(
            self._scope[0], lambda connection: self._listed(connection, prefix, delimiter, start, limit)
        )

    def _listed(
        self, connection: sqlite3.Connection, prefix: str, delimiter: str, start: str, limit: int
    ) -> dict[str, Any]:
        """A page. What is in a folder is not looked at, so that it costs a step for each entry, and no more."""
        objects: list[dict[str, Any]] = []
        folders: list[str] = []
        page = {"objects": objects, "delimitedPrefixes": folders}
        following: str | bytes = start
        within = size = 0
        rows = self._from(connection, prefix, start)
        while (row := next(rows, None)) is not None:
            full = len(objects) + len(folders) >= limit or within > given.MOST_LISTED or size > _MOST_PAGE
            if full and isinstance(following, str):
                return {**page, "truncated": True, "cursor": given.cursor(following)}
            rest = row[0][len(prefix) :]
            if delimiter and delimiter in rest:
                folders.append(prefix + rest[: rest.index(delimiter) + len(delimiter)])
                following = given.beyond(folders[-1])
                rows = self._from(connection, prefix, following)
            else:
                objects.append(_about(row))
                within += given.within(row[5]) + given.within(row[6])
                size += len(row[5]) + len(row[6])
                following = f"{row[0]}\0"
        return {**page, "truncated": False}

    def _from(self, connection: sqlite3.Connection, prefix: str, start: str | bytes) -> Iterator[Any]:
        return connection.execute(
            f"SELECT {_COLUMNS} FROM objects WHERE tenant = ? AND bucket = ? AND key >= ? AND key < ? ORDER BY key",
            (*self._scope, start, given.beyond(prefix)),
        )

    async def _row(self, name: str) -> Any:
        return await self._store.look(
            self._scope[0],
            lambda connection: connection.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE tenant = ? AND bucket = ? AND key = ?", (*self._scope, name)
            ).fetchone(),
        )

    async def _written(self, value: object, room: int, checksum: Checksum | None = None) -> Written:
        expected = 0
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        match value:
            case bytes() | None:
                content, expected = _once(value or b""), len(value or b"")
            case Stub() | RemoteStream():
                content = read(value)
            case _:
                raise TypeError(f"an object is text, bytes or a stream of bytes, not {type(value).__name__}")
        if checksum is not None:
            content = checksum.of(content)
        try:
            return await self._store.write(content, self._scope[0], room, expected=expected)
        except Malformed as error:
            raise ValueError(str(error)) from error

    async def _entered(self, row: Any, condition: Condition) -> bool:
        """Say it, and let go of what is of no use then. Whether it was to be."""
        try:
            unused = await self._store.work(self._scope[0], lambda connection: self._enter(connection, row, condition))
        except BaseException:
            await self._store.forget([row[1]])
            raise
        await self._store.forget(unused)
        return row[1] not in unused

    def _enter(self, connection: sqlite3.Connection, row: Any, condition: Condition) -> Sequence[str]:
        """Say what is under the key now, if it may be. The files that are of no use any longer."""
        before = connection.execute(
            "SELECT file, charged, etag, uploaded FROM objects WHERE tenant = ? AND bucket = ? AND key = ?",
            (*self._scope, row[0]),
        ).fetchone()
        if not condition.holds(*(before[2:] if before else (None, None))):
            return [row[1]]
        charged = row[2] + len(row[0].encode()) + len(row[5]) + len(row[6])
        self._store.charge(connection, self._scope[0], charged - (before[1] if before else 0), 0 if before else 1)
        connection.execute(
            f"INSERT OR REPLACE INTO objects (tenant, bucket, {_COLUMNS}, charged) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (*self._scope, *row, charged),
        )
        return [before[0]] if before else []


def _metadata(found: Mapping[str, Any]) -> tuple[str, str]:
    http_metadata = found.get("http_metadata")
    if (told := given.headers(http_metadata)) is not None:
        told["cache-expiry"] = told.get("expires", "")
        http_metadata = {name: value for name in _HTTP.split() if (value := told.get(name.replace("_", "-")))}
    http = json.dumps(given.options(http_metadata, {}, _HTTP, "http_metadata"))
    custom = given.as_json(found.get("custom_metadata", {}), "custom_metadata", _MOST_ABOUT)
    if len(http) > _MOST_ABOUT or not isinstance(json.loads(custom), dict):
        raise ValueError("metadata are maps of text, and no longer than 8 KiB")
    return http, custom


def _about(row: Any) -> dict[str, Any]:
    key, _, size, etag, uploaded, http, custom = row
    return {
        "key": key, "size": size, "etag": etag, "httpEtag": f'"{etag}"', "version": etag,
        "uploaded": datetime.datetime.fromtimestamp(uploaded, datetime.UTC).replace(tzinfo=None),
        "httpMetadata": {_camel(name): value for name, value in json.loads(http).items()},
        "customMetadata": json.loads(custom), "storageClass": "Standard",
        "checksums": {} if "-" in etag else {"md5": etag},
    }  # fmt: skip


def _sent(row: Any, content: bytes | AsyncIterator[bytes] | None, **more: Any) -> Sent:
    return Sent("Object", {**_about(row), **more}, content)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]
